"""TensorSpec: valid or refused, hashable, readable, and the same after JSON."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.dtypes import all_dtypes, as_qdtype, integer, qint8, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    FormatError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import choose_qparams
from qlab.ranges import MSE, Entropy, Fixed, MinMax, MovingAverage, Percentile, TensorSpec
from qlab.stats import TensorStats

policies = st.one_of(
    st.just(MinMax()),
    st.just(MSE()),
    st.floats(0.001, 1).map(MovingAverage),
    st.floats(50.1, 100).map(Percentile),
    st.floats(1e-6, 1e6).map(lambda scale: Fixed(scale, 0)),
)
granularities = st.one_of(
    st.just(PerTensor()),
    st.integers(-3, 3).map(PerAxis),
    st.builds(PerGroup, st.integers(1, 64), st.integers(-2, 2)),
)


@st.composite
def specs(draw) -> TensorSpec:
    dtype = draw(st.sampled_from(all_dtypes()))
    return TensorSpec(
        dtype,
        symmetric=draw(st.booleans()),
        granularity=draw(granularities),
        policy=draw(policies),
        reduce_range=not dtype.is_float and draw(st.booleans()),
        eps=draw(st.floats(1e-12, 1.0)),
    )


class TestJson:
    @given(specs())
    def test_gives_an_equal_spec_with_an_equal_hash(self, spec: TensorSpec):
        again = TensorSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert again == spec
        assert hash(again) == hash(spec)

    def test_keeps_custom_codes(self):
        spec = TensorSpec(qint8, quant_min=-127, policy=Entropy(512))
        assert TensorSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    def test_fills_in_defaults(self):
        assert TensorSpec.from_dict({}) == TensorSpec()

    def test_refuses_unknown_fields_and_names(self):
        with pytest.raises(FormatError, match=r"no such field.*dtype, symmetric.*Received bits"):
            TensorSpec.from_dict({"bits": 8})
        with pytest.raises(UnknownNameError, match="data type 'int9'"):
            TensorSpec.from_dict({"dtype": "int9"})
        with pytest.raises(UnknownNameError, match="granularity"):
            TensorSpec.from_dict({"granularity": {"kind": "per_row"}})


class TestFields:
    def test_read_a_type_by_name(self):
        assert TensorSpec(as_qdtype("qint8")) == TensorSpec("qint8")  # type: ignore[arg-type]

    def test_are_told_apart(self):
        assert len({TensorSpec(), TensorSpec(symmetric=True), TensorSpec(policy=MSE())}) == 3

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"dtype": "quint9"}, UnknownNameError, "Did you mean 'quint"),
            ({"dtype": 8}, DTypeError, "Not a quantized data type"),
            ({"granularity": "per_tensor"}, DTypeError, r"granularity.*instance of Granularity"),
            ({"policy": "mse"}, DTypeError, r"policy.*instance of RangePolicy.*'mse'"),
            ({"policy": MSE}, DTypeError, "policy has the wrong type"),
            ({"quant_min": -1}, ArgumentError, r"does not fit quint8.*quant_min=-1"),
            ({"quant_min": 9, "quant_max": 9}, ArgumentError, "range of codes"),
            ({"quant_max": 300}, ArgumentError, "quant_max=300"),
            ({"eps": 0.0}, ArgumentError, "eps must be positive"),
            ({"symmetric": True, "float_zero_point": True}, ArgumentError, "affine integers"),
            ({"policy": MSE(), "float_zero_point": True}, UnsupportedError, r"contain 0.*MinMax"),
            ({"policy": Entropy(), "float_zero_point": True}, UnsupportedError, "contain 0"),
            (
                {"dtype": "float8_e5m2", "reduce_range": True},
                DTypeError,
                "reduce_range applies to integer types",
            ),
        ],
    )
    def test_are_checked(self, arguments, error, message: str):
        with pytest.raises(error, match=message):
            TensorSpec(**arguments)

    def test_set_the_codes_in_use(self):
        assert TensorSpec(qint8, reduce_range=True).limits == (-64, 63)
        assert TensorSpec(quint8, quant_max=100).limits == (0, 100)
        qparams = TensorSpec(qint8, True, quant_min=-127).qparams_of(torch.tensor([-1.0, 0.5]))
        assert qparams.scale_value == pytest.approx(1 / 127)
        assert (qparams.quant_min, qparams.quant_max) == (-127, 127)

    def test_bound_the_scale_from_below(self):
        qparams = TensorSpec(eps=0.01).qparams_of(torch.tensor([0.0, 1e-3]))
        assert qparams.scale_value == pytest.approx(0.01)


class TestWithBits:
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
    def test_keeps_everything_else(self, bits: int, signed: bool):
        spec = TensorSpec(integer(8, signed=signed), True, PerAxis(1), MSE(), eps=1e-3)
        narrowed = spec.with_bits(bits)
        assert narrowed.dtype is integer(bits, signed=signed)
        assert narrowed.with_bits(8) == spec

    def test_drops_codes_of_another_width(self):
        assert TensorSpec(qint8, quant_min=-127).with_bits(4).limits == (-8, 7)

    def test_makes_an_integer_of_float8(self):
        assert TensorSpec(as_qdtype("float8_e4m3fn")).with_bits(8).dtype is qint8

    @pytest.mark.parametrize("bits", [0, 1, 9, 64])
    def test_refuses_other_widths(self, bits: int):
        with pytest.raises(ArgumentError, match=f"has {bits} bits.*2, 3, 4"):
            TensorSpec().with_bits(bits)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TensorSpec.int8_weight(), "int8 symmetric per channel, min-max"),
        (TensorSpec.int8_weight(axis=1), "int8 symmetric per index of axis 1, min-max"),
        (TensorSpec.uint8_activation(policy=MSE()), "uint8 affine per tensor, least squared error"),
        (
            TensorSpec(as_qdtype("float8_e5m2"), policy=Percentile(99.9)),
            "float8_e5m2 per tensor, percentile 99.9",
        ),
        (
            TensorSpec(integer(4, signed=False), False, PerGroup(32), reduce_range=True),
            "uint4 affine per group of 32 in codes 0 to 7, min-max",
        ),
        (
            TensorSpec(policy=Fixed(1 / 256, 0)),
            "uint8 affine per tensor, fixed at scale 0.00390625, zero point 0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_describes_itself(spec: TensorSpec, words: str):
    assert spec.describe() == words


class TestQParamsOf:
    def test_per_tensor_is_that_of_the_statistics(self):
        x = torch.randn(3, 1000)
        for policy in (MinMax(), MovingAverage(), Percentile(), MSE(), Entropy()):
            spec = TensorSpec(policy=policy)
            assert spec.qparams_of(x).same_as(spec.qparams(TensorStats.of(x)))

    def test_per_group_covers_each_group(self):
        x = torch.randn(2, 6)
        qparams = TensorSpec(qint8, True, PerGroup(3)).qparams_of(x)
        groups = x.reshape(2, 2, 3)
        expected = choose_qparams(groups.amin(-1), groups.amax(-1), qint8, symmetric=True)
        assert torch.equal(qparams.scale, expected.scale)

    def test_takes_half_precision(self):
        x = torch.randn(4, 50).half()
        spec = TensorSpec.int8_weight()
        assert spec.qparams_of(x).same_as(spec.qparams_of(x.float()))

    @pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0)], ids=repr)
    def test_refuses_integers(self, granularity):
        with pytest.raises(DTypeError, match="real numbers"):
            TensorSpec(granularity=granularity).qparams_of(torch.ones(2, 2, dtype=torch.int8))

    def test_refuses_a_shape_that_does_not_fit(self):
        with pytest.raises(ShapeError, match="no axis 2"):
            TensorSpec(granularity=PerAxis(2)).qparams_of(torch.ones(2, 2))
        with pytest.raises(ShapeError, match="does not divide"):
            TensorSpec(granularity=PerGroup(3)).qparams_of(torch.ones(2, 4))

    def test_names_the_scales_without_a_finite_value(self):
        x = torch.ones(2, 4)
        x[1, 2:] = torch.nan
        with pytest.raises(NonFiniteError, match=r"scales \[3\]"):
            TensorSpec(granularity=PerGroup(2)).qparams_of(x)
