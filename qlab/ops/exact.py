"""Kernels for any device: exact integer accumulation, and simulation where integers do not do.

The exact kernel sums products of ``x - z_x`` and ``w - z_w`` in a floating-point type that holds
every partial sum exactly, so the result equals 64-bit integer arithmetic whatever the order of
summation: float32 below 2**24, float64 below 2**53. Everything after the sum is float32, each
operation rounded once, so that every device and oneDNN's kernels give the same codes.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor

from qlab.granularity import PerAxis, PerTensor
from qlab.ops.calls import Call, ConvCall
from qlab.qparams import QParams, bias_codes, dequantize, requantize, requantize_whole

_FLOAT32_EXACT = 2**24
_X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")


def exact_obstacle(call: Call) -> str | None:
    """Why the exact kernel does not apply to a call, or None."""
    for what, qparams in (("input", call.x_qparams), ("weight", call.w_qparams)):
        if qparams.dtype.bits > 8 or qparams.dtype.is_float:
            return f"the {what}'s type {qparams.dtype.name} is not an integer of at most 8 bits"
        if qparams.float_zero_point:
            return f"the {what}'s zero point is a real number, not a code"
    if not isinstance(call.x_qparams.granularity, PerTensor):
        return f"the input's scale is {call.x_qparams.granularity}, not PerTensor"
    return weight_granularity_obstacle(call)


def float_bias_obstacle(call: Call) -> str | None:
    """Why a kernel that adds the bias as a real number does not apply to a call, or None."""
    if call.integer_bias:
        return "the bias is an integer, summed before the scales are applied"
    return exact_obstacle(call)


def weight_granularity_obstacle(call: Call) -> str | None:
    """Why the weight's scales cannot be applied after the sum, or None."""
    match call.w_qparams.granularity:
        case PerTensor():
            return None
        case PerAxis(axis) if axis % call.weight.dim() == call.output_axis:
            return None
    return f"the weight's scale is {call.w_qparams.granularity}, not one per tensor or per output"


def largest_step(qparams: QParams) -> int:
    """An upper bound of ``|q - z|`` over every code that the storage type can hold."""
    codes = torch.iinfo(qparams.dtype.storage)
    if qparams.symmetric_around_zero:
        return max(codes.max, -codes.min)
    if qparams.scale.dim():
        return codes.max - codes.min
    return max(codes.max - qparams.zero_point_value, qparams.zero_point_value - codes.min)


def _accumulator(call: Call, weight: Tensor) -> torch.dtype:
    """The narrowest float type that is exact for this call on this device.

    Elsewhere than on a CPU a float32 product may run in a reduced format, and a float32
    convolution by a fast algorithm that rounds (Winograd, FFT); x86's does neither.
    """
    if call.x.device.type != "cpu" or (isinstance(call, ConvCall) and not _direct_convolution()):
        return torch.float64
    largest = largest_step(call.x_qparams)
    if call.depth * largest * largest_step(call.w_qparams) < _FLOAT32_EXACT:
        return torch.float32
    if call.output_axis != 0:
        return torch.float64
    # float32 rounds this sum only where it is above the limit anyway.
    heaviest = weight.flatten(1).abs().sum(1).max().item()
    return torch.float32 if largest * heaviest < _FLOAT32_EXACT else torch.float64


def _direct_convolution() -> bool:
    return _X86 and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _shifted(codes: Tensor, qparams: QParams, dtype: torch.dtype) -> Tensor:
    shifted = codes.to(dtype)
    if not qparams.symmetric_around_zero:
        shifted -= qparams.granularity.expand(qparams.zero_point, codes.shape)
    return shifted


def run_exact(call: Call) -> Tensor:
    """``clamp(rint(f32(f32((f32(acc)·(s_x·s_w)) + b)·(1/s_y)) + z_y))``, acc exact.

    With an integer bias the formula of `qlab.ops.linear` for one.
    """
    weight = _shifted(call.weight, call.w_qparams, torch.float32)
    dtype = _accumulator(call, weight)
    total = call.contract(_shifted(call.x, call.x_qparams, dtype), weight.to(dtype))
    if total.device.type != "cpu":
        total.round_()  # undoes what a fast algorithm loses in float64, far below one half
    return _whole(total, call) if call.integer_bias else finish(total.to(torch.float32), call)


def combined_scale(call: Call) -> Tensor:
    """``s_x · s_w``, rounded to float32; a vector if the weight has a scale per channel."""
    return call.x_qparams.scale * call.w_qparams.scale


def finish(total: Tensor, call: Call) -> Tensor:
    """Scale, bias, ReLU and requantization of exact float32 sums, which are overwritten."""
    real = total.mul_(call.per_channel(combined_scale(call)))
    if call.bias is not None:
        real.add_(call.per_channel(call.bias))
    return _output(real, call)


def _whole(total: Tensor, call: Call) -> Tensor:
    """Bias and requantization of exact sums as integers, with one multiplier."""
    unit = combined_scale(call)
    if call.bias is not None:
        total = total.to(torch.float64).add_(call.per_channel(bias_codes(call.bias, unit)))
    total = total.to(torch.float32)
    if call.y_qparams is None:
        real = total.mul_(call.per_channel(unit))
        return real.relu_() if call.relu else real
    if call.relu:
        total.relu_()
    return requantize_whole(total, call.per_channel(unit / call.y_qparams.scale), call.y_qparams)


def _output(real: Tensor, call: Call) -> Tensor:
    if call.relu:
        real.relu_()
    return real if call.y_qparams is None else requantize(real, call.y_qparams)


def no_obstacle(call: Call) -> None:
    """The simulated kernel applies to every call."""
    return None


def run_simulated(call: Call) -> Tensor:
    """``requantize(relu(f(dequantize(x), dequantize(w)) + b))`` in float32."""
    real = call.contract(
        dequantize(call.x, call.x_qparams), dequantize(call.weight, call.w_qparams)
    )
    if call.bias is not None:
        real = real + call.per_channel(call.bias)
    return _output(real, call)
