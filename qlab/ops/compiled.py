"""Kernels compiled by Numba: one pass over memory where PyTorch's operators need about ten.

They give the codes of the reference kernels, bit by bit, on tensors of 8-bit codes that lie
densely in a CPU's memory. Small tensors are left to the reference kernels, which are as fast there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qlab.ops.windows import Ints, windows
from qlab.qparams import QParams

#: Elements from which on compiled loops win, and are worth the second that compiling takes.
WORTHWHILE = 512
_THREE_DOUBLES, _TWO_FLOATS = ctypes.c_double * 3, ctypes.c_float * 2
CODES = {torch.uint8: "uint8", torch.int8: "int8"}


@cache
def unavailable() -> str | None:
    """Why this process has no compiled loops, or None."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        return f"Numba cannot be imported: {error}"
    return None


def _loops() -> Any:
    from qlab.ops import loops

    return loops


def form_obstacle(what: str, codes: object, qparams: object) -> str | None:
    """Why something is not codes in 8-bit integers, whatever their scales are, or None.

    Args:
        what: It, in words.
        codes: None for an output, which has none yet.
        qparams: Its parameters.
    """
    if not isinstance(qparams, QParams) or qparams.dtype.storage not in CODES:
        return f"the {what}'s type is not an integer of at most 8 bits"
    if qparams.float_zero_point:
        return f"the {what}'s zero point is a real number, not a code"
    if not torch.compiler.is_compiling() and not qparams.sound:
        return f"the {what}'s scale or zero point is none"
    if codes is not None and getattr(codes, "dtype", None) != qparams.dtype.storage:
        return f"the {what} does not hold codes of {qparams.dtype.name}"
    return None


def codes_obstacle(what: str, codes: object, qparams: object) -> str | None:
    """As `form_obstacle`, and why the codes have more than one scale."""
    found = form_obstacle(what, codes, qparams)
    if found is None and isinstance(qparams, QParams) and qparams.scale.dim():
        found = f"the {what} has more than one scale"
    return found


def _memory_obstacle(*tensors: Tensor) -> str | None:
    """Why the loops cannot run through some tensors side by side, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile makes loops of its own"
    first = tensors[0]
    for tensor in tensors:
        if type(tensor) is not Tensor or tensor.device.type != "cpu":
            return "an operand is not a plain tensor on the CPU"
        if tensor.shape != first.shape or tensor.stride() != first.stride():
            return "the operands lie differently in memory"
    if first.numel() < WORTHWHILE:
        return f"fewer than {WORTHWHILE} elements"
    if not (first.is_contiguous() or channels_last(first)):
        return "the codes do not lie densely in memory"
    return unavailable()


def channels_last(x: Tensor) -> bool:
    """Whether a tensor of four axes lies in memory with its channels last."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


@cache
def inverse(scale: float) -> float:
    """``1 / scale`` in float32."""
    return float(1.0 / torch.tensor(scale, dtype=torch.float32))


def add_obstacle(
    a: Tensor, a_qparams: QParams, b: Tensor, b_qparams: QParams, y_qparams: QParams, **more: object
) -> str | None:
    """Why the loop does not add two tensors, or None."""
    return (
        codes_obstacle("first operand", a, a_qparams)
        or codes_obstacle("second operand", b, b_qparams)
        or codes_obstacle("output", None, y_qparams)
        or (None if isinstance(more.get("relu", False), bool) else "relu is no switch")
        or _memory_obstacle(a, b)
    )


def add(
    a: Tensor,
    a_qparams: QParams,
    b: Tensor,
    b_qparams: QParams,
    y_qparams: QParams,
    *,
    relu: bool = False,
) -> Tensor:
    """`qlab.ops.add` of operands without obstacle."""
    made = Sum.of((a, a_qparams), (b, b_qparams), y_qparams, relu)
    assert made is not None
    return made(a, b)


