"""Inputs that are quantized as they come."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab import ops
from qlab.dtypes import float8_e4m3fn, qint8, qint32, quint8
from qlab.errors import DTypeError, NonFiniteError, ShapeError
from qlab.granularity import PerAxis, PerTensor
from qlab.ops.dynamic import SMALLEST_SCALE
from qlab.qparams import QParams, dequantize, quantize

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=8), st.sampled_from([quint8, qint8]), st.booleans())
def test_every_input_is_represented_within_half_a_step(values, dtype, reduce_range):
    x = torch.tensor(values)
    qparams = ops.dynamic_qparams(x, dtype, reduce_range=reduce_range)
    qparams.check()
    error = (dequantize(quantize(x, qparams), qparams) - x).abs().max().item()
    # The zero point is rounded too, so that an end of the range may lie half a step further off.
    assert error <= qparams.scale_value * 1.0001 + 1e-6 * x.abs().max().item()
    assert dequantize(quantize(torch.zeros(1), qparams), qparams).item() == 0.0


def test_range_and_reduced_range():
    x = torch.tensor([-1.0, 3.0])
    full, half = (ops.dynamic_qparams(x, reduce_range=reduce) for reduce in (False, True))
    assert full.scale_value == pytest.approx(4 / 255) and full.zero_point_value == 64
    assert half.scale_value == pytest.approx(4 / 127) and half.zero_point_value == 32
    assert (half.quant_min, half.quant_max) == (0, 127)


@pytest.mark.parametrize(
    ("x", "scale"),
    [
        (torch.zeros(3), 0.1),
        (torch.zeros(0), 0.1),
        (torch.tensor([1e-6]), SMALLEST_SCALE),
        (torch.tensor([-1e-6, 1e-7]), SMALLEST_SCALE),
    ],
)
def test_small_ranges(x, scale):
    assert ops.dynamic_qparams(x).scale_value == pytest.approx(scale)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_input_must_be_finite(bad):
    with pytest.raises(NonFiniteError, match="Dynamic quantization: the input must be finite"):
        ops.dynamic_qparams(torch.tensor([1.0, bad]))


def test_types():
    with pytest.raises(DTypeError, match="dynamic quantization takes real numbers"):
        ops.dynamic_qparams(torch.tensor([1]))
    for dtype in (float8_e4m3fn, qint32):
        with pytest.raises(DTypeError, match="integers of at most 8 bits"):
            ops.dynamic_qparams(torch.ones(2), dtype)


@pytest.mark.parametrize("dtype", [quint8, qint8])
def test_linear_is_the_formula_on_any_kernel(dtype, device):
    x, bias = torch.randn(4, 8, device=device), torch.randn(5, device=device)
    w_qparams = QParams.per_tensor(0.02, 0, qint8, device)
    weight = quantize(torch.randn(5, 8, device=device), w_qparams)
    qparams = ops.dynamic_qparams(x, dtype)
    rounded = dequantize(quantize(x, qparams), qparams)
    want = torch.relu(rounded @ dequantize(weight, w_qparams).T + bias)
    with ops.use("reference"):
        exact = ops.linear_dynamic(x, weight, w_qparams, bias, dtype=dtype, relu=True)
    chosen = ops.linear_dynamic(x, weight, w_qparams, bias, dtype=dtype, relu=True)
    torch.testing.assert_close(exact, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(chosen, exact)


def test_the_weight_is_packed_once_for_inputs_of_any_scale():
    w_qparams, packed = QParams.per_tensor(0.02, 0, qint8), ops.PackedWeight()
    weight = quantize(torch.randn(5, 8), w_qparams)
    for scale in (1.0, 50.0, 0.1):
        x = torch.randn(4, 8) * scale
        kept = ops.linear_dynamic(x, weight, w_qparams, None, packed=packed)
        assert torch.equal(kept, ops.linear_dynamic(x, weight, w_qparams, None))


def test_shapes():
    w_qparams = QParams.per_tensor(0.02, 0, qint8)
    with pytest.raises(ShapeError, match="8 features along the last axis"):
        ops.linear_dynamic(torch.ones(2, 7), torch.ones(5, 8, dtype=torch.int8), w_qparams, None)


def test_the_result_has_the_input_s_type():
    w_qparams = QParams.per_tensor(0.02, 0, qint8)
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    y = ops.linear_dynamic(x, torch.ones(5, 8, dtype=torch.int8), w_qparams, None)
    assert y.dtype == torch.bfloat16


SPECIAL = st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 6e-5, 3e38, -3e38, 127.5, -64.5])


@given(
    st.lists(st.one_of(FLOATS, SPECIAL), min_size=3, max_size=12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_packed_layer_gives_what_the_definition_does(values, reduce, relu, each, biased):
    """Bit by bit: the compiled range, codes and product against those of the definition."""
    x = torch.tensor(values[: len(values) // 3 * 3]).reshape(-1, 3)
    weight = torch.tensor([[1, -128, 127], [5, 0, -3]], dtype=torch.int8)
    scale = torch.tensor([0.01, 0.3]) if each else torch.tensor(0.02)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    granularity = PerAxis(0) if each else PerTensor()
    w_qparams = QParams(scale, zeros, qint8, granularity)
    bias = torch.tensor([0.5, -7.0]) if biased else None
    options = {"reduce_range": reduce, "relu": relu}
    fast = ops.linear_dynamic(x, weight, w_qparams, bias, **options, packed=ops.PackedWeight())
    with ops.use("reference"):
        exact = ops.linear_dynamic(x, weight, w_qparams, bias, **options)
    torch.testing.assert_close(fast, exact, rtol=0, atol=0, equal_nan=True)


def test_a_packed_layer_notices_changes_and_refuses_what_the_definition_refuses():
    packed, w_qparams = ops.PackedWeight(), QParams.per_tensor(0.1, 0, qint8)
    weight, x = torch.tensor([[1, 2, 3]], dtype=torch.int8), torch.tensor([[1.0, 2.0, 4.0]])
    first = ops.linear_dynamic(x, weight, w_qparams, None, packed=packed)
    weight.neg_()
    assert torch.equal(ops.linear_dynamic(x, weight, w_qparams, None, packed=packed), -first)
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(NonFiniteError, match="the input must be finite"):
            ops.linear_dynamic(torch.full((1, 3), bad), weight, w_qparams, None, packed=packed)
    with pytest.raises(ShapeError, match="features along the last axis"):
        ops.linear_dynamic(torch.ones(1, 4), weight, w_qparams, None, packed=packed)
    turned = torch.ones(3, 2).t()  # not dense
    assert ops.linear_dynamic(turned, weight, w_qparams, None, packed=packed).shape == (2, 1)
