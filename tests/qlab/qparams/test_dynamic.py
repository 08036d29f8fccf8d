import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.dtypes import qint8, quint8
from qlab.errors import ArgumentError, NonFiniteError, UncalibratedError
from qlab.qparams import choose_dynamic_qparams, choose_qparams, dequantize, quantize

BOUNDS = st.floats(-1e4, 1e4, width=32)


def chosen(low, high, dtype=quint8, **options):
    return choose_dynamic_qparams(torch.tensor(low), torch.tensor(high), dtype, **options)


@given(low=BOUNDS, high=BOUNDS, dtype=st.sampled_from([quint8, qint8]))
def test_affine_parameters_cover_the_range(low, high, dtype):
    low, high = min(low, high), max(low, high)
    qparams = chosen(low, high, dtype)
    ends = torch.tensor([min(low, 0.0), max(high, 0.0), 0.0])
    back = dequantize(quantize(ends, qparams), qparams)
    assert (back - ends).abs().max() <= qparams.scale_value * 0.501
    assert back[2] == 0
    if high - low > 1:
        plain = choose_qparams(torch.tensor(low), torch.tensor(high), dtype)
        assert qparams.scale_value == pytest.approx(plain.scale_value, rel=1e-6)
        assert abs(qparams.zero_point_value - plain.zero_point_value) <= 1


@pytest.mark.parametrize(
    ("low", "high", "options", "scale", "zero_point"),
    [
        (-1.0, 3.0, {"symmetric": True}, 3 / 127, 0),
        (-3.0, 1.0, {"symmetric": True}, 3 / 128, 0),
        (-1.0, 3.0, {"symmetric": True, "quant_min": -127, "quant_max": 127}, 765 / 32258, 0),
        (0.5, 3.0, {"symmetric": True}, 3 / 255, -128),
        (-3.0, -0.5, {"symmetric": True}, 3 / 255, 127),
        (0.0, 0.0, {}, 0.1, 127),
        (0.0, 1e-5, {}, 6.1e-5, -128),
        (-1e-5, 0.0, {}, 6.1e-5, 127),
        (-1e-5, 1e-5, {}, 6.1e-5, 0),
    ],
)
def test_values_of_the_reference(low, high, options, scale, zero_point):
    qparams = chosen(low, high, qint8, **options)
    assert qparams.scale_value == pytest.approx(scale)
    assert abs(qparams.zero_point_value - zero_point) <= (1 if low == -high else 0)


def test_ranges_are_checked():
    with pytest.raises(UncalibratedError, match="No range to choose from"):
        chosen(torch.inf, -torch.inf)
    with pytest.raises(NonFiniteError, match="must be finite"):
        chosen(0.0, torch.inf)
    with pytest.raises(ArgumentError, match="does not fit quint8"):
        chosen(0.0, 1.0, quant_max=300)
