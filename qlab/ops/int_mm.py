"""linear by PyTorch's int8 matrix product, ``torch._int_mm``, and its requantization by PyTorch.

For CUDA devices on which Triton does not run: the product is as fast as the tensor cores, but its
int32 result goes through memory several times. So it stands behind the kernel ``triton``, which
writes 8-bit codes at once. On a CPU it runs only if asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.ops import compiled, onednn
from qlab.ops.calls import Call
from qlab.ops.exact import finish, float_bias_obstacle
from qlab.ops.kernels import forced
from qlab.ops.triton_kernels import sums_obstacle
from qlab.ops.triton_layers import as_int8, layer_of

#: cuBLAS wants more rows than this, and lengths that are multiples of the second number.
_ROWS, _MULTIPLE = 16, 8


def obstacle(call: Call) -> str | None:
    """Why ``torch._int_mm`` does not compute a linear layer, or None."""
    found = float_bias_obstacle(call) or sums_obstacle(call)
    if found is not None:
        return found
    if torch.compiler.is_compiling():
        return "torch.compile makes kernels of its own"
    if call.x.is_cpu and forced() == "int_mm":
        return onednn.unavailable()
    if not call.x.is_cuda:
        return f"the tensors are on {call.x.device}, not on a CUDA device"
    return None if call.x.numel() and call.weight.numel() else "the input or the weight is empty"


def run(call: Call) -> Tensor:
    """linear; the formula of `qlab.ops.exact.run_exact`."""
    return bound(call)(call.x)


def bound(call: Call) -> Callable[[Tensor], Tensor]:
    """A call as a function of its input's codes: the weight is padded and summed here."""
    layer = layer_of(call)
    outputs, depth = layer.weight.shape
    missing = -depth % _MULTIPLE
    turned = _padded(layer.weight, -outputs % _MULTIPLE, missing).t()
    call = replace(call, x=call.x.new_empty(0), packed=None)  # keeps no activation alive

    def compute(x: Tensor) -> Tensor:
        rows = x.shape[:-1].numel()
        a = as_int8(x).reshape(rows, depth)
        padded = _padded(a, max(0, _ROWS + 1 - rows), missing)
        total = compiled.int_mm(padded, turned)[:rows, :outputs] + layer.offset
        if layer.has_zero_points:
            total -= a.sum(1, keepdim=True, dtype=torch.int32) * layer.zero_points
        real = finish(total.to(torch.float32), call)
        return real.reshape(*x.shape[:-1], outputs)

    return compute


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return F.pad(matrix, (0, columns, 0, rows)) if rows or columns else matrix
