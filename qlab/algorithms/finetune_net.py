"""The network in training: roundings whose grids are learned, in the places of fixed ones."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from qlab.algorithms.targets import find_target, inner_name, is_transposed, stays_float
from qlab.analysis.simulation import Rounding, codes_of, simulate, simulated_layers
from qlab.analysis.study import Study
from qlab.graph import Plan
from qlab.nn.intrinsic.fold import core
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams, fake_quantize_learned

_SMALLEST = 1e-8
_QUIETEST = 1e-3  # of the loudest channel: below, a channel moves as if it were so loud


class Learned(nn.Module):
    """Rounds to a grid whose scale is learned; see the module.

    Args:
        qparams: The grid at the start.
        learns: Whether its scale is learned.
    """

    def __init__(self, qparams: QParams, learns: bool) -> None:
        super().__init__()
        self.start = qparams
        self.factor = nn.Parameter(torch.zeros_like(qparams.scale), requires_grad=learns)

    @property
    def scale(self) -> Tensor:
        """The scale as it stands: the first one times ``exp(factor)``, so it stays positive."""
        return (self.start.scale * self.factor.exp()).clamp(min=_SMALLEST)

    def qparams(self) -> QParams:
        """The grid as it stands."""
        return replace(self.start, scale=self.scale.detach())

    def forward(self, x: Any) -> Any:
        """Real numbers → those that codes stand for; a tensor, or several as a split gives."""
        return pytree.tree_map_only(Tensor, self._rounded, x)

    def _rounded(self, x: Tensor) -> Tensor:
        low, high = self.start.quant_min, self.start.quant_max
        expand = self.start.granularity.expand
        scale, zero_point = (
            expand(t.to(torch.float32), x.shape) for t in (self.scale, self.start.zero_point)
        )
        count = x.numel() / self.start.scale.numel()
        return fake_quantize_learned(
            x, scale, zero_point, (low, high), 1.0 / math.sqrt(count * max(high, 1))
        )


class LearnedLayer(nn.Module):
    """A linear layer or convolution, with what is fused behind it, whose weight is rounded.

    What is learned are `moves`: a parameter is its first value plus its unit times its move. The
    unit of a weight is the root mean square of its channel, so that one learning rate is the same
    relative change for a channel of whatever size; that of a bias is the norm of its channel's
    weights. With batch norm folded in, channels differ by orders of magnitude: one absolute rate
    would leave the weights of loud channels where they are, within a step of their grid, and throw
    those of quiet ones about.

    Args:
        layer: The float layer; it is copied.
        rounding: Rounds its weight.
    """

    def __init__(self, layer: nn.Module, rounding: Learned) -> None:
        super().__init__()
        self.layer, self.rounding = copy.deepcopy(layer).eval().requires_grad_(False), rounding
        self.weight_name = inner_name(layer)
        self.units = _units(self.layer, self.weight_name)
        own = [parameter for _, parameter in self.layer.named_parameters()]
        self.moves = nn.ParameterList(torch.zeros_like(parameter) for parameter in own)

    def values(self) -> dict[str, Tensor]:
        """The layer's parameters as they stand, by name."""
        named = zip(self.layer.named_parameters(), self.moves, strict=True)
        return {name: value + self.units[name] * move for (name, value), move in named}

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, with the rounded weight."""
        values = self.values()
        values[self.weight_name] = self.rounding(values[self.weight_name])
        return functional_call(self.layer, values, (x,))


def _units(layer: nn.Module, weight_name: str) -> dict[str, Tensor]:
    """What a move of 1 adds to each parameter; broadcasts against it."""
    weight = layer.get_parameter(weight_name).detach()
    axis = 1 if is_transposed(core(layer)) else 0
    others = [a for a in range(weight.ndim) if a != axis]
    inputs = weight.numel() // max(1, weight.shape[axis])
    size = weight.square().mean(others, keepdim=True).sqrt()
    least = _QUIETEST * float(size.max()) or 1 / math.sqrt(max(1, inputs))
    size = size.clamp(min=least)
    norm = size.flatten() * math.sqrt(inputs)
    units = {}
    for name, parameter in layer.named_parameters():
        fits = parameter.shape == norm.shape
        units[name] = norm if fits else norm.square().mean().sqrt()
    return {**units, weight_name: size}


@dataclass(frozen=True, eq=False)
class Training:
    """The network in training.

    Attributes:
        graph: It computes what is converted, in float, with gradients.
        layers: What is trained, by layer.
        refused: What is not, and why.
        grids: The learned grids of activations, by the layer, or input, whose rule decides.
    """

    graph: fx.GraphModule
    layers: dict[str, LearnedLayer]
    refused: dict[str, str]
    grids: dict[str, Learned]

    def parameters(self, learn_scales: bool) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Moves of weights and biases, and scales; these alone have gradients from now on."""
        weights = [move for layer in self.layers.values() for move in layer.moves]
        grids = [*(layer.rounding for layer in self.layers.values()), *self.grids.values()]
        scales = [grid.factor for grid in grids]
        for parameter in [*self.graph.parameters(), *scales]:
            parameter.requires_grad_(False)
        learned = scales if learn_scales else []
        for parameter in [*weights, *learned]:
            parameter.requires_grad_(parameter.is_floating_point())
        return weights, learned


def training_of(study: Study, mapping: QConfigMapping, names: tuple[str, ...]) -> Training:
    """The network of a configuration with learned roundings in the place of fixed ones."""
    plan, converted = study.plan(mapping), study.converted(mapping)
    placed = simulated_layers(study.graph, converted, plan)
    layers, refused = dict[str, LearnedLayer](), dict[str, str]()
    for name in names:
        target = find_target(study, plan, name)
        spec = None if isinstance(target, str) else target.step.weight
        if isinstance(target, str):
            refused[name] = target
        elif spec is None:
            refused[name] = stays_float(plan.step(name))
        elif spec.dtype.is_float:
            refused[name] = f"the codes of {spec.dtype.name} are not evenly spaced"
        else:
            grid = Learned(study.weight_qparams(name, spec)[0], True)
            layers[name] = LearnedLayer(target.module(study.graph), grid)
            placed[target.node] = layers[name]
    graph = simulate(study.graph, plan, codes_of(converted), placed)
    # simulate copies nothing that it is given: the placed layers are those in the graph
    return Training(graph, layers, refused, _learn_activations(study, plan, graph))


def _learn_activations(study: Study, plan: Plan, graph: fx.GraphModule) -> dict[str, Learned]:
    """Puts learned roundings of activations into a simulation; those whose scale has a place."""
    asked: dict[str, set[str]] = {}
    for value in plan.values:
        if value.observed:
            asked.setdefault(value.asked_by, set()).add(value.source)
    grids: dict[str, Learned] = {}
    nodes = list(study.graph.graph.nodes)
    for path, module in list(graph.named_children()):
        if not isinstance(module, Rounding):
            continue
        value = plan.by_node[nodes[int(path.rpartition("_")[2])].name]
        alone = asked.get(value.asked_by) == {value.source} and not value.constant
        if alone and not value.spec.dtype.is_float and not module.qparams.scale.ndim:
            grid = grids.setdefault(value.asked_by, Learned(module.qparams, True))
            setattr(graph, path, grid)
    return grids
