"""Which linear layers' inputs a repair may scale under a configuration, and why not the others'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qlab.algorithms.base import Layers, Outcome
from qlab.algorithms.channel_scales import Scaling
from qlab.algorithms.folding import Fold, find_folds, scale_inputs
from qlab.algorithms.targets import Walk, copied, stays_float
from qlab.analysis.study import Study
from qlab.granularity import PerTensor
from qlab.graph import Plan
from qlab.graph.plan import Step
from qlab.nn.quantized.dynamic.request import DynamicRequest
from qlab.ranges import Fixed, TensorSpec


@dataclass(frozen=True, eq=False)
class Scalable:
    """A fold whose readers are to be quantized.

    Attributes:
        fold: The layers.
        node: Node of the first reader.
        weights: Of each reader, (O, I).
        specs: How each weight is quantized; None for float.
        input_spec: How what they read is quantized, in each call or once; None for float.
    """

    fold: Fold
    node: str
    weights: tuple[Tensor, ...]
    specs: tuple[TensorSpec | None, ...]
    input_spec: TensorSpec | None

    @property
    def shared(self) -> str:
        """Who takes the factors up, in words."""
        return f"{self.fold.source_name!r} takes them up"


def find_scalable(
    study: Study, plan: Plan, layers: Layers, *, linear_sources: bool
) -> tuple[tuple[Scalable, ...], dict[str, str]]:
    """The folds that may be scaled, in graph order, and of the other layers the reason by name.

    Args:
        study: The float graph.
        plan: What is quantized, and how.
        layers: The layers that were asked for; a fold with others that are quantized is refused.
        linear_sources: As `find_folds`.
    """
    folds, refused = find_folds(study.graph, linear_sources=linear_sources)
    found, names = list[Scalable](), set[str]()
    for fold in folds:
        reason = _obstacle(plan, fold, layers)
        if reason is None:
            found.append(_scalable(study, plan, fold))
            names.update(fold.readers)
        else:
            refused |= dict.fromkeys(fold.readers, reason)
    reasons = {n: refused.get(n, "it is no linear layer") for n in layers if n not in names}
    return tuple(found), reasons


def _obstacle(plan: Plan, fold: Fold, layers: Layers) -> str | None:
    for name in fold.readers:
        step = plan.step(name)
        if step.weight is not None and isinstance(step.weight.policy, Fixed):
            return f"the weights of {name!r} lie on a fixed grid already"
        if step.quantized and name not in layers:
            return f"it shares its input with {name!r}, which was not asked for"
        spec = _input_spec(step)
        if spec is not None and isinstance(spec.policy, Fixed):
            return f"the input of {name!r} has a fixed scale already"
    if all(plan.step(name).weight is None for name in fold.readers):
        return stays_float(plan.step(fold.readers[0]))
    return _source_obstacle(plan, fold) if fold.kind == "linear" else None


def _source_obstacle(plan: Plan, fold: Fold) -> str | None:
    spec = plan.step(fold.source_name).weight
    if spec is None:
        return None
    if isinstance(spec.policy, Fixed):
        return f"the weights of {fold.source_name!r}, before it, lie on a fixed grid already"
    if isinstance(spec.granularity, PerTensor):
        return f"{fold.source_name!r}, before it, has one scale for all weights"
    return None


def _scalable(study: Study, plan: Plan, fold: Fold) -> Scalable:
    steps = [plan.step(name) for name in fold.readers]
    return Scalable(
        fold,
        steps[0].node,
        tuple(study.probe(name).weight().detach() for name in fold.readers),
        tuple(step.weight for step in steps),
        next((spec for step in steps if (spec := _input_spec(step)) is not None), None),
    )


def _input_spec(step: Step) -> TensorSpec | None:
    """How the first input is quantized, in every call too."""
    if step.execution != "dynamic":
        return step.inputs[0] if step.inputs else None
    if step.weight is None or step.weight.dtype.is_float or step.requested is None:
        return None
    dtype = DynamicRequest.input_dtype_of(step.requested.activation)
    return TensorSpec(dtype, reduce_range=True)


def input_rows(walk: Walk, node: str, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """What a linear layer reads, drawn without replacement, and the channels' largest magnitudes.

    Args:
        walk: Of the float network, before the layer.
        node: The layer's node.
        rows: How many rows at most.
        seed: For the draw.

    Returns:
        (N, I), and (I,) over all rows.
    """
    parts = [x.detach().flatten(0, -2) for x in walk.inputs(node)]
    reach = torch.stack([part.abs().amax(0) for part in parts]).amax(0)
    every = torch.cat(parts)
    if len(every) > rows:
        generator = torch.Generator().manual_seed(seed)
        every = every[torch.randperm(len(every), generator=generator)[:rows].to(every.device)]
    return every, reach


def scaled_graphs(
    study: Study, chosen: dict[Fold, Tensor]
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Copies of the graph and of its reference, which may be one, with inputs divided by factors.

    The two are the same object where they were.
    """
    graph = scale_inputs(study.graph, chosen) if chosen else copied(study.graph)
    if study.reference is study.graph:
        return graph, graph
    reference: Any = scale_inputs(study.reference, chosen) if chosen else copied(study.reference)
    return graph, reference


def strengths(tries: int) -> tuple[float, ...]:
    """So many exponents, evenly spaced up to 1."""
    return tuple((i + 1) / tries for i in range(tries))


def scaling_outcomes(entry: Scalable, scaling: Scaling) -> dict[str, Outcome]:
    """What became of the layers of a fold, by name."""
    made = {}
    low, high = float(scaling.factors.min()), float(scaling.factors.max())
    errors = zip(entry.fold.readers, scaling.errors, scaling.errors_before, strict=True)
    for name, error, before in errors:
        ratio = error / before if before > 0 else 1.0
        numbers = {"error_ratio": ratio, "factor_min": low, "factor_max": high}
        if scaling.strength is None:
            said = "its input stays as it is: no factors lower the error"
        else:
            numbers["strength"] = scaling.strength
            said = f"its input is divided by {low:.3g} to {high:.3g} (strength "
            said += f"{scaling.strength:.2g}), {entry.shared}: {ratio:.2f} of the error"
        made[name] = Outcome(name, scaling.strength is not None, said, numbers)
    return made


def search_seconds(found: Sequence[Scalable], rows: int, tries: int) -> float:
    """Seconds that searches on rows take: a product per layer and strength, and its rounding."""
    weights = sum(weight.numel() for entry in found for weight in entry.weights)
    inputs = sum(entry.weights[0].shape[1] for entry in found)
    return (tries + 1) * (rows * (6e-11 * weights + 2e-8 * inputs) + 4e-8 * weights)
