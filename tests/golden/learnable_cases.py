"""One step of a learnable fake quantizer, torch's or qlab's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "per_tensor": ("MovingAverageMinMaxObserver", "uint8", {"quant_min": 0, "quant_max": 255}),
    "four_bits": (
        "MovingAverageMinMaxObserver",
        "uint8",
        {"quant_min": 0, "quant_max": 15, "use_grad_scaling": True},
    ),
    "per_channel": (
        "MovingAveragePerChannelMinMaxObserver",
        "int8",
        {"quant_min": -8, "quant_max": 7, "channel_len": 4, "use_grad_scaling": True},
    ),
}
NAMES = ("y", "gradient_x", "gradient_scale", "gradient_zero_point", "scale", "zero_point")


def step(
    made: Callable[..., Any], observers: Any, dtypes: Any, name: str, x: Tensor, gradient: Tensor
) -> dict[str, Tensor]:
    """Estimates from ``x``, then learns with half the scale, and a zero point moved by 0.3.

    Args:
        made: The class.
        observers: Module of the observers.
        dtypes: Object with the data types.
        name: The case.
        x: Input.
        gradient: That of the output.
    """
    observer, dtype, arguments = CASES[name]
    fake = made(getattr(observers, observer), dtype=getattr(dtypes, dtype), **arguments)
    fake(x)
    fake.enable_param_learning()
    with torch.no_grad():
        fake.scale.mul_(0.5)
        fake.zero_point.add_(0.3)
    leaf = x.clone().requires_grad_()
    y = fake(leaf)
    y.backward(gradient)
    found = (y, leaf.grad, fake.scale.grad, fake.zero_point.grad, *fake.calculate_qparams())
    return {key: value.detach().float() for key, value in zip(NAMES, found, strict=True)}
