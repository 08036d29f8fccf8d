"""The layers that a repair may change, and copies of a graph to change them in."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from qlab.algorithms.base import Subject
from qlab.analysis.simulation import codes_of, simulate, simulated_layer, simulated_layers
from qlab.analysis.study import Study
from qlab.execution import Program
from qlab.graph import Plan
from qlab.graph.nodes import operands
from qlab.graph.plan import Step
from qlab.nn.intrinsic.fold import core
from qlab.qconfig import QConfigMapping
from qlab.ranges import Fixed


@dataclass(frozen=True, eq=False)
class Target:
    """A linear layer or convolution of a graph, with what was fused behind it.

    Attributes:
        name: The layer.
        node: Name of its node.
        path: Where its module is.
        source: Name of the node that feeds it.
        step: What the plan says of it.
    """

    name: str
    node: str
    path: str
    source: str
    step: Step

    def module(self, graph: fx.GraphModule) -> nn.Module:
        """The layer in one of the graphs, with what was fused behind it."""
        return graph.get_submodule(self.path)

    def inner_of(self, simulation: fx.GraphModule) -> nn.Conv2d | nn.Linear:
        """As `inner`, in a graph such as `simulation_of` makes, where paths differ."""
        node = next(n for n in simulation.graph.nodes if n.name == self.node)
        return replace(self, path=str(node.target)).inner(simulation)

    def inner(self, graph: fx.GraphModule) -> nn.Conv2d | nn.Linear:
        """The linear layer or convolution itself, which has a weight and perhaps a bias."""
        found: nn.Module = core(self.module(graph))
        assert isinstance(found, nn.Linear | _ConvNd)
        return found  # pyright: ignore[reportReturnType]

    def groups(self, graph: fx.GraphModule) -> int:
        """Of a convolution; 1 for a linear layer."""
        return int(getattr(self.inner(graph), "groups", 1))


def find_target(study: Study, plan: Plan, name: str) -> Target | str:
    """A layer that has a weight and a bias to change, or why it is none, in words."""
    step = plan.step(name)
    node = next(n for n in study.graph.graph.nodes if n.name == step.node)
    if node.op != "call_module":
        return "it has no weight"
    path, module = str(node.target), study.graph.get_submodule(str(node.target))
    if not isinstance(core(module), nn.Linear | _ConvNd):
        return f"it is no linear layer or convolution but {type(core(module)).__name__}"
    if sum(str(n.target) == path for n in study.graph.graph.nodes if n.op == "call_module") > 1:
        return "the network calls it several times, with different inputs"
    own = {id(p) for p in module.parameters()}
    for other, parameter in study.graph.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not other.startswith(f"{path}."):
            return f"it shares its weight with {other!r}"
    read = operands(node)  # a fused sum may add the very tensor that it convolves
    if len(read) != 1:
        return "it does not read one tensor alone"
    (source,) = read
    return Target(name, node.name, path, source.name, step)


def stays_float(step: Step) -> str:
    """Why a layer's weight is not quantized, in words."""
    return f"its weight stays in float: {step.reason}"


def grid_obstacle(step: Step) -> str | None:
    """Why codes of a layer's weight cannot be chosen one by one, in words; None where they can."""
    spec = step.weight
    if spec is None:
        return stays_float(step)
    if spec.dtype.is_float:
        return f"the codes of {spec.dtype.name} are not evenly spaced"
    if isinstance(spec.policy, Fixed):
        return "its weights lie on a fixed grid already"
    return None


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer is a transposed convolution, whose weight has input channels first."""
    return isinstance(layer, _ConvTransposeNd)


def channel_means(output: Tensor, layer: nn.Module) -> Tensor:
    """Mean of each output channel of a linear layer or convolution, float64 (C,)."""
    axis = -1 if isinstance(layer, nn.Linear) else 1
    others = [a for a in range(output.ndim) if a != axis % output.ndim]
    return output.mean(others, dtype=torch.float64) if others else output.double()


def add_to_bias(layer: nn.Module, shift: Tensor) -> None:
    """Adds a number per output channel to the bias of a layer; gives it one where it has none."""
    bias, weight = layer.bias, layer.weight
    assert isinstance(weight, Tensor)
    start = torch.zeros_like(shift) if bias is None else bias.detach().to(shift.dtype)  # type: ignore
    layer.bias = nn.Parameter((start + shift).to(weight.dtype), weight.requires_grad)


def set_weight(layer: nn.Module, weight: Tensor) -> None:
    """Gives a layer another weight of the same shape, in the type that it has."""
    known = layer.weight
    assert isinstance(known, nn.Parameter)
    layer.weight = nn.Parameter(weight.to(known.dtype), known.requires_grad)


def copied(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of a graph that may be changed."""
    return copy.deepcopy(graph)


