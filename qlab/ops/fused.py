"""Layers with what follows them, before one requantization: conv2d_add and linear_gelu.

No step is lost in between. Their formulas are not those of two operators in turn, so a converted
graph has them only where a person asked for them (`qlab.registry.ON_REQUEST`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.ops import calls, checks, onednn
from qlab.ops.calls import Call, ConvCall, LinearCall
from qlab.ops.compiled import channels_last, codes_obstacle
from qlab.ops.contractions import (
    INT_MM,
    ONEDNN,
    REFERENCE,
    SIMULATED,
    TRITON,
    ConvOptions,
    bound_by,
    run,
)
from qlab.ops.kernels import Kernel, Operator, count, forced
from qlab.ops.packed import PackedWeight, Ready, ReadySum, stamps_of
from qlab.qparams import QParams, requantize

_LAST = torch.channels_last


def finished_sum(
    real: Tensor, other: Tensor, other_qparams: QParams, y_qparams: QParams | None, relu: bool
) -> Tensor:
    """``requantize(relu(f32(real + s·(q - z))))``: product and sum in float64, rounded once.

    Args:
        real: float32.
        other: Codes q; its shape broadcasts with that of ``real``.
        other_qparams: Their scale s and zero point z, per tensor.
        y_qparams: The output's parameters; None for real numbers.
        relu: Whether negative sums become 0.
    """
    steps = other.to(torch.float64) - other_qparams.zero_point.to(torch.float64)
    total = (real.to(torch.float64) + steps * other_qparams.scale.to(torch.float64)).float()
    total = total.relu_() if relu else total
    return total if y_qparams is None else requantize(total, y_qparams)


@dataclass(frozen=True, slots=True)
class _SumCall:
    """A checked call of `conv2d_add`; ``conv`` is the convolution with real numbers as output."""

    conv: ConvCall
    other: Tensor
    other_qparams: QParams
    y_qparams: QParams | None
    relu: bool


def _bind_sum(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    other: Tensor,
    other_qparams: QParams,
    y_qparams: QParams | None,
    *,
    relu: bool = False,
    **options: Any,
) -> _SumCall:
    """Checks the arguments of `conv2d_add`."""
    op = "conv2d_add"
    checks.switch(op, "relu", relu)
    if y_qparams is not None:
        checks.parameters(op, "output", y_qparams)
    conv = calls.bind_conv(op, 2, x, x_qparams, weight, w_qparams, bias, None, **options)
    checks.codes(op, "second operand", other, other_qparams)
    checks.per_tensor(op, "second operand", other_qparams)
    slides = conv.stride, conv.padding, conv.dilation
    sizes = calls.output_sizes(conv.x.shape[2:], weight.shape[2:], *slides)
    shape = (len(x), len(weight), *sizes)
    checks.broadcastable(op, torch.empty(shape, device="meta"), other)
    checks.same_device(op, x, other)
    return _SumCall(conv, other, other_qparams, y_qparams, relu)


class _Sum(Protocol):
    """A bound call; a second operand that is ``dead`` may be written to."""

    def __call__(self, x: Tensor, other: Tensor, dead: bool = False) -> Tensor: ...


def _sum_in_turn(kernel: Kernel[Call], call: _SumCall) -> _Sum:
    """A kernel's convolution to real numbers, then the sum."""
    real_of = bound_by(kernel, call.conv)
    rest = call.other_qparams, call.y_qparams, call.relu
    return lambda x, other, dead=False: finished_sum(real_of(x), other, *rest)


def _sum_obstacle(call: _SumCall) -> str | None:
    """Why oneDNN does not do the sum itself, or None."""
    y, other = call.y_qparams, call.other
    found = codes_obstacle("second operand", other, call.other_qparams)
    found = found or codes_obstacle("output", None, y)
    if found is not None or y is None:
        return found
    if type(other) is not Tensor or other.dtype != y.dtype.storage:
        return "the sum is written as another type than the second operand has"
    slides = call.conv.stride, call.conv.padding, call.conv.dilation
    sizes = calls.output_sizes(call.conv.x.shape[2:], call.conv.weight.shape[2:], *slides)
    same = other.shape == (len(call.conv.x), call.conv.outputs, *sizes)
    return None if same else "the second operand has another shape than the result"