@dataclass(frozen=True, slots=True)
class Sum:
    """`add` bound to everything but the codes, for operands like those that it was made with.

    Attributes:
        shape: Of both operands.
        stride: Likewise.
        dtypes: Of the first, the second and the result.
        loop: The compiled loop for these types.
        numbers: What it takes after the addresses and the length.
    """

    shape: torch.Size
    stride: tuple[int, ...]
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]
    loop: Callable[..., None]
    numbers: tuple[float, ...]

    @classmethod
    def of(
        cls, a: tuple[Tensor, QParams], b: tuple[Tensor, QParams], y: QParams, relu: bool
    ) -> Sum | None:
        """None where the loop does not apply."""
        if add_obstacle(*a, *b, y) is not None:
            return None
        dtypes = a[0].dtype, b[0].dtype, y.dtype.storage
        loop = _loops().add(*(CODES[dtype] for dtype in dtypes))
        return cls(a[0].shape, a[0].stride(), dtypes, loop, _numbers_of_sum(a[1], b[1], y, relu))

    def serves(self, a: object, b: object) -> bool:
        """Whether two operands are like those that it was made with."""
        return (
            type(a) is Tensor
            and type(b) is Tensor
            and a.dtype is self.dtypes[0]
            and b.dtype is self.dtypes[1]
            and a.is_cpu
            and b.is_cpu
            and a.shape == self.shape == b.shape
            and a.stride() == self.stride == b.stride()
        )

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        result = torch.empty_like(a, dtype=self.dtypes[2])
        addresses = a.data_ptr(), b.data_ptr(), result.data_ptr()
        self.loop(*addresses, result.numel(), *self.numbers)
        return result


def _numbers_of_sum(a: QParams, b: QParams, y: QParams, relu: bool) -> tuple[float, ...]:
    zero_point = y.zero_point_value
    low = y.quant_min - zero_point
    return (
        a.scale_value, a.zero_point_value, b.scale_value, b.zero_point_value,
        inverse(y.scale_value), zero_point,
        max(low, 0) if relu else low, y.quant_max - zero_point,
    )  # fmt: skip


def quantize_obstacle(x: Tensor, qparams: QParams) -> str | None:
    """Why the loop does not quantize a tensor, or None."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return "the input is not float32"
    return codes_obstacle("output", None, qparams) or _memory_obstacle(x)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """`qlab.ops.quantize` of an input without obstacle."""
    result = torch.empty_like(x, dtype=qparams.dtype.storage)
    _loops().quantize(CODES[result.dtype])(
        x.data_ptr(), result.data_ptr(), x.numel(), inverse(qparams.scale_value),
        qparams.zero_point_value, qparams.quant_min, qparams.quant_max,
    )  # fmt: skip
    return result


def dequantize_obstacle(codes: Tensor, qparams: QParams) -> str | None:
    """Why the loop does not read a tensor, or None."""
    return codes_obstacle("input", codes, qparams) or _memory_obstacle(codes)


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """`qlab.ops.dequantize` of codes without obstacle."""
    result = torch.empty_like(codes, dtype=torch.float32)
    numbers = qparams.scale_value, qparams.zero_point_value
    loop = _loops().dequantize(CODES[codes.dtype])
    loop(codes.data_ptr(), result.data_ptr(), codes.numel(), *numbers)
    return result


class Quantized:
    """int8 codes of float32 numbers by their own range, again and again in the same memory.

    They are what `qlab.ops.dynamic.dynamic_qparams` and `qlab.qparams.quantize` give for quint8,
    less 128.

    Args:
        shape: Of the codes.
        limits: Smallest and largest code of quint8.
        least: The smallest scale.

    Attributes:
        codes: The last ones.
        found: Their scale, their zero point as quint8, and whether a number was not finite.
    """

    __slots__ = ("_ends", "_loop", "_rest", "codes", "found")

    def __init__(self, shape: Sequence[int], limits: tuple[int, int], least: float) -> None:
        self.codes = torch.empty(shape, dtype=torch.int8)
        self.found, self._ends = _THREE_DOUBLES(), _TWO_FLOATS()
        self._loop = _loops().quantize_dynamic()
        memory = self.codes.data_ptr(), self.found, self._ends, self._ends
        self._rest = *memory, self.codes.numel(), *limits, least

    def __call__(self, at: int) -> bool:
        """Quantizes what lies densely at an address; False, and no codes, if not finite."""
        self._loop(at, at, *self._rest)
        return not self.found[2]


def quantize_dynamic(
    x: Tensor, limits: tuple[int, int], least: float
) -> tuple[Tensor, float, int] | None:
    """Codes, scale and zero point as by `Quantized`, both less 128; None where not finite.

    Args:
        x: Real numbers that lie densely in a CPU's memory.
        limits: Smallest and largest code.
        least: The smallest scale.
    """
    made = Quantized(x.shape, limits, least)
    finite = made(x.data_ptr())
    scale, zero_point, _ = made.found
    return (made.codes, scale, int(zero_point) - 128) if finite else None


def int_mm(a: Tensor, b: Tensor) -> Tensor:
    """The int32 product of two int8 matrices."""
    return torch._int_mm(a, b)  # pyright: ignore[reportPrivateImportUsage]


def mean_obstacle(x: Tensor, x_qparams: QParams, y_qparams: QParams | None) -> str | None:
    """Why the loop does not average a tensor over its last two axes, or None."""
    if y_qparams is not None:
        return "the output has parameters of its own"
    found = codes_obstacle("input", x, x_qparams) or _memory_obstacle(x)
    if found is None and (not channels_last(x) or x.shape[2] * x.shape[3] > 2**22):
        return "the channels do not come last in memory, or int32 may not hold the sums"
    return found


def mean(x: Tensor, x_qparams: QParams) -> Tensor:
    """(N, C, H, W) without obstacle → (N, C, 1, 1), in the input's parameters."""
    n, channels, height, width = x.shape
    result = torch.empty((n, channels, 1, 1), dtype=x.dtype)
    sums = torch.empty(channels, dtype=torch.int32)
    _loops().mean(CODES[x.dtype])(
        x.data_ptr(), result.data_ptr(), sums.data_ptr(), n, height * width, channels,
        x_qparams.zero_point_value, x_qparams.quant_min, x_qparams.quant_max,
    )  # fmt: skip
    return result


