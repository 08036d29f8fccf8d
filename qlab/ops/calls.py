"""Checked calls of the operators that sum products: linear, convolution and matmul.

Each says how it contracts two tensors of any number type, so that one exact kernel and one
simulated kernel serve all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.errors import ArgumentError, ShapeError, UnknownNameError
from qlab.ops import checks
from qlab.ops.packed import PackedWeight
from qlab.ops.padding import PADDING_MODES, pad_codes
from qlab.qparams import QParams

Ints = int | Sequence[int]
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
#: Elements of an output, beyond which no address reaches.
_MOST = 2**47
LAYOUT = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}


@dataclass(slots=True)
class Call(ABC):
    """Codes and parameters of one product of two quantized tensors.

    Attributes:
        x: Codes of the activation.
        weight: Codes of the weight; for matmul of the second operand.
        bias: float32, one number per output channel, or None.
        y_qparams: The output's parameters; None for a float32 output.
        relu: Whether negative results become 0 before requantization.
        packed: Cache for kernels that keep the weight in a layout of their own.
        integer_bias: Whether the bias is summed as an integer; see `qlab.ops.linear`.
    """

    x: Tensor
    x_qparams: QParams
    weight: Tensor
    w_qparams: QParams
    bias: Tensor | None
    y_qparams: QParams | None
    relu: bool
    packed: PackedWeight | None
    integer_bias: bool = field(default=False, kw_only=True)

    @abstractmethod
    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        """The sum of products of ``x`` and ``weight``, in their number type."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many products are summed for one output."""

    @property
    @abstractmethod
    def output_axis(self) -> int | None:
        """The weight's axis that belongs to the output; None where it may have one scale only."""

    @property
    def outputs(self) -> int:
        """How many output channels there are, each with a number of the bias."""
        return self.weight.shape[0]

    @abstractmethod
    def per_channel(self, values: Tensor) -> Tensor:
        """Views one value per output channel so that it broadcasts against the output."""


@dataclass(slots=True)
class LinearCall(Call):
    """``y = x Wᵀ + b`` with x (*, in), W (out, in)."""

    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    @property
    def depth(self) -> int:
        return self.weight.shape[1]

    @property
    def output_axis(self) -> int | None:
        return 0

    def per_channel(self, values: Tensor) -> Tensor:
        return values


@dataclass(slots=True)
class MatmulCall(Call):
    """``y = a b`` with a (*, n, k), b (*, k, m)."""

    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.matmul(x, weight)

    @property
    def depth(self) -> int:
        return self.x.shape[-1]

    @property
    def output_axis(self) -> int | None:
        return None

    def per_channel(self, values: Tensor) -> Tensor:
        return values


@dataclass(slots=True)
class ConvCall(Call):
    """Convolution over the last ``n`` axes; ``padding`` is symmetric and stands for zeros.

    Any other padding has already been applied to ``x``.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def contract(self, x: Tensor, weight: Tensor) -> Tensor:
        convolve = _CONV[len(self.stride)]
        return convolve(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    @property
    def depth(self) -> int:
        return self.weight.numel() // max(self.weight.shape[0], 1)

    @property
    def output_axis(self) -> int | None:
        return 0

    def per_channel(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *(1,) * len(self.stride))


def output_sizes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Sizes of a convolution's output, one per axis: ``(size + 2p - d(k - 1) - 1) // s + 1``."""
    axes = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return tuple((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in axes)


def _check_parameters(op: str, call: Call) -> None:
    weight, w_qparams, bias = call.weight, call.w_qparams, call.bias
    checks.codes(op, "weight", weight, w_qparams)
    w_qparams.granularity.check_values(w_qparams.scale, weight.shape, f"{op} weight's scale")
    if bias is not None:
        checks.vector(op, "bias", bias, (call.outputs,))
        _check_device(op, "bias", bias, weight)
        checks.finite(op, "bias", bias)


def check_call(op: str, call: Call) -> None:
    """What every weighted call needs; what concerns its parameters alone, once per packed layer."""
    weight, bias = call.weight, call.bias
    check_options(op, call.relu, call.packed)
    checks.switch(op, "integer_bias", call.integer_bias)
    if call.y_qparams is not None:
        checks.parameters(op, "output", call.y_qparams)
    if call.packed is None:
        _check_parameters(op, call)
    else:
        call.packed.get(
            "checked", (weight, bias), call.w_qparams, lambda: _check_parameters(op, call)
        )
    if bias is not None and bias.requires_grad:
        call.bias = bias.detach()
    _check_device(op, "input", call.x, weight)


def check_options(op: str, relu: object, packed: object) -> None:
    """Raises `ArgumentError` unless ``relu`` is a switch, and ``packed`` a cache or None."""
    checks.switch(op, "relu", relu)
    if not isinstance(packed, PackedWeight | None):
        raise ArgumentError(
            f"{op}: packed keeps the weight in a kernel's layout",
            expected="a qlab.ops.PackedWeight, or None",
            received=type(packed).__name__,
        )


def _check_device(op: str, what: str, value: Tensor, weight: Tensor) -> None:
    if value.device != weight.device:
        raise ArgumentError(
            f"{op}: {what} and weight are on different devices",
            expected=f"both on {weight.device}",
            received=f"{what} on {value.device}",
        )


def bind_linear(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    *,
    relu: bool = False,
    integer_bias: bool = False,
    packed: PackedWeight | None = None,
    op: str = "linear",
) -> LinearCall:
    """Checks the arguments of `qlab.ops.linear`."""
    checks.codes(op, "input", x, x_qparams)
    checks.tensor(op, "weight", weight)
    checks.dims(op, "weight", weight, (2,), "(out_features, in_features)")
    if x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"{op}: the input does not fit the weight",
            expected=f"{weight.shape[1]} features along the last axis",
            received=f"shape {tuple(x.shape)}",
        )
    call = LinearCall(
        x, x_qparams, weight, w_qparams, bias, y_qparams, relu, packed, integer_bias=integer_bias
    )
    check_call(op, call)
    return call