def _sum_by_onednn(call: _SumCall) -> _Sum:
    """The sum inside oneDNN's convolution, or after it.

    oneDNN adds ``s·(q - z)`` by a fused multiply-add; of 2.4·10⁷ outputs of random shapes none
    differed from `finished_sum`, whose float64 sum is rounded twice once in some 10⁹. It writes
    where the second operand lies, so it is given a copy unless that is dead.
    """
    if _sum_obstacle(call) is not None:
        return _sum_in_turn(ONEDNN, call)
    y, other = call.y_qparams, call.other_qparams
    assert y is not None
    read, layer, bias, layout = onednn.prepared(call.conv)
    rest = (
        bias, *layout, y.scale_value, y.zero_point_value, y.dtype.storage,
        other.scale_value, other.zero_point_value, "sum", 1.0,
        "relu" if call.relu else "none", [], "",
    )  # fmt: skip
    finish = onednn.finisher(replace(call.conv, y_qparams=y))
    operator = torch.ops.onednn.qconv2d_pointwise.binary

    def compute(x: Tensor, other: Tensor, dead: bool = False) -> Tensor:
        total = other
        if not channels_last(other):
            total = other.contiguous(memory_format=_LAST)
        elif not dead:
            total = other.clone()
        if read is not None:
            x = read(x)
        result = operator(x, *layer, total, *rest)
        return result if finish is None else finish(result)

    return compute


_SUMS: dict[str, Callable[[_SumCall], _Sum]] = {
    "onednn": _sum_by_onednn,
    "triton": lambda call: _sum_in_turn(TRITON, call),
    "reference": lambda call: _sum_in_turn(REFERENCE, call),
    "simulated": lambda call: _sum_in_turn(SIMULATED, call),
}


def _sum_kernel(kernel: Kernel[Call]) -> Kernel[_SumCall]:
    bound = _SUMS[kernel.name]
    return Kernel(
        kernel.name, lambda c: kernel.obstacle(c.conv), lambda c: bound(c)(c.conv.x, c.other)
    )


_conv2d_add: Operator[_SumCall] = Operator(
    "conv2d_add", _bind_sum, [_sum_kernel(k) for k in (ONEDNN, TRITON, REFERENCE, SIMULATED)]
)


def _bound_sum(arguments: tuple[Any, ...], options: dict[str, Any]) -> _Sum | None:
    """A call as a function of the codes of both operands; None where the input is padded first."""
    call = _conv2d_add.bind(*arguments, **options)
    if call.conv.x is not arguments[0]:
        return None
    kernel = _conv2d_add.choose(call).name
    compute = _SUMS[kernel](call)

    def counted(x: Tensor, other: Tensor, dead: bool = False) -> Tensor:
        count("conv2d_add", kernel)
        return compute(x, other, dead)

    return counted


def conv2d_add(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    other: Tensor,
    other_qparams: QParams,
    y_qparams: QParams | None,
    **options: Unpack[ConvOptions],
) -> Tensor:
    """``conv2d(x) + other`` on codes, requantized once.

    With ``acc`` as in `conv2d`, and r rounded to float32 after each operation:
    ``r = f32(acc)·(s_x·s_w) + b``, then ``t = f32(r + s_o·(q_o - z_o))`` rounded once, ReLU, and
    ``clamp(rint(t·(1/s_y) + z_y))``. Every kernel but ``simulated`` gives the same codes, but that
    oneDNN may differ by one step in some 10⁹, where a sum in float64 is rounded a second time.

    Args:
        x: Codes of shape (N, C, H, W).
        x_qparams: The input's scale and zero point, per tensor.
        weight: Codes of shape (out_channels, C / groups, kH, kW).
        w_qparams: As in `conv2d`.
        bias: float32 of shape (out_channels,), real units, finite; or None.
        other: Codes whose shape broadcasts with the convolution's (N, out_channels, H', W'). They
            stay as they are.
        other_qparams: Its parameters, per tensor.
        y_qparams: The output's scale and zero point; None gives a float32 output.
        **options: See `ConvOptions`.

    Returns:
        Codes of the sum's shape, dtype ``y_qparams.dtype.storage``; or float32.

    Raises:
        As `conv2d`; DTypeError, ShapeError and ArgumentError also for ``other``.
    """
    arguments = (x, x_qparams, weight, w_qparams, bias, other, other_qparams, y_qparams)
    packed = options.pop("packed", None)
    given: dict[str, Any] = {**options, "packed": packed}
    tensors = isinstance(x, Tensor) and isinstance(other, Tensor)
    if not (tensors and isinstance(packed, PackedWeight)):
        return _conv2d_add(_conv2d_add.bind(*arguments, **given))
    values = tuple(map(calls.hashable, options.values()))
    kinds = (x.dtype, x.device, other.dtype, other.device)
    key = (*kinds, x_qparams, w_qparams, other_qparams, y_qparams, forced(), *options, *values)
    place, layer = (x.shape, other.shape), (weight, bias)
    found = packed.get("bound sum", layer, key, lambda: _bound_sum(arguments, given), place=place)
    if found is None:
        return _conv2d_add(_conv2d_add.bind(*arguments, **given))
    kept = (x.shape, x.dtype, x.device, x.is_cpu, forced(), x_qparams, y_qparams)
    first = Ready(*kept, stamps_of(weight, bias), lambda x: x)
    packed.ready_sum = ReadySum(first, other.shape, other.dtype, other_qparams, found)
    return found(x, other)


