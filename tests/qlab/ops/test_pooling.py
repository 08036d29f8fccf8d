"""Pooling and interpolation of codes: exact sums, real maxima, PyTorch's sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from qlab import ops
from qlab.dtypes import QDType, as_qdtype, float8_e4m3fn, qint8, qint32, quint8
from qlab.errors import ArgumentError, DTypeError, ShapeError, UnknownNameError
from qlab.granularity import PerAxis
from qlab.qparams import QParams
from tests.qlab.ops.examples import X, Y, codes

TYPES = (quint8, qint8, as_qdtype("qint16"), qint32, float8_e4m3fn)
ADAPTIVE = [f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)]
SLIDING = [f"{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)]


def rank(op: str) -> int:
    return int(op[-2])


def random_codes(dtype: QDType, *shape: int) -> Tensor:
    if dtype.is_float:
        return torch.randn(shape).to(dtype.storage)
    low, high = max(dtype.quant_min, -(2**20)), min(dtype.quant_max, 2**20)
    return torch.randint(low, high, shape).to(dtype.storage)


def by_pytorch(op: str, x: Tensor, qparams: QParams, *options: Any) -> Tensor:
    """The definition in float64: average of ``x - z`` rounded once, or the largest code."""
    function, zero_point = getattr(F, op), int(qparams.zero_point)
    if "max" in op:
        return function(x.double(), *options)
    mean = function(x.double() - zero_point, *options)
    return mean if qparams.dtype.is_float else mean.round() + zero_point


@st.composite
def windows(draw: st.DrawFn, n: int) -> tuple[list[int], tuple[Any, ...]]:
    axis = st.lists(st.integers(1, 3), min_size=n, max_size=n)
    kernel, stride = draw(axis), draw(st.one_of(st.none(), axis))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    sizes = [k + draw(st.integers(0, 6)) for k in kernel]
    return sizes, (kernel, stride, padding)


@given(st.data(), st.sampled_from(SLIDING), st.sampled_from(TYPES))
def test_sliding_windows(data: st.DataObject, op: str, dtype: QDType) -> None:
    n = rank(op)
    sizes, options = data.draw(windows(n))
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    zero_point = 0 if dtype.is_float else max(dtype.quant_min, -5)
    qparams = QParams.per_tensor(0.1, zero_point, dtype)
    batch = [2] if data.draw(st.booleans()) else []
    x = random_codes(dtype, *batch, 3, *sizes)
    rest: tuple[Any, ...] = (data.draw(st.booleans()), data.draw(st.booleans()))
    if "max" in op:
        dilation = data.draw(st.integers(1, 2)) if min(sizes) > 4 else 1
        rest = (dilation, rest[0])
    expected = by_pytorch(op, x, qparams, *options, *rest)
    y = getattr(ops, op)(x, qparams, *options, *rest)
    assert y.dtype == x.dtype
    assert torch.equal(y.double(), expected.to(dtype.storage).double())


@pytest.mark.parametrize("op", ADAPTIVE)
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.name)
def test_adaptive_windows(op: str, size: int, dtype: QDType) -> None:
    qparams = QParams.per_tensor(0.1, 0, dtype)
    x = random_codes(dtype, 2, 3, *[7, 6, 5][: rank(op)])
    y = getattr(ops, op)(x, qparams, size)
    assert y.shape == (2, 3, *[size] * rank(op))
    expected = by_pytorch(op, x, qparams, size).to(dtype.storage)
    assert torch.equal(y.double(), expected.double())


def test_large_channels_last_maps() -> None:
    """PyTorch's own maximum of integers raises on these."""
    x = codes(quint8, 1, 3, 40, 40).contiguous(memory_format=torch.channels_last)
    expected = F.max_pool2d(x.float(), 3, 2, 1).to(torch.uint8)
    y = ops.max_pool2d(x, X, 3, 2, 1)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_a_window_of_one_gives_a_copy() -> None:
    x = codes(quint8, 1, 2, 3, 3)
    y = ops.max_pool2d(x, X, 1)
    y.zero_()
    assert x.any()