def _broadcast(a: torch.Size, b: torch.Size) -> bool:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return all(m == n or 1 in (m, n) for m, n in pairs)


def bind_matmul(
    a: Tensor,
    a_qparams: QParams,
    b: Tensor,
    b_qparams: QParams,
    y_qparams: QParams | None,
    *,
    relu: bool = False,
) -> MatmulCall:
    """Checks the arguments of `qlab.ops.matmul`."""
    checks.codes("matmul", "first operand", a, a_qparams)
    checks.codes("matmul", "second operand", b, b_qparams)
    depths_differ = not a.dim() or not b.dim() or a.shape[-1] != b.shape[max(b.dim() - 2, 0)]
    if depths_differ or not _broadcast(a.shape[:-2], b.shape[:-2]):
        raise ShapeError(
            "matmul: the operands do not fit each other",
            expected="shapes (*, n, k) and (*, k, m), the leading axes equal or 1",
            received=f"{tuple(a.shape)} and {tuple(b.shape)}",
        )
    checks.switch("matmul", "relu", relu)
    if y_qparams is not None:
        checks.parameters("matmul", "output", y_qparams)
    checks.same_device("matmul", a, b)
    return MatmulCall(a, a_qparams, b, b_qparams, None, y_qparams, relu, None)


@dataclass(frozen=True)
class Geometry:
    """How a convolution slides: what its options mean for one shape of weight."""

    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    mode: str

    @property
    def symmetric_zeros(self) -> bool:
        """Whether the padding is left to the kernel, as zeros."""
        return self.mode == "zeros" and all(before == after for before, after in self.pads)


def geometry(
    op: str,
    kernel: tuple[int, ...],
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
    mode: str,
) -> Geometry:
    """Reads a convolution's options.

    Raises:
        ArgumentError: A stride, padding, dilation or group count that makes no sense, or
            ``padding="same"`` with a stride.
        UnknownNameError: An unknown padding mode or padding word.
    """
    given: Any = (op, kernel, *map(hashable, (stride, padding, dilation, groups)), mode)
    read = _geometry if isinstance(mode, str) and all(map(_plain, given[2:6])) else _unkept
    return read(*given)


def _plain(value: object) -> bool:
    """Whether values that are equal to it are the same; 1.0 is equal to 1, but no whole number."""
    parts = value if isinstance(value, tuple) else (value,)
    return isinstance(value, str) or all(type(part) is int for part in parts)


@lru_cache(maxsize=1024)
def _geometry(
    op: str,
    kernel: tuple[int, ...],
    stride: int | tuple[int, ...],
    padding: str | int | tuple[int, ...],
    dilation: int | tuple[int, ...],
    groups: int,
    mode: str,
) -> Geometry:
    n = len(kernel)
    stride = checks.whole_numbers(op, "stride", stride, n, minimum=1)
    dilation = checks.whole_numbers(op, "dilation", dilation, n, minimum=1)
    checks.whole_numbers(op, "groups", groups, 1, minimum=1)
    if mode not in PADDING_MODES:
        raise UnknownNameError.of("padding mode", mode, PADDING_MODES)
    if isinstance(padding, str):
        pads = _named_padding(op, padding, kernel, stride, dilation)
    else:
        sizes = checks.whole_numbers(op, "padding", padding, n, minimum=0)
        pads = tuple((size, size) for size in sizes)
    return Geometry(stride, pads, dilation, groups, mode)


