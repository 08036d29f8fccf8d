"""A quantized network as float arithmetic simulates it: rounding around float operators."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qlab.graph.plan import Plan, Step
from qlab.graph.prepare import insert_behind
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized.base import QuantizedModule
from qlab.nn.quantized.holder import WEIGHT
from qlab.qparams import QParams, fake_quantize


class Rounding(nn.Module):
    """Rounds real numbers to those that codes can express, as fake quantization does.

    Args:
        qparams: Scale and zero point.
    """

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.qparams = qparams

    def forward(self, x: Any) -> Any:
        """Real numbers → the nearest that the codes stand for.

        Args:
            x: Of any shape; or several tensors, as a split gives them.
        """
        return pytree.tree_map_only(Tensor, self._rounded, x)

    def _rounded(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.qparams).to(x.dtype)


def simulated_layer(layer: nn.Module, weight: QParams | None) -> nn.Module:
    """A copy of a float layer whose weight is rounded to what its codes stand for.

    Args:
        layer: A float or fused module.
        weight: Scale and zero point of the weight; None leaves it as it is.
    """
    made = copy.deepcopy(layer)
    if weight is not None:
        inner = core(made)
        full: Tensor = inner.get_parameter("weight").detach()
        rounded = fake_quantize(full.to(torch.float32), weight).to(full.dtype)
        inner.weight = nn.Parameter(rounded, requires_grad=False)
    return made.eval()


def simulate(
    float_graph: fx.GraphModule,
    plan: Plan,
    qparams: Mapping[str, QParams],
    layers: Mapping[str, nn.Module],
) -> fx.GraphModule:
    """The float graph with a rounding at every place where the quantized one has codes.

    What a step on codes gives is rounded for all that read it; what is quantized on its way into
    one, for steps on codes only. A node keeps its name and gives its value before rounding.

    Args:
        float_graph: The fused float graph; it stays as it is.
        plan: What `annotate` decided for it.
        qparams: Scale and zero point of every quantized tensor, by node.
        layers: The module to put in place of a step's, by node, such as `simulated_layer` makes.

    Returns:
        A graph in evaluation mode that takes and gives what the float graph does.
    """
    made = copy.deepcopy(float_graph)
    steps = {step.node: step for step in plan.steps}
    for index, node in enumerate(list(made.graph.nodes)):
        if node.name in layers:
            made.add_submodule(f"simulated_{index}", layers[node.name])
            node.target = f"simulated_{index}"
        if node.name in qparams and node.name in plan.by_node:
            name = f"rounding_{index}"
            made.add_submodule(name, Rounding(qparams[node.name]))
            _round_behind(node, name, steps)
    made.recompile()
    return made.eval()


def simulated_layers(
    float_graph: fx.GraphModule, converted: fx.GraphModule, plan: Plan
) -> dict[str, nn.Module]:
    """What `simulate` puts in place of each step that computes on quantized numbers, by node.

    Args:
        float_graph: The fused float graph.
        converted: What `convert` makes of it under ``plan``.
        plan: What `annotate` decided.
    """
    operators = {node.name: node for node in converted.graph.nodes}
    sources = {node.name: node for node in float_graph.graph.nodes}
    found: dict[str, nn.Module] = {}
    for step in plan.steps:
        integer = module_of(converted, operators.get(step.node))
        layer = module_of(float_graph, sources[step.node])
        if step.execution == "dynamic" and integer is not None:
            found[step.node] = integer  # rounds its input itself: no simulation of its own
        computes = step.execution in ("integer", "simulated") or (
            step.execution == "shared" and isinstance(integer, QuantizedModule)
        )
        if computes and integer is not None and layer is not None:
            own = integer if isinstance(integer, QuantizedModule) and step.weight else None
            weight = own.get_qparams(WEIGHT) if own is not None else None
            found[step.node] = simulated_layer(layer, weight)
    return found


def module_of(graph_module: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    """The module that a node calls; None where it calls none."""
    if node is None or node.op != "call_module":
        return None
    return graph_module.get_submodule(str(node.target))


def codes_of(converted: fx.GraphModule) -> dict[str, QParams]:
    """How every quantized value of a converted graph is read, by the float node that it carries."""
    nodes = converted.graph.nodes
    return {n.meta["source"]: n.meta["qparams"] for n in nodes if "qparams" in n.meta}


def _round_behind(node: fx.Node, rounding: str, steps: Mapping[str, Step]) -> None:
    if _on_codes(steps.get(node.name)):
        insert_behind(node, rounding)
        return
    readers = [user for user in node.users if _on_codes(steps.get(user.name))]
    with node.graph.inserting_after(node):
        rounded = node.graph.call_module(rounding, (node,))
    for reader in readers:
        reader.replace_input_with(node, rounded)


def _on_codes(step: Step | None) -> bool:
    return step is not None and step.output is not None
