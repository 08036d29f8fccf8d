"""What a Triton kernel is given of a layer: its weight as int8, and how its output is written."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from qlab.ops.calls import Call
from qlab.ops.compiled import codes_obstacle, inverse
from qlab.ops.exact import combined_scale
from qlab.ops.packed import PackedWeight


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight, ready for a kernel.

    Attributes:
        weight: int8; (out, in) of linear, (out, kH, kW, in / groups) of a convolution.
        scale: ``s_x · s_w``, float32, one per output.
        offset: ``depth · z_x · z_w - z_x Σ w``, int32, one per output; of the int8 codes.
        zero_points: ``z_w`` of the int8 codes, int32, one per output.
        has_zero_points: Whether one of them is not 0.
        bias: float32, one per output; 0 where there is none.
        x_zero: ``z_x`` of the int8 codes.
    """

    weight: Tensor
    scale: Tensor
    offset: Tensor
    zero_points: Tensor
    has_zero_points: bool
    bias: Tensor
    x_zero: int


@dataclass(frozen=True, slots=True)
class Output:
    """How a kernel writes.

    Attributes:
        dtype: uint8 or int8 for codes, else float32.
        relu: Whether negative results become 0 before that.
        numbers: ``1/s``, zero point, smallest and largest code.
    """

    dtype: torch.dtype
    relu: bool
    numbers: tuple[float, float, float, float]

    @property
    def codes(self) -> bool:
        """Whether it requantizes."""
        return self.dtype != torch.float32


def as_int8(codes: Tensor) -> Tensor:
    """8-bit codes as int8: unsigned ones less 128."""
    return codes if codes.dtype == torch.int8 else torch.bitwise_xor(codes, 128).view(torch.int8)


def layer_of(call: Call) -> Layer:
    """A call's weight for its kernel; kept in the call's `PackedWeight`."""
    store = call.packed if call.packed is not None else PackedWeight()
    weight, scale, offset, zero_points, has_zero_points, x_zero = store.get(
        "triton", (call.weight,), (call.x_qparams, call.w_qparams), lambda: _pack(call)
    )
    bias = torch.zeros_like(scale) if call.bias is None else call.bias.detach().clone()
    return Layer(weight, scale, offset, zero_points, has_zero_points, bias, x_zero)


def _pack(call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor, bool, int]:
    outputs, weight = call.outputs, as_int8(call.weight.detach())
    if weight.dim() > 2:
        weight = weight.movedim(1, -1)
    x_zero = call.x_qparams.zero_point_value - 128 * (call.x.dtype == torch.uint8)
    zero_points = call.w_qparams.zero_point - 128 * (call.weight.dtype == torch.uint8)
    zero_points = zero_points.reshape(-1).to(torch.int32).expand(outputs).contiguous()
    # Sums of int32 that pass its limit come back, since the result lies inside.
    sums = weight.flatten(1).sum(1, dtype=torch.int32)
    offset = call.depth * x_zero * zero_points - x_zero * sums
    scale = combined_scale(call).detach().reshape(-1).expand(outputs).contiguous()
    has_zero_points = bool(zero_points.any())
    return weight.contiguous(), scale, offset, zero_points, has_zero_points, x_zero


def output_of(call: Call) -> Output:
    """How a kernel writes a call's output; `codes` is False where requantization is left over."""
    y = call.y_qparams
    if y is None or codes_obstacle("output", None, y) is not None:
        return Output(torch.float32, call.relu, (1.0, 0.0, 0.0, 0.0))
    limits = float(y.quant_min), float(y.quant_max)
    numbers = (inverse(y.scale_value), float(y.zero_point_value), *limits)
    return Output(y.dtype.storage, call.relu, numbers)


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Makes a tensor's CUDA device the current one, which Triton launches on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
