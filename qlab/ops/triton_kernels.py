"""Where Triton's kernels apply. Imports Triton, and the kernels, only when one is wanted.

On a CUDA device they run where a small product, computed when a process first asks, comes out
exact: so a machine without Triton, without the C compiler that it needs, or with a chip that it
does not serve runs the reference kernels, and `qlab.ops.kernel_for` with ``use("triton")`` says
why. On a CPU they run in Triton's interpreter alone, slowly, to be tested: with
``TRITON_INTERPRET=1`` set before Triton is imported, and asked for with ``use("triton")``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from qlab.dtypes import qint8, quint8
from qlab.ops import triton_layers
from qlab.ops.calls import Call, ConvCall, bind_linear
from qlab.ops.exact import float_bias_obstacle, largest_step, run_exact
from qlab.ops.kernels import forced
from qlab.qparams import QParams, requantize

_LARGEST_INT32 = 2**31 - 1
_OLDEST = (8, 0)


@cache
def missing() -> str | None:
    """Why Triton cannot be imported here, or None."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    return None


def interpreting() -> bool:
    """Whether Triton's functions are run by its interpreter in this process."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


@cache
def device_obstacle(device: torch.device) -> str | None:
    """Why Triton's kernels do not run on a CUDA device, or None; tries one."""
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return "Triton's int8 products need compute capability 8.0 or newer"
    x = torch.arange(256, dtype=torch.uint8, device=device).reshape(4, 64)
    weight = (torch.arange(8 * 64, device=device) % 251 - 125).to(torch.int8).reshape(8, 64)
    x_qparams = QParams.per_tensor(0.37, 117, quint8, device)
    y_qparams = QParams.per_tensor(41.3, 131, quint8, device)
    w_qparams = QParams.per_tensor(0.53, 0, qint8, device)
    call = bind_linear(x, x_qparams, weight, w_qparams, None, y_qparams)
    try:
        equal = torch.equal(bound(call)(x), run_exact(call))
    except Exception as error:  # whatever Triton, its compiler or the driver make of this chip
        return f"Triton cannot run here: {type(error).__name__}: {str(error).strip()[:200]}"
    return None if equal else f"Triton's sums are not exact on {device}"


def place_obstacle(x: Tensor) -> str | None:
    """Why Triton's kernels do not compute on a tensor where it lies, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile makes kernels of its own"
    if x.device.type not in ("cuda", "cpu"):
        return f"the tensors are on {x.device}, not on a CUDA device"
    asked = forced() == "triton"
    if x.is_cpu and not asked:
        return "the tensors are on the CPU, not on a CUDA device"
    if missing() is not None:
        return missing()
    if x.is_cpu:
        need = "the tensors are on the CPU, where Triton runs with TRITON_INTERPRET=1 only"
        return None if interpreting() else need
    return device_obstacle(x.device)


def sums_obstacle(call: Call) -> str | None:
    """Why int32 may not hold a call's sums, or None."""
    if not (call.weight.dtype.itemsize == call.x.dtype.itemsize == 1):
        return "the codes are not stored in 8 bits"
    # Of the shifted codes too: int8 products, summed in tensor cores that saturate.
    largest = max(128 * 128, largest_step(call.x_qparams) * largest_step(call.w_qparams))
    if call.depth * largest > _LARGEST_INT32:
        return f"{call.depth} products may overflow the int32 accumulator"
    return None


def obstacle(call: Call) -> str | None:
    """Why Triton's kernel does not apply to linear or a convolution, or None."""
    return float_bias_obstacle(call) or place_obstacle(call.x) or sums_obstacle(call)


def run(call: Call) -> Tensor:
    """linear or a convolution by Triton; the formula of `qlab.ops.exact.run_exact`."""
    return bound(call)(call.x)


def bound(call: Call) -> Callable[[Tensor], Tensor]:
    """A call as a function of its input's codes: what does not depend on them is done here."""
    layer, output = triton_layers.layer_of(call), triton_layers.output_of(call)
    if isinstance(call, ConvCall):
        from qlab.ops import triton_conv

        compute = triton_conv.convolution(layer, output, triton_conv.Window.of(call))
    else:
        from qlab.ops import triton_gemm

        compute = triton_gemm.linear(layer, output)
    y_qparams = call.y_qparams
    if y_qparams is None or output.codes:
        return compute
    return lambda x: requantize(compute(x), y_qparams)
