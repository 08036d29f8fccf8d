"""Interpolation on codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.ops import checks
from qlab.ops.codes import linear_map, selected
from qlab.ops.kernels import defined
from qlab.qparams import QParams

#: Which number of axes each mode takes.
INTERPOLATION_MODES: dict[str, tuple[int, ...]] = {
    "nearest": (3, 4, 5),
    "nearest-exact": (3, 4, 5),
    "linear": (3,),
    "bilinear": (4,),
    "bicubic": (4,),
    "trilinear": (5,),
    "area": (3, 4, 5),
}


@defined
def interpolate(
    x: Tensor,
    x_qparams: QParams,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> Tensor:
    """Resizes the spatial axes; the output keeps the input's qparams.

    ``"nearest"`` copies codes. The other modes are linear in ``x - z``, so the result is
    ``rint(f(x - z)) + z``.

    Args:
        x: Codes of shape (N, C, *spatial).
        x_qparams: Per tensor.
        size: Output length, one or one per axis; give this or ``scale_factor``.
        scale_factor: Output length over input length.
        mode: ``"nearest"``, ``"nearest-exact"``, ``"linear"`` (1 spatial axis), ``"bilinear"``,
            ``"bicubic"`` (2), ``"trilinear"`` (3), ``"area"``.
        align_corners: Whether corner elements keep their values; for the linear and cubic modes.
        recompute_scale_factor: Whether the factor is taken from the rounded output length.

    Returns:
        Codes of the input's type and qparams.

    Raises:
        DTypeError: Not codes of ``x_qparams.dtype``.
        ShapeError: A number of axes that the mode does not take; qparams not per tensor.
        UnknownNameError: An unknown mode.
        ArgumentError: Sizes that do not fit the input.
    """
    checks.codes("interpolate", "input", x, x_qparams)
    checks.choice("interpolate", "mode", mode, tuple(INTERPOLATION_MODES))
    checks.dims("interpolate", "input", x, INTERPOLATION_MODES[mode], f"for mode {mode!r}")
    checks.per_tensor("interpolate", "input", x_qparams)

    def resize(values: Tensor) -> Tensor:
        return F.interpolate(
            values, size, scale_factor, mode, align_corners, recompute_scale_factor
        )

    received = f"shape {tuple(x.shape)}, size {size}, scale_factor {scale_factor}"
    with checks.torch_refusal("interpolate", received):
        if mode.startswith("nearest"):
            return selected(resize, x)
        return linear_map(resize, x, x_qparams, None, torch.float32)