@pytest.mark.parametrize("op", [*SLIDING, *ADAPTIVE])
def test_averages_may_have_parameters_of_their_own(op: str) -> None:
    x = codes(quint8, 2, 3, *[6] * rank(op))
    if "max" in op:
        with pytest.raises(TypeError):
            getattr(ops, op)(x, X, 2, y_qparams=Y)
        return
    mean = getattr(F, op)((x.double() - 117) * X.scale.double(), 2)
    expected = ((mean / Y.scale.double()).round() + 131).clamp(0, 255)
    y = getattr(ops, op)(x, X, 2, y_qparams=Y)
    assert (y.double() - expected).abs().max() <= 1


def test_ties_go_to_the_even_neighbour() -> None:
    x = torch.tensor([[[117, 118, 118, 119, 119, 120]]], dtype=torch.uint8)
    assert ops.avg_pool1d(x, X, 2).tolist() == [[[117, 119, 119]]]


@pytest.mark.parametrize("op", [*SLIDING, *ADAPTIVE])
def test_bad_input_is_named(op: str) -> None:
    function, n = getattr(ops, op), rank(op)
    x = codes(quint8, 1, 2, *[4] * n)
    with pytest.raises(DTypeError, match=f"{op}: the input does not hold codes"):
        function(x.float(), X, 2)
    with pytest.raises(ShapeError, match=f"{op}: the input has the wrong number of axes"):
        function(x[0, 0], X, 2)
    rows = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), quint8, PerAxis(1))
    with pytest.raises(ShapeError, match=f"{op}: the input needs one scale"):
        function(x, rows, 2)
    if op in SLIDING:
        with pytest.raises(ArgumentError, match=f"{op}: "):
            function(x, X, 9)
        with pytest.raises(ArgumentError, match=f"{op}: .*padding|{op}: the arguments do not fit"):
            function(x, X, 2, 1, 2)
        with pytest.raises(ArgumentError, match=f"{op}: "):
            function(x, X, 2, 0)


@pytest.mark.parametrize("op", [*SLIDING, *ADAPTIVE])
def test_an_empty_batch_gives_an_empty_output(op: str) -> None:
    x = codes(quint8, 0, 2, *[4] * rank(op))
    assert getattr(ops, op)(x, X, 2).shape == (0, 2, *[2] * rank(op))


LINEAR = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}


@given(st.sampled_from(sorted(LINEAR)), st.booleans(), st.integers(1, 9), st.integers(0, 2**20))
def test_interpolation_is_linear_in_the_codes(
    mode: str, corners: bool, size: int, seed: int
) -> None:
    torch.manual_seed(seed)
    n = LINEAR[mode]
    x = codes(quint8, 2, 3, *[5, 4, 3][:n])
    arguments = ([size] * n, None, mode, corners)
    exact = F.interpolate(x.double() - 117, *arguments).round() + 117
    y = ops.interpolate(x, X, *arguments)
    assert (y.double() - exact.clamp(0, 255)).abs().max() <= 1
    assert (y.double() != exact.clamp(0, 255)).double().mean() < 0.1


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.name)
def test_the_nearest_code_is_copied(mode: str, n: int, dtype: QDType) -> None:
    qparams = QParams.per_tensor(0.1, 0, dtype)
    x = random_codes(dtype, 2, 3, *[5, 4, 3][:n])
    expected = F.interpolate(x.double(), scale_factor=2.0, mode=mode).to(dtype.storage)
    y = ops.interpolate(x, qparams, scale_factor=2.0, mode=mode)
    assert torch.equal(y.double(), expected.double())


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mode": "bilinaer"}, UnknownNameError, "Unknown interpolate mode.*Did you mean 'bilinear'"),
    ({"mode": "linear"}, ShapeError, "wrong number of axes.*3 axes, for mode 'linear'"),
    ({"size": None}, ArgumentError, "interpolate: the arguments do not fit"),
    ({"scale_factor": 2.0}, ArgumentError, "only one of size or scale_factor"),
    ({"align_corners": True}, ArgumentError, "align_corners"),
    ({"size": 0}, ArgumentError, "interpolate: the arguments do not fit"),
    ({"x": torch.rand(1, 2, 3, 3)}, DTypeError, "the input does not hold codes"),
]


@pytest.mark.parametrize("change, error, message", BAD)
def test_bad_interpolation_is_named(change: dict[str, Any], error, message: str) -> None:
    function: Callable[..., Tensor] = ops.interpolate
    call = {"x": codes(quint8, 1, 2, 3, 3), "x_qparams": X, "size": 5}
    function(**call)
    with pytest.raises(error, match=message):
        function(**{**call, **change})
