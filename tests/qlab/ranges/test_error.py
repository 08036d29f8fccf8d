"""The error that statistics predict is the one that data shows."""

import math

import pytest
import torch

from qlab.counting import KEPT_VALUES
from qlab.dtypes import as_qdtype, integer, qint8, quint8
from qlab.errors import DTypeError, ShapeError, UnsupportedError
from qlab.granularity import PerAxis, PerGroup
from qlab.qparams import QParams, fake_quantize
from qlab.ranges import (
    MinMax,
    Percentile,
    QuantizationError,
    TensorSpec,
    expected_error,
    histogram_error,
    measured_error,
)
from qlab.stats import TensorStats
from tests.qlab.ranges.samples import DISTRIBUTIONS, distribution

ZERO = QuantizationError(0.0, 0.0, 0.0, 0.0, 0.0, 0)


class TestExpected:
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    @pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
    @pytest.mark.parametrize("policy", [MinMax(), Percentile(99.5)], ids=lambda p: p.name)
    def test_is_within_1_percent_of_measured(self, name: str, symmetric: bool, policy):
        x = distribution(name)
        stats = TensorStats.of(x)
        for bits in (2, 3, 4, 5, 6, 7, 8):
            spec = TensorSpec(integer(bits, signed=symmetric), symmetric, policy=policy)
            qparams = spec.qparams(stats)
            expected, measured = histogram_error(stats, qparams), measured_error(x, qparams)
            assert expected.total == pytest.approx(measured.total, rel=0.01), bits
            assert expected.signal == pytest.approx(measured.signal, rel=1e-6)
            assert expected.clipping == pytest.approx(
                measured.clipping, rel=0.01, abs=0.01 * measured.total
            ), bits
            # Values may lie on the very edge of what is clipped.
            assert expected.clipped_share == pytest.approx(measured.clipped_share, abs=0.003)
            assert expected.rmse_over_scale == pytest.approx(measured.rmse_over_scale, rel=0.01)
            assert expected.count == measured.count

    @pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
    @pytest.mark.parametrize("shrink", [1.0, 0.2])
    @pytest.mark.parametrize("name", ["normal", "student-t", "relu", "shifted", "grey values"])
    def test_is_within_1_percent_for_float8(self, dtype: str, shrink: float, name: str):
        x = distribution(name)
        stats, spec = TensorStats.of(x), TensorSpec(as_qdtype(dtype))
        bound = x.abs().max() * shrink
        qparams = spec.choose(-bound, bound)
        expected, measured = histogram_error(stats, qparams), measured_error(x, qparams)
        assert expected.total == pytest.approx(measured.total, rel=0.01)
        assert expected.clipped_share == pytest.approx(measured.clipped_share, abs=0.001)

    def test_of_a_narrowed_float8_uses_its_levels(self):
        x = torch.randn(5000)
        spec = TensorSpec(as_qdtype("float8_e4m3fn"), quant_min=-100, quant_max=100)
        qparams = spec.qparams(TensorStats.of(x))
        expected = histogram_error(TensorStats.of(x), qparams)
        assert expected.total == pytest.approx(measured_error(x, qparams).total, rel=0.01)

    def test_is_within_1_percent_for_16_bits(self):
        x = distribution("normal")
        stats = TensorStats.of(x)
        qparams = TensorSpec(integer(16, signed=True), symmetric=True).qparams(stats)
        measured = measured_error(x, qparams).total
        assert histogram_error(stats, qparams).total == pytest.approx(measured, rel=0.01)

    def test_is_within_1_percent_for_a_float_zero_point(self):
        x = distribution("normal") * 0.2 + 7.3
        spec = TensorSpec(integer(4, signed=False), float_zero_point=True)
        stats = TensorStats.of(x)
        qparams = spec.qparams(stats)
        assert qparams.zero_point.is_floating_point()
        measured = measured_error(x, qparams)
        assert histogram_error(stats, qparams).total == pytest.approx(measured.total, rel=0.01)
        assert measured.rmse_over_scale == pytest.approx(12**-0.5, rel=0.05)

    def test_of_everything_clipped(self):
        x = torch.linspace(5, 6, 1000)
        qparams = QParams.per_tensor(0.01, 0, quint8)
        expected = histogram_error(TensorStats.of(x), qparams)
        assert expected.rounding == 0
        assert expected.clipped_share == 1
        exact = float((x.double() - 2.55).square().sum())
        assert expected.clipping == pytest.approx(exact, rel=1e-5)

    def test_of_no_data_is_zero(self):
        qparams = QParams.per_tensor(0.1, 0, quint8)
        assert histogram_error(TensorStats(), qparams) == ZERO
        assert measured_error(torch.zeros(0), qparams) == ZERO

    def test_needs_one_scale(self):
        qparams = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), qint8, PerAxis(0))
        with pytest.raises(UnsupportedError, match=r"one scale per tensor.*measured_error"):
            histogram_error(TensorStats.of(torch.ones(2, 2)), qparams)

    def test_needs_a_histogram(self):
        with pytest.raises(UnsupportedError, match="hold no histogram"):
            histogram_error(TensorStats(histogram=False), QParams.per_tensor(0.1, 0, quint8))


