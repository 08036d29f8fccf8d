"""quantize, dequantize, add, mul and layer_norm by Triton, against the reference kernels."""

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
from qlab.granularity import PerAxis
from qlab.ops import triton_elements
from qlab.qparams import QParams
from tests.qlab.ops.examples import W, X, Y, assert_equal, codes, compared, moved
from tests.qlab.ops.test_triton_gemm import TYPES, scales

SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)
examples = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def along(shape: tuple[int, ...], axis: int, dtype: QDType = qint8) -> QParams:
    """Random scales and zero points along an axis."""
    count = shape[axis]
    zeros = torch.randint(dtype.quant_min, dtype.quant_max + 1, (count,), dtype=torch.int32)
    return QParams(torch.rand(count) * 0.1 + 1e-3, zeros, dtype, PerAxis(axis))


def spread(*shape: int) -> Tensor:
    """Numbers of many magnitudes."""
    return torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-3, 2)


@examples
@given(SHAPES, TYPES, st.data())
def test_quantize_and_dequantize_are_the_reference_bit_by_bit(
    triton_device: torch.device, shape: tuple[int, ...], dtype: QDType, data: Any
):
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    qparams = data.draw(scales(dtype))
    if shape and data.draw(st.booleans()):
        qparams = along(shape, data.draw(st.integers(-len(shape), len(shape) - 1)), dtype)
    kind = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    assert_equal("triton", "quantize", triton_device, spread(*shape).to(kind), qparams)
    assert_equal("triton", "dequantize", triton_device, codes(dtype, *shape), qparams)


def test_quantize_rounds_ties_as_the_reference(triton_device: torch.device):
    x = torch.arange(-300, 300) / 2
    for zero_point in (0, 1, 117):
        q = QParams.per_tensor(1.0, zero_point, quint8)
        assert_equal("triton", "quantize", triton_device, x, q)
    # Where product and sum must be rounded once: three roundings give another code.
    x = (torch.arange(-12700, 12700) + 0.5) * 0.003
    q = QParams.per_tensor(0.003, 131, quint8)
    assert_equal("triton", "quantize", triton_device, torch.cat([x, x.nextafter(x + 1)]), q)


def test_quantize_gives_what_is_no_number_a_code(triton_device: torch.device):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 3.4e38, -0.0])
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy, which warns
        for q in (X, W, along((5,), 0, quint8)):
            assert_equal("triton", "quantize", triton_device, x, q)


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 5000])
def test_elements_may_end_anywhere_in_a_block(triton_device: torch.device, count: int):
    assert_equal("triton", "quantize", triton_device, spread(count), X)
    assert_equal("triton", "dequantize", triton_device, codes(quint8, count), X)
    args = (codes(quint8, count), X, codes(qint8, count), W, Y)
    assert_equal("triton", "add", triton_device, *args)


def test_channels_last_stays_so(triton_device: torch.device):
    x = spread(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert_equal("triton", "quantize", triton_device, x, X)
    with ops.use("triton"):
        made = ops.quantize(x.to(triton_device), X.to(triton_device))
    assert made.is_contiguous(memory_format=torch.channels_last)


@examples
@given(SHAPES, TYPES, TYPES, TYPES, st.booleans(), st.data())
def test_add_and_mul_are_the_reference_bit_by_bit(
    triton_device: torch.device,
    shape: tuple[int, ...],
    a: QDType,
    b: QDType,
    y: QDType,
    relu: bool,
    data: Any,
):
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    qparams = [data.draw(scales(dtype)) for dtype in (a, b, y)]
    args = (codes(a, *shape), qparams[0], codes(b, *shape), qparams[1], qparams[2])
    for op in ("add", "mul"):
        assert_equal("triton", op, triton_device, *args, relu=relu)


@pytest.mark.parametrize("features", [(1,), (7,), (64,), (3, 50), (1025,)])
@pytest.mark.parametrize("given", ["both", "weight", "neither"])
def test_layer_norm_is_within_a_step(
    triton_device: torch.device, features: tuple[int, ...], given: str
):
    weight = torch.rand(features) + 0.5 if given != "neither" else None
    bias = torch.randn(features) if given == "both" else None
    y = QParams.per_tensor(0.03, 3, qint8)
    args = (codes(quint8, 9, 11, *features), X, features, weight, bias, 1e-5, y)
    difference = compared("triton", "layer_norm", triton_device, *args)
    assert difference.abs().max() <= 1
    assert difference.count_nonzero() <= max(1, difference.numel() // 1000)


def test_layer_norm_of_rows_without_variance(triton_device: torch.device):
    x = torch.full((3, 8), 200, dtype=torch.uint8)
    args = (x, X, (8,), None, torch.linspace(-1, 1, 8), 1e-5, Y)
    assert_equal("triton", "layer_norm", triton_device, *args)


def test_on_a_cpu_the_place_is_asked_before_everything_else():
    """So that operators on CPU do not pay for types, shapes and strides of calls on CUDA."""
    why = "the tensors are on the CPU"
    strided = torch.zeros(4, 6)[:, ::2]
    wide = QParams.per_tensor(0.1, 0, integer(16, signed=True))
    assert (triton_elements.quantize_obstacle(strided, wide) or "").startswith(why)
    assert (triton_elements.dequantize_obstacle(strided, wide) or "").startswith(why)
    found = triton_elements.combine_obstacle(strided, wide, torch.zeros(1), wide, wide, relu=True)
    assert (found or "").startswith(why)


WIDE = QParams.per_tensor(0.1, 0, integer(16, signed=True))
OBSTACLES = [
    ("quantize", (torch.zeros(3, dtype=torch.float64), X), "not float32, float16 or bfloat16"),
    ("quantize", (torch.zeros(0), X), "there are no elements"),
    ("quantize", (torch.zeros(4, 6)[:, ::2], X), "do not lie densely"),
    (
        "quantize",
        (torch.zeros(4), QParams.per_tensor(0.1, 0, integer(16, signed=True))),
        "at most 8 bits",
    ),
    ("quantize", (torch.zeros(4), along((5,), 0)), "the scales do not fit the tensor"),
    ("dequantize", (codes(qint8, 3), X), "does not hold codes of quint8"),
    ("add", (codes(quint8, 3), X, codes(quint8, 1), X, Y), "lie differently in memory"),
    ("mul", (codes(quint8, 3), X, codes(qint8, 3), along((3,), 0), Y), "more than one scale"),
    ("layer_norm", (codes(quint8, 3), X, (4,), None, None, 1e-5, Y), "at the end of the input"),
    ("layer_norm", (codes(quint8, 1, 2**15), X, (2**15,), None, None, 0.0, Y), "16384 features"),
    ("layer_norm", (codes(quint8, 3), X, (3,), torch.ones(2), None, 0.0, Y), "weight or bias"),
    ("layer_norm", (codes(quint8, 3), X, (3,), None, None, -1.0, Y), "eps is negative"),
]


@pytest.mark.parametrize(("op", "args", "message"), OBSTACLES)
def test_obstacles_are_named(
    triton_device: torch.device, op: str, args: tuple[Any, ...], message: str
):
    with ops.use("triton"), pytest.raises(UnsupportedError, match=message):
        getattr(ops, op)(*moved(args, triton_device))