def inner_name(layer: nn.Module) -> str:
    """Name of the weight of the linear layer or convolution in a layer, fused or not."""
    weight = core(layer).weight
    return next(name for name, parameter in layer.named_parameters() if parameter is weight)


def simulation_of(study: Study, mapping: QConfigMapping) -> fx.GraphModule:
    """The network as float arithmetic simulates it, every weight rounded in a module of its own.

    A dynamic layer's input, which is quantized anew in every call, is not rounded.
    """
    plan, converted = study.plan(mapping), study.converted(mapping)
    layers = simulated_layers(study.graph, converted, plan)
    nodes = {node.name: node for node in study.graph.graph.nodes}
    for step in plan.steps:
        if step.execution == "dynamic" and step.weight is not None:
            layer = study.graph.get_submodule(str(nodes[step.node].target))
            qparams = study.weight_qparams(step.name, step.weight)[0]
            layers[step.node] = simulated_layer(layer, qparams)
    return simulate(study.graph, plan, codes_of(converted), layers)


def pass_seconds(subject: Subject) -> float:
    """Seconds that one sample takes through the float network; measured on a small fixed sample."""
    study = subject.study
    _, size = study.sample()
    inputs = study.sample_inputs or study.example_inputs
    program = Program.of(study.reference)
    with torch.no_grad():
        program.run(inputs)
        began = time.perf_counter()
        program.run(inputs)
    return (time.perf_counter() - began) / size


def moments_seconds(study: Study, target: Target, samples: int) -> float:
    """Seconds that `Moments.of` will take for a layer's inputs, about."""
    values, size = study.sample()
    inner = target.inner(study.graph)
    columns = values[target.node].numel() / inner.weight.shape[0] / size * samples
    length = inner.weight[0].numel()
    return columns * target.groups(study.graph) * (2e-10 * length**2 + 5e-9 * length)


class Walk:
    """A program run node by node over several batches; a value is dropped after its last use.

    Args:
        program: The program.
        batches: Inputs of each batch.
    """

    def __init__(self, program: Program, batches: list[tuple[Tensor, ...]]) -> None:
        self._program = program
        self._values = [program.bind(inputs) for inputs in batches]
        self._todo = [i for i in program.instructions if i.op != "placeholder"]
        self._uses: dict[str, int] = {}
        for instruction in self._todo:
            for name in instruction.reads:
                self._uses[name] = self._uses.get(name, 0) + 1

    def before(self, node: str) -> None:
        """Runs what comes before a node."""
        while self._todo and self._todo[0].name != node:
            self._next()

    def inputs(self, node: str) -> list[Tensor]:
        """The first input of a node, batch by batch; only right after `before`."""
        read = self._program.by_name[node].reads[0]
        return [values[read] for values in self._values]

    @torch.no_grad()
    def _next(self) -> None:
        instruction = self._todo.pop(0)
        for values in self._values:
            values[instruction.name] = instruction.run(values)
        for name in instruction.reads:
            self._uses[name] -= 1
            if not self._uses[name]:
                for values in self._values:
                    del values[name]


def calibration_inputs(study: Study, samples: int) -> tuple[list[tuple[Tensor, ...]], int]:
    """Inputs of the first calibration batches, cut to so many samples, and how many there are."""
    found: list[tuple[Tensor, ...]] = []
    count = 0
    for source in study.sources:
        for batch in source:
            left, size = samples - count, batch.samples
            if left <= 0:
                return found, count
            found.append(
                tuple(
                    x[:left] if isinstance(x, Tensor) and x.ndim and x.shape[0] == size else x
                    for x in batch.inputs
                )
            )
            count += min(left, size)
    return found, count
