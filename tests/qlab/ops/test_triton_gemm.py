"""linear by Triton and by `torch._int_mm`: the integers of the reference kernel."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qlab import ops
from qlab.dtypes import QDType, integer, qint8, quint8
from qlab.errors import UnsupportedError
from qlab.ops import onednn
from qlab.qparams import QParams
from tests.qlab.ops.examples import W, X, Y, assert_equal, codes, half_steps, per_channel

TYPES = st.sampled_from([quint8, qint8, integer(4, signed=False), integer(5, signed=True)])
CPU = torch.device("cpu")
examples = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
needs_exact_products = pytest.mark.skipif(
    onednn.unavailable() is not None, reason=f"oneDNN: {onednn.unavailable()}"
)


@st.composite
def scales(draw: st.DrawFn, dtype: QDType, channels: int | None = None) -> QParams:
    """Parameters of a type, per channel if their number is given, with any zero point."""
    zero_point = draw(st.integers(dtype.quant_min, dtype.quant_max))
    if channels is not None and draw(st.booleans()):
        return per_channel(channels, dtype, zero_point=draw(st.sampled_from([0, zero_point])))
    return QParams.per_tensor(draw(st.sampled_from([0.004, 0.03, 0.7])), zero_point, dtype)


@st.composite
def layers(draw: st.DrawFn, most: int = 70) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of `qlab.ops.linear`."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rows, outputs = draw(st.sampled_from([1, 2, 17, most])), draw(st.integers(1, most))
    depth = draw(st.integers(1, most))
    x_type, w_type = draw(TYPES), draw(TYPES)
    y = draw(st.none() | st.builds(lambda t: t, TYPES.flatmap(scales)))
    bias = torch.randn(outputs) if draw(st.booleans()) else None
    x, weight = codes(x_type, rows, depth), codes(w_type, outputs, depth)
    given = (x, draw(scales(x_type)), weight, draw(scales(w_type, outputs)), bias, y)
    return given, {"relu": draw(st.booleans())}


@examples
@given(layers())
def test_linear_is_the_reference_bit_by_bit(triton_device: torch.device, layer: Any):
    args, options = layer
    assert_equal("triton", "linear", triton_device, *args, **options)


@pytest.mark.parametrize(
    ("rows", "outputs", "depth"), [(1, 1, 1), (130, 140, 64), (16, 129, 65), (3, 4, 0), (0, 4, 3)]
)
def test_rows_outputs_and_depth_may_end_anywhere(
    triton_device: torch.device, rows: int, outputs: int, depth: int
):
    w_qparams = per_channel(outputs, zero_point=-3)
    layer = (codes(qint8, outputs, depth), w_qparams, torch.randn(outputs), Y)
    x = codes(quint8, rows, depth)
    assert_equal("triton", "linear", triton_device, x, X, *layer)


def test_axes_before_the_features_and_strides_do_not_matter(triton_device: torch.device):
    x = codes(quint8, 12, 3, 5).movedim(0, -1)
    assert not x.is_contiguous()
    assert_equal("triton", "linear", triton_device, x, X, codes(qint8, 7, 12), W, None, Y)


def test_ties_are_rounded_to_even_after_the_zero_point(triton_device: torch.device):
    x, weight = torch.arange(256).to(torch.uint8)[:, None], torch.ones(1, 1, dtype=torch.int8)
    one = QParams.per_tensor(0.5, 0, quint8)
    for zero_point in (0, 1, 100):
        y = QParams.per_tensor(1.0, zero_point, quint8)
        assert_equal("triton", "linear", triton_device, x, one, weight, W_ONE, None, y)
    y = half_steps(torch.tensor(0.05 * 0.02), 2)
    args = (codes(quint8, 40, 9), X, codes(qint8, 6, 9), W, None, y)
    assert_equal("triton", "linear", triton_device, *args)


W_ONE = QParams.per_tensor(1.0, 0, qint8)


def test_sums_that_leave_float32s_whole_numbers_are_exact(triton_device: torch.device):
    x, weight = torch.full((1, 2000), 255, dtype=torch.uint8), codes(qint8, 3, 2000).abs()
    zero = QParams.per_tensor(0.05, 0, quint8)
    assert_equal("triton", "linear", triton_device, x, zero, weight, W, None, None)


def test_output_types_that_the_kernel_does_not_write_are_left_to_pytorch(
    triton_device: torch.device,
):
    wide = QParams.per_tensor(1e-3, 5, integer(16, signed=True))
    layer = (codes(quint8, 3, 9), X, codes(qint8, 4, 9), W, None, wide)
    assert_equal("triton", "linear", triton_device, *layer, relu=True)


def test_nan_of_scales_that_overflow_becomes_the_zero_point(triton_device: torch.device):
    huge = QParams.per_tensor(3e38, 117, quint8), QParams.per_tensor(3e38, 0, qint8)
    x = torch.full((2, 3), 117, dtype=torch.uint8)  # 0 · inf
    layer = (x, huge[0], codes(qint8, 4, 3), huge[1], None, Y)
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy, which warns
        assert_equal("triton", "linear", triton_device, *layer)


def test_a_packed_layer_is_prepared_once_and_again_when_it_changes(triton_device: torch.device):
    packed = ops.PackedWeight()
    weight, bias = codes(qint8, 4, 9).to(triton_device), torch.randn(4, device=triton_device)
    parameters = [q.to(triton_device) for q in (X, W, Y)]

    def both(x: Tensor) -> None:
        args = (x.to(triton_device), parameters[0], weight, parameters[1], bias, parameters[2])
        with ops.use("triton"):
            fast = ops.linear(*args, packed=packed)
        with ops.use("reference"):
            assert torch.equal(fast, ops.linear(*args))

    both(codes(quint8, 3, 9))
    prepared = packed.get("triton", (weight,), (parameters[0], parameters[1]), lambda: None)
    assert prepared is not None
    both(codes(quint8, 5, 9))
    assert packed.get("triton", (weight,), (parameters[0], parameters[1]), lambda: None) is prepared
    weight.fill_(3)
    bias.fill_(2.0)
    both(codes(quint8, 3, 9))


def test_codes_that_int32_may_not_sum_have_an_obstacle(triton_device: torch.device):
    x = torch.zeros(1, 2**17, dtype=torch.uint8, device=triton_device)
    weight = torch.zeros(1, 2**17, dtype=torch.int8, device=triton_device)
    with ops.use("triton"), pytest.raises(UnsupportedError, match="131072 products may overflow"):
        ops.linear(x, X.to(triton_device), weight, W.to(triton_device), None, None)


@examples
@given(layers())
@needs_exact_products
def test_int_mm_is_the_reference_bit_by_bit(layer: Any):
    args, options = layer
    assert_equal("int_mm", "linear", CPU, *args, **options)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@given(layers())
def test_int_mm_on_cuda_is_the_reference_bit_by_bit(layer: Any):
    args, options = layer
    assert_equal("int_mm", "linear", torch.device("cuda"), *args, **options)


def test_on_the_cpu_both_kernels_must_be_asked_for():
    layer = (codes(quint8, 3, 4), X, codes(qint8, 6, 4), W, None, Y)
    assert ops.kernel_for("linear", *layer) in ("onednn", "reference")


def test_other_obstacles_of_int_mm_are_named():
    layer = (codes(quint8, 0, 4), X, codes(qint8, 6, 4), W, None, Y)
    wide = QParams.per_tensor(0.1, 0, integer(16, signed=True))
    with ops.use("int_mm"), pytest.raises(UnsupportedError, match="int_mm: the input's type qint1"):
        ops.linear(torch.zeros(3, 4, dtype=torch.int16), wide, *layer[2:])