_unkept = _geometry.__wrapped__


def _named_padding(
    op: str, name: str, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    if name == "valid":
        return ((0, 0),) * len(kernel)
    if name != "same":
        raise UnknownNameError.of("padding", name, ("valid", "same"))
    if any(s != 1 for s in stride):
        raise ArgumentError(
            f"{op}: padding 'same' needs stride 1",
            received=f"stride {stride}",
            fix="Give the padding as numbers.",
        )
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def hashable(value: Any) -> Any:
    """A list of sizes as a tuple; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


_OPTIONS = (
    "stride", "padding", "dilation", "groups", "padding_mode", "relu", "integer_bias", "packed",
)  # fmt: skip


def refuse_unknown(op: str, unknown: Mapping[str, object], known: Sequence[str]) -> None:
    """Raises `UnknownNameError` for the first keyword argument that an operator does not know."""
    for name in unknown:
        raise UnknownNameError.of(f"option of {op}", name, known)


def check_result_size(op: str, x: Tensor, weight: Tensor, sizes: Sequence[int]) -> None:
    """Raises `ShapeError` for a weight that has no elements, or an output beyond any memory."""
    if not weight.numel():
        raise ShapeError(
            f"{op}: the weight has no elements",
            expected="at least one along every axis",
            received=f"shape {tuple(weight.shape)}",
        )
    shape = (len(x), weight.shape[0], *sizes)
    if math.prod(shape) > _MOST:
        raise ShapeError(
            f"{op}: the output would be larger than any memory",
            expected=f"at most {_MOST} elements",
            received=f"shape {shape}",
        )


def bind_conv(
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
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    relu: bool = False,
    integer_bias: bool = False,
    packed: PackedWeight | None = None,
    **unknown: object,
) -> ConvCall:
    """Checks the arguments of `qlab.ops.conv1d`, `conv2d` and `conv3d` and pads where needed.

    Args:
        op: The public function's name.
        n: Number of spatial axes.
        x: Codes of shape (N, C, *spatial).
        x_qparams: As in `qlab.ops.conv2d`, like everything that follows.
    """
    checks.codes(op, "input", x, x_qparams)
    checks.dims(op, "input", x, (n + 2,), LAYOUT[n])
    checks.tensor(op, "weight", weight)
    checks.dims(op, "weight", weight, (n + 2,), "(out_channels, in_channels / groups, *kernel)")
    refuse_unknown(op, unknown, _OPTIONS)
    options = stride, padding, dilation, groups
    layout = geometry(op, tuple(weight.shape[2:]), *options, padding_mode)
    _check_conv_shapes(op, x, weight, layout)
    if layout.symmetric_zeros:
        zeros = tuple(before for before, _ in layout.pads)
    else:
        checks.per_tensor(op, "input", x_qparams)
        x = pad_codes(x, layout.pads, layout.mode, x_qparams.zero_point_value, op)
        zeros = (0,) * n
    call = ConvCall(
        x, x_qparams, weight, w_qparams, bias, y_qparams, relu, packed,
        layout.stride, zeros, layout.dilation, layout.groups, integer_bias=integer_bias,
    )  # fmt: skip
    check_call(op, call)
    return call


def _check_conv_shapes(op: str, x: Tensor, weight: Tensor, layout: Geometry) -> None:
    out_channels, group_channels = weight.shape[:2]
    if x.shape[1] != group_channels * layout.groups or out_channels % layout.groups:
        raise ShapeError(
            f"{op}: channels, weight and groups do not fit each other",
            expected="in_channels = groups × the weight's second axis, and out_channels divisible"
            " by groups",
            received=f"input {tuple(x.shape)}, weight {tuple(weight.shape)},"
            f" groups {layout.groups}",
        )
    sizes = zip(x.shape[2:], layout.pads, weight.shape[2:], layout.dilation, strict=True)
    if any(size + sum(pads) < d * (k - 1) + 1 for size, pads, k, d in sizes):
        raise ShapeError(
            f"{op}: the kernel is larger than the padded input",
            expected="an input at least as large as dilation × (kernel − 1) + 1 − padding",
            received=f"input {tuple(x.shape)}, kernel {tuple(weight.shape[2:])},"
            f" padding {layout.pads}, dilation {layout.dilation}",
        )
    padded = [size + sum(pads) for size, pads in zip(x.shape[2:], layout.pads, strict=True)]
    none = (0,) * len(padded)
    steps = layout.stride, none, layout.dilation
    check_result_size(op, x, weight, output_sizes(padded, weight.shape[2:], *steps))