class Product:
    """A linear layer as a function of int8 codes, their scale and their zero point.

    It computes ``f32(acc) · (s_x · s_w) + b``, the sums by ``torch._int_mm``, whose calls cost less
    than those of oneDNN's own integer linear.

    Args:
        weight: int8, (out, in), zero points 0.
        w_scale: One, or one per output.
        bias: float32, (out,), or None.
        relu: Clamp negative results to 0.

    Attributes:
        outputs: Length of a result's row.
        turned: The weight, (in, out).
        addresses: Of what it keeps per output: int32 sums of the weight, scales, bias.
    """

    __slots__ = ("_kept", "_loop", "_low", "addresses", "outputs", "turned")

    def __init__(
        self, weight: Tensor, w_scale: Tensor, bias: Tensor | None, relu: bool = False
    ) -> None:
        self.outputs = len(weight)
        offsets = weight.sum(1, dtype=torch.int32)
        scales = w_scale.detach().reshape(-1).expand(self.outputs).contiguous().clone()
        added = torch.zeros(self.outputs) if bias is None else bias.detach().clone()
        self.turned = weight.detach().t().clone(memory_format=torch.contiguous_format)
        self._low = 0.0 if relu else -torch.inf
        self._loop, self._kept = _loops().affine(), (offsets, scales, added)
        self.addresses = offsets.data_ptr(), scales.data_ptr(), added.data_ptr()

    def __call__(self, x: Tensor, scale: float, zero_point: int) -> Tensor:
        sums = int_mm(x.view(-1, x.shape[-1]), self.turned)
        result = torch.empty((*x.shape[:-1], self.outputs), dtype=torch.float32)
        sizes = len(sums), self.outputs
        at = sums.data_ptr(), *self.addresses, result.data_ptr()
        self._loop(*at, *sizes, zero_point, scale, self._low)
        return result


def interleaved(x: Tensor) -> Tensor:
    """Three-channel codes with the channels last in memory, as integer convolutions read them."""
    n, channels, *sizes = x.shape
    if channels != 3 or len(sizes) != 2 or not x.is_contiguous() or unavailable():
        return x
    result = torch.empty_like(x, memory_format=torch.channels_last)
    _loops().interleave()(x.data_ptr(), result.data_ptr(), n, sizes[0] * sizes[1])
    return result


def maximum_obstacle(x: Tensor, x_qparams: QParams, *sizes: object, **more: object) -> str | None:
    """Why the loop does not pool a tensor, or None."""
    found = codes_obstacle("input", x, x_qparams) or _memory_obstacle(x)
    return found or (None if channels_last(x) else "the channels do not come last in memory")


def max_pool2d(
    x: Tensor,
    x_qparams: QParams,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`qlab.ops.max_pool2d` of an input without obstacle."""
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    rows, columns = windows("max_pool2d", x, 2, *options)
    n, channels, height, width = x.shape
    shape = (n, channels, rows.count, columns.count)
    result = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    scratch = torch.empty(width * channels, dtype=x.dtype)
    _loops().maximum(CODES[x.dtype])(
        x.data_ptr(), result.data_ptr(), scratch.data_ptr(),
        n, height, width, channels, rows.count, columns.count,
        rows.kernel, columns.kernel, rows.stride, columns.stride,
        rows.padding, columns.padding, rows.dilation, columns.dilation,
        torch.iinfo(x.dtype).min,
    )  # fmt: skip
    return result