@dataclass(slots=True)
class _GeluCall(LinearCall):
    """A checked call of `linear_gelu`."""

    approximate: str

    @property
    def sums(self) -> LinearCall:
        """The linear layer with real numbers as output."""
        given = self.x, self.x_qparams, self.weight, self.w_qparams, self.bias
        return LinearCall(*given, None, False, self.packed)


def _bind_gelu(
    *arguments: Any, approximate: str = "none", packed: PackedWeight | None = None
) -> _GeluCall:
    """Checks the arguments of `linear_gelu`."""
    checks.choice("linear_gelu", "approximation", approximate, ("none", "tanh"))
    call = calls.bind_linear(*arguments, packed=packed, op="linear_gelu")
    given = call.x, call.x_qparams, call.weight, call.w_qparams, call.bias
    return _GeluCall(*given, call.y_qparams, False, packed, approximate)


def _gelu_in_turn(kernel: Kernel[Call], call: Any) -> Callable[[Tensor], Tensor]:
    """A kernel's sums as real numbers, then PyTorch's GELU."""
    real_of, y, approximate = bound_by(kernel, call.sums), call.y_qparams, call.approximate

    def compute(x: Tensor) -> Tensor:
        real = F.gelu(real_of(x), approximate=approximate)
        return real if y is None else requantize(real, y)

    return compute


def _gelu_kernel(kernel: Kernel[Call]) -> Kernel[Call]:
    def bound(call: Any) -> Callable[[Tensor], Tensor]:
        if kernel is ONEDNN and codes_obstacle("output", None, call.y_qparams) is None:
            return onednn.bound(call, "gelu", call.approximate)
        return _gelu_in_turn(kernel, call)

    return Kernel(kernel.name, kernel.obstacle, lambda c: bound(c)(c.x), bound)


_linear_gelu: Operator[Call] = Operator(
    "linear_gelu",
    _bind_gelu,
    [_gelu_kernel(k) for k in (ONEDNN, TRITON, INT_MM, REFERENCE, SIMULATED)],
)


def linear_gelu(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    *,
    approximate: str = "none",
    packed: PackedWeight | None = None,
) -> Tensor:
    """``gelu(x Wᵀ + b)`` on codes, requantized once.

    The sums are those of `linear` in float32, then ``y = r·Φ(r)`` and
    ``clamp(rint(y·(1/s_y) + z_y))``. Kernels differ in how they compute Φ: by at most one step, on
    fewer than 1 in 1,000 (of 2·10⁶ outputs of oneDNN's none differed).

    Args:
        x: Codes of shape (*, in_features).
        x_qparams: The input's scale and zero point, per tensor.
        weight: Codes of shape (out_features, in_features).
        w_qparams: As in `linear`.
        bias: float32 of shape (out_features,), real units, finite; or None.
        y_qparams: The output's scale and zero point; None gives a float32 output.
        approximate: ``"none"`` or ``"tanh"``, as in `gelu`.
        packed: Cache for the weight in a kernel's own layout; keep one per layer.

    Returns:
        Codes of shape (*, out_features), dtype ``y_qparams.dtype.storage``; or float32.

    Raises:
        UnknownNameError: Another approximation.
        QlabError: As `linear`.
    """
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    return run(_linear_gelu, arguments, {"approximate": approximate}, packed)
