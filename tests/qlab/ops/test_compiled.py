"""The compiled loops give the codes of the reference kernels, bit by bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab import ops, qint8, quint8
from qlab.dtypes import qint32, quint4x2
from qlab.errors import ArgumentError, DTypeError, UnsupportedError
from qlab.ops import compiled
from qlab.qparams import QParams

SHAPES = ((4096,), (2, 3, 32, 32), (1, 64, 8, 9), (3, 5, 7, 101))
LAST = {"memory_format": torch.channels_last}
scales = st.floats(1e-4, 1e3)


@st.composite
def params(draw, dtypes=(quint8, qint8, quint4x2)) -> QParams:
    dtype = draw(st.sampled_from(dtypes))
    zero_point = draw(st.integers(dtype.quant_min, dtype.quant_max))
    return QParams.per_tensor(draw(scales), zero_point, dtype)


def codes(qparams: QParams, shape: tuple[int, ...], seed: int, last: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = qparams.quant_min, qparams.quant_max + 1
    x = torch.randint(low, high, shape, dtype=qparams.dtype.storage, generator=generator)
    return x.to(memory_format=torch.channels_last) if last and x.dim() == 4 else x


def both(function, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    """What the compiled loop gives, and what the reference kernel does."""
    with ops.use("compiled"):
        fast = function(*args, **kwargs)
    with ops.use("reference"):
        exact = function(*args, **kwargs)
    assert (fast.dtype, fast.shape) == (exact.dtype, exact.shape)
    return fast, exact


@given(params(), params(), params(), st.sampled_from(SHAPES), st.booleans(), st.booleans())
def test_add_equals_the_reference(a, b, y, shape, relu, last):
    operands = codes(a, shape, 0, last), a, codes(b, shape, 1, last), b
    fast, exact = both(ops.add, *operands, y, relu=relu)
    assert torch.equal(fast, exact)
    assert fast.stride() == operands[0].stride()


@given(params(), st.sampled_from(SHAPES), st.booleans())
def test_quantize_equals_the_reference(y, shape, last):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator) * 100 * y.scale
    x.view(-1)[:5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38])
    ties = (torch.arange(256) - 128.5) * y.scale
    x.view(-1)[5:261] = ties
    x = x.to(memory_format=torch.channels_last) if last and x.dim() == 4 else x
    fast, exact = both(ops.quantize, x, y)
    assert torch.equal(fast, exact)


@given(params(), st.sampled_from(SHAPES), st.booleans())
def test_dequantize_equals_the_reference(y, shape, last):
    fast, exact = both(ops.dequantize, codes(y, shape, 7, last), y)
    assert torch.equal(fast, exact)


def test_sums_that_overflow_are_zero_as_in_the_reference():
    huge, y = QParams.per_tensor(3e38, 128, quint8), QParams.per_tensor(1.0, 3, quint8)
    a = torch.full((4096,), 255, dtype=torch.uint8)
    b = torch.zeros(4096, dtype=torch.uint8)
    fast, exact = both(ops.add, a, huge, b, huge, y)  # inf - inf
    assert torch.equal(fast, exact)
    assert bool((fast == 3).all())


@given(
    st.sampled_from((quint8, qint8)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 1), st.integers(1, 3)),
    st.booleans(),
    st.sampled_from(((1, 64, 8, 9), (2, 3, 40, 23), (1, 512, 3, 5))),
)
def test_max_pool2d_equals_the_reference(dtype, sizes, ceil_mode, shape):
    x_qparams = QParams.per_tensor(0.1, 0, dtype)
    x = codes(x_qparams, shape, 5, last=True)
    kernel, stride, padding, dilation = sizes
    options = (kernel, stride, min(padding, kernel // 2), dilation, ceil_mode)
    try:
        with ops.use("reference"):
            ops.max_pool2d(x, x_qparams, *options)
    except ArgumentError as error:
        with ops.use("compiled"), pytest.raises(ArgumentError, match=r"window is larger"):
            ops.max_pool2d(x, x_qparams, *options)
        assert "window is larger" in str(error)
        return
    fast, exact = both(ops.max_pool2d, x, x_qparams, *options)
    assert torch.equal(fast, exact)


@given(params((quint8, qint8)), st.sampled_from(((1, 64, 8, 9), (2, 3, 40, 23), (3, 512, 1, 1))))
def test_the_mean_of_all_pixels_equals_the_reference(x_qparams, shape):
    x = codes(x_qparams, shape, 5, last=True)
    fast, exact = both(ops.adaptive_avg_pool2d, x, x_qparams, (1, 1))
    assert torch.equal(fast, exact)
    tie = x.new_tensor([x_qparams.quant_min, x_qparams.quant_min + 1]).repeat(1, 512, 1, 1)
    fast, exact = both(ops.adaptive_avg_pool2d, tie.contiguous(**LAST), x_qparams, 1)
    assert torch.equal(fast, exact)


def test_windows_of_nothing_but_padding():
    x_qparams = QParams.per_tensor(0.1, 0, qint8)
    x = codes(x_qparams, (1, 2048, 2, 2), 5, last=True)
    fast, exact = both(ops.max_pool2d, x, x_qparams, 2, 1, 1, 3)
    assert torch.equal(fast, exact)
    assert bool((fast == -128).all())


def test_channels_of_images_are_interleaved():
    x = codes(QParams.per_tensor(0.1, 0, quint8), (2, 3, 5, 7), 5, last=False)
    last = compiled.interleaved(x)
    assert torch.equal(last, x)
    assert last.is_contiguous(memory_format=torch.channels_last)
    other = codes(QParams.per_tensor(0.1, 0, quint8), (2, 4, 5, 7), 5, last=False)
    assert compiled.interleaved(other) is other


X = QParams.per_tensor(0.1, 3, quint8)
A = torch.zeros(64, 64, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("function", "arguments", "why"),
    [
        (ops.add, (A[:7], X, A[:7], X, X), "fewer than 512"),
        (ops.add, (A, X, A.t(), X, X), "lie differently"),
        (ops.add, (A.repeat(1, 2)[:, ::2], X, A.repeat(1, 2)[:, ::2], X, X), "densely"),
        (ops.add, (A.int(), QParams.per_tensor(0.1, 3, qint32), A, X, X), "first operand's type"),
        (ops.add, (A, X, A, X, QParams.per_tensor(0.1, 3, qint32)), "output's type"),
        (ops.quantize, (torch.zeros(64, 64, dtype=torch.float64), X), "not float32"),
        (ops.adaptive_avg_pool2d, (torch.zeros(1, 2, 64, 64, dtype=torch.uint8), X, 1), "last"),
        (ops.adaptive_avg_pool2d, (A.view(1, 64, 8, 8).contiguous(**LAST), X, 2), "one pixel"),
        (ops.max_pool2d, (torch.zeros(1, 2, 64, 64, dtype=torch.uint8), X, 2), "channels"),
    ],
)
def test_what_the_loops_leave_to_others(function, arguments, why):
    with ops.use("compiled"), pytest.raises(UnsupportedError, match=why):
        function(*arguments)
    assert ops.kernel_for(function.__name__, *arguments) == "reference"


def test_wrong_codes_are_the_operators_own_error():
    with pytest.raises(DTypeError, match="first operand does not hold codes of quint8"):
        ops.add(A.float(), X, A, X, X)


def test_without_numba_the_reference_runs(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    compiled.unavailable.cache_clear()
    try:
        assert "cannot be imported" in str(compiled.unavailable())
        assert ops.kernel_for("add", A, X, A, X, X) == "reference"
    finally:
        monkeypatch.undo()
        compiled.unavailable.cache_clear()
    assert ops.kernel_for("add", A, X, A, X, X) == "compiled"
