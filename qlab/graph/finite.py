"""Refusing to quantize what is not finite."""

from __future__ import annotations

from itertools import chain

import torch
from torch import fx

from qlab.errors import NonFiniteError
from qlab.graph.plan import Plan, Step
from qlab.nn.intrinsic.fold import core


def check_parameters(graph_module: fx.GraphModule, plan: Plan, checked: Plan | None = None) -> None:
    """Raises `NonFiniteError` where a layer to be quantized has NaN or infinity in a parameter.

    Layers that ``checked`` quantizes too are taken to be finite.
    """
    known = set() if checked is None else {s.name for s in checked.steps if _quantizes(s)}
    for step in plan.steps:
        if not _quantizes(step) or step.name in known:
            continue
        layer = core(graph_module.get_submodule(step.name))
        for name, tensor in chain(layer.named_parameters(), layer.named_buffers()):
            bad = tensor.numel() - int(torch.isfinite(tensor).sum())
            if bad:
                raise NonFiniteError(
                    f"{name.split('.')[-1]} of layer {step.name!r} must be finite to be quantized",
                    received=f"{bad} NaN or infinite of {tensor.numel()} values",
                    fix="Repair the model's weights, or leave the layer in float.",
                )


def _quantizes(step: Step) -> bool:
    return step.execution in ("integer", "simulated", "dynamic")