class TestMeasured:
    @pytest.mark.parametrize("granularity", [PerAxis(0), PerAxis(1), PerGroup(4)], ids=repr)
    def test_adds_up_over_scales(self, granularity):
        x = torch.randn(6, 8) * torch.arange(1, 9)
        qparams = TensorSpec(qint8, True, granularity).qparams_of(x)
        error = measured_error(x, qparams)
        exact = (x - fake_quantize(x, qparams)).double().square()
        assert error.total == pytest.approx(float(exact.sum()), rel=1e-6)
        per_code = exact / granularity.expand(qparams.scale, x.shape).double().square()
        assert error.rmse_over_scale == pytest.approx(float(per_code.mean().sqrt()), rel=1e-6)

    def test_parts_rounding_from_clipping(self):
        # Codes 0 to 3 in steps of 1: 3.4 rounds to the last code, 3.6 is clipped to it.
        x = torch.tensor([0.25, 3.4, 3.6, 5.0, -1.0])
        error = measured_error(x, QParams.per_tensor(1.0, 0, integer(2, signed=False)))
        assert error.rounding == pytest.approx(0.25**2 + 0.4**2, rel=1e-5)
        assert error.clipping == pytest.approx(0.6**2 + 2**2 + 1, rel=1e-5)
        assert error.clipped_share == 3 / 5

    def test_leaves_non_finite_values_out(self):
        x = torch.randn(100)
        qparams = QParams.per_tensor(0.01, 3, quint8)
        dirty = torch.cat([x, torch.tensor([torch.nan, torch.inf, -torch.inf])])
        assert measured_error(dirty, qparams) == measured_error(x, qparams)

    def test_refuses_what_does_not_fit(self):
        with pytest.raises(DTypeError, match=r"real numbers.*Received torch.int64"):
            measured_error(torch.ones(3, dtype=torch.int64), QParams.per_tensor(1.0, 0, quint8))
        per_axis = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), qint8, PerAxis(0))
        with pytest.raises(ShapeError, match="does not fit"):
            measured_error(torch.ones(3), per_axis)


class TestFigures:
    def test_have_their_formulas(self):
        error = QuantizationError(3.0, 1.0, 400.0, 0.1, 50.0, 200)
        assert error.total == 4.0
        assert error.sqnr_db == pytest.approx(20.0)
        assert error.nmse == pytest.approx(0.01)
        assert error.rmse_over_scale == 0.5

    def test_of_evenly_spread_data_is_one_over_root_twelve(self):
        x = torch.rand(100_000)
        qparams = TensorSpec().qparams_of(x)
        assert measured_error(x, qparams).rmse_over_scale == pytest.approx(12**-0.5, rel=0.01)

    def test_without_noise_or_signal_are_defined(self):
        assert (ZERO.sqnr_db, ZERO.nmse, ZERO.rmse_over_scale) == (math.inf, 0.0, 0.0)
        noise = QuantizationError(1.0, 0.0, 0.0, 0.0, 1.0, 1)
        assert (noise.sqnr_db, noise.nmse) == (-math.inf, math.inf)


def test_of_few_values_the_error_is_theirs_and_of_many_the_histogram_s():
    x = torch.randn(KEPT_VALUES, generator=torch.Generator().manual_seed(3))
    for qparams in (QParams.per_tensor(0.02, 120, quint8), QParams.per_tensor(0.5, 0, qint8)):
        few, parts = TensorStats.of(x), TensorStats.of(x[:100]).merge(TensorStats.of(x[100:]))
        assert expected_error(few, qparams) == expected_error(parts, qparams)
        assert expected_error(few, qparams).total == pytest.approx(
            measured_error(x, qparams).total, rel=1e-12
        )
        many = few.merge(TensorStats.of(x[:1]))
        assert expected_error(many, qparams) == histogram_error(many, qparams)
        assert histogram_error(few, qparams) != expected_error(few, qparams)


def test_the_expected_error_too_is_of_one_scale_and_a_histogram():
    with pytest.raises(UnsupportedError, match="one scale per tensor"):
        scales = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), qint8, PerAxis(0))
        expected_error(TensorStats.of(torch.ones(2, 2)), scales)
    with pytest.raises(UnsupportedError, match="no histogram"):
        expected_error(TensorStats(histogram=False), QParams.per_tensor(0.1, 0, quint8))
    assert expected_error(TensorStats(), QParams.per_tensor(0.1, 0, quint8)) == ZERO
