"""Transposed convolutions on codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypedDict, Unpack

from torch import Tensor
from torch.nn import functional as F

from qlab.errors import ArgumentError, ShapeError
from qlab.ops import checks
from qlab.ops.calls import (
    LAYOUT,
    Call,
    ConvCall,
    Geometry,
    Ints,
    check_call,
    check_result_size,
    geometry,
    refuse_unknown,
)
from qlab.ops.exact import exact_obstacle, no_obstacle, run_exact, run_simulated
from qlab.ops.kernels import Kernel, Operator
from qlab.ops.packed import PackedWeight
from qlab.qparams import QParams

_CONV = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(slots=True)
class ConvTransposeCall(ConvCall):
    """The transpose of a convolution: x (N, in, *), W (in, out / groups, *kernel)."""

    output_padding: tuple[int, ...]

    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        convolve = _CONV[len(self.stride)]
        sizes = (self.stride, self.padding, self.output_padding)
        return convolve(x, weight, None, *sizes, self.groups, self.dilation)

    @property
    def depth(self) -> int:
        return self.weight.numel() // max(self.outputs, 1)

    @property
    def output_axis(self) -> int | None:
        return 1

    @property
    def outputs(self) -> int:
        return self.weight.shape[1] * self.groups

    def per_channel(self, values: Tensor) -> Tensor:
        repeats = self.outputs // values.numel() if values.numel() > 1 else 1
        return values.repeat(repeats).reshape(-1, *(1,) * len(self.stride))


def _bind(
    op: str,
    n: int,
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    relu: bool = False,
    packed: PackedWeight | None = None,
    **unknown: object,
) -> ConvTransposeCall:
    """Checks the arguments of `conv_transpose1d`, `conv_transpose2d` and `conv_transpose3d`."""
    checks.codes(op, "input", x, x_qparams)
    checks.dims(op, "input", x, (n + 2,), LAYOUT[n])
    checks.tensor(op, "weight", weight)
    checks.dims(op, "weight", weight, (n + 2,), "(in_channels, out_channels / groups, *kernel)")
    if isinstance(padding, str):
        raise ArgumentError(
            f"{op}: the padding must be given in numbers", received=f"padding {padding!r}"
        )
    refuse_unknown(op, unknown, _OPTIONS)
    options = stride, padding, dilation, groups
    layout = geometry(op, tuple(weight.shape[2:]), *options, "zeros")
    extra = checks.whole_numbers(op, "output padding", output_padding, n, minimum=0)
    _check_shapes(op, x, weight, layout, extra)
    zeros = tuple(before for before, _ in layout.pads)
    call = ConvTransposeCall(
        x, x_qparams, weight, w_qparams, bias, y_qparams, relu, packed,
        layout.stride, zeros, layout.dilation, layout.groups, extra,
    )  # fmt: skip
    check_call(op, call)
    return call


def _check_shapes(
    op: str, x: Tensor, weight: Tensor, layout: Geometry, extra: tuple[int, ...]
) -> None:
    if x.shape[1] != weight.shape[0] or x.shape[1] % layout.groups:
        raise ShapeError(
            f"{op}: channels, weight and groups do not fit each other",
            expected="in_channels = the weight's first axis, divisible by groups",
            received=f"input {tuple(x.shape)}, weight {tuple(weight.shape)},"
            f" groups {layout.groups}",
        )
    if not all(x.shape[2:]):
        raise ShapeError(
            f"{op}: an axis of the input has no elements", received=f"shape {tuple(x.shape)}"
        )
    steps = zip(layout.stride, layout.dilation, extra, strict=True)
    if any(more >= max(stride, dilation) for stride, dilation, more in steps):
        raise ArgumentError(
            f"{op}: the output padding is too wide",
            expected="less than the stride or the dilation",
            received=f"output_padding {extra}, stride {layout.stride}, dilation {layout.dilation}",
        )
    sizes = [
        (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + more + 1
        for size, stride, (pad, _), dilation, kernel, more in zip(
            x.shape[2:], layout.stride, layout.pads, layout.dilation, weight.shape[2:], extra,
            strict=True,
        )
    ]  # fmt: skip
    if any(size < 1 for size in sizes):
        raise ShapeError(
            f"{op}: the padding leaves nothing of the output",
            received=f"input {tuple(x.shape)}, kernel {tuple(weight.shape[2:])},"
            f" padding {tuple(pad for pad, _ in layout.pads)}",
        )
    check_result_size(op, x, weight, sizes)


_OPTIONS = ("stride", "padding", "output_padding", "groups", "dilation", "relu", "packed")
_KERNELS: tuple[Kernel[Call], ...] = (
    Kernel("reference", exact_obstacle, run_exact),
    Kernel("simulated", no_obstacle, run_simulated),
)
_conv: dict[int, Operator[Call]] = {
    n: Operator(f"conv_transpose{n}d", partial(_bind, f"conv_transpose{n}d", n), _KERNELS)
    for n in (1, 2, 3)
}


class ConvTransposeOptions(TypedDict, total=False):
    """Keyword arguments of `conv_transpose1d`, `conv_transpose2d` and `conv_transpose3d`.

    Attributes:
        stride: Step of the window in the output, one number or one per axis; 1.
        padding: Elements taken off both sides of the output; 0.
        output_padding: Elements added to one side of the output; less than stride or dilation; 0.
        groups: Number of channel groups; 1.
        dilation: Distance between kernel elements; 1.
        relu: Clamp negative results to 0 before requantization.
        packed: Cache for the weight in a kernel's own layout; keep one per layer.
    """

    stride: Ints
    padding: Ints
    output_padding: Ints
    groups: int
    dilation: Ints
    relu: bool
    packed: PackedWeight | None


def conv_transpose1d(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    **options: Unpack[ConvTransposeOptions],
) -> Tensor:
    """`conv_transpose2d` over one axis: x (N, C, L), weight (C, out_channels / groups, kernel)."""
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    return _conv[1](_conv[1].bind(*arguments, **options))


def conv_transpose2d(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    **options: Unpack[ConvTransposeOptions],
) -> Tensor:
    """The transpose of a convolution on codes, over two axes, as ``F.conv_transpose2d``.

    The formula is that of `qlab.ops.linear`, with ``acc`` the exact sum over channels and kernel
    window.

    Args:
        x: Codes of shape (N, C, H, W).
        x_qparams: The input's scale and zero point, per tensor.
        weight: Codes of shape (C, out_channels / groups, kH, kW).
        w_qparams: Per tensor or per axis 1, which the groups share; any other granularity, and
            types wider than 8 bits or float8, run the ``simulated`` kernel.
        bias: float32 of shape (out_channels,), real units, finite; or None.
        y_qparams: The output's scale and zero point; None gives a float32 output.
        **options: See `ConvTransposeOptions`.

    Returns:
        Codes of shape (N, out_channels, H', W') with ``H' = (H - 1) · stride - 2 · padding +
        dilation · (kH - 1) + output_padding + 1``, dtype ``y_qparams.dtype.storage``; or float32.

    Raises:
        DTypeError: Real numbers instead of codes, or codes of another type.
        ShapeError: Shapes, scales or bias do not fit, groups do not divide the channels, or the
            padding leaves nothing.
        ArgumentError: A stride, padding, output padding or dilation that makes no sense.
        NonFiniteError: NaN or infinity in the bias.
    """
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    return _conv[2](_conv[2].bind(*arguments, **options))


def conv_transpose3d(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    **options: Unpack[ConvTransposeOptions],
) -> Tensor:
    """`conv_transpose2d` over three axes: x (N, C, D, H, W), weight (C, out / groups, *kernel)."""
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    return _conv[3](_conv[3].bind(*arguments, **options))
