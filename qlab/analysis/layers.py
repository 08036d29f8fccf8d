"""The layers of a traced model, as people see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from qlab.graph.plan import Plan
from qlab.object_types import ObjectType, describe_object_type

INPUT = "input"


@dataclass(frozen=True)
class Layer:
    """One operator of the traced and fused model.

    Attributes:
        name: Module path, or the enclosing path and the function's name.
        type: Class or function, such as ``"Conv2d"`` or ``"add"``.
        input_shape: Shape of its first tensor input for the example inputs; None where unknown.
        output_shape: Shape of its output; None for tuples and other values.
        parameters: Number of float parameters.
        fused: Paths of the modules folded into it.
        inputs: Names of the layers that feed it, in order; ``"input"`` stands for the model's own.
            Empty in a model that has no graph, where nobody knows.
        quantizable: Whether the default preset gives it an integer or simulated form.
        reason: How it would be quantized, or why not.
    """

    name: str
    type: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    parameters: int
    fused: tuple[str, ...]
    inputs: tuple[str, ...]
    quantizable: bool
    reason: str


def describe_layers(graph_module: fx.GraphModule, plan: Plan) -> tuple[Layer, ...]:
    """One `Layer` per step of a plan, in graph order."""
    nodes = {node.name: node for node in graph_module.graph.nodes}
    shown = {step.node: step.name for step in plan.steps if step.execution != "none"}
    layers = []
    for step in plan.steps:
        if step.node not in shown:
            continue
        node = nodes[step.node]
        shapes = [_shape(source.meta.get("shape")) for source in node.all_input_nodes]
        layers.append(
            Layer(
                name=step.name,
                type=step.type,
                input_shape=next((shape for shape in shapes if shape is not None), None),
                output_shape=_shape(node.meta.get("shape")),
                parameters=int(node.meta.get("parameters", 0)),
                fused=step.fused,
                inputs=_feeding(node, shown),
                quantizable=step.execution in ("integer", "simulated"),
                reason=step.reason,
            )
        )
    return tuple(layers)


def types_of(graph_module: fx.GraphModule) -> dict[str, ObjectType]:
    """The types of a graph's operators, in words, as a rule by type names them; in graph order."""
    found: dict[str, ObjectType] = {}
    for node in graph_module.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method"):
            found[describe_object_type(node.meta["kind"])] = node.meta["kind"]
    return found


def _feeding(node: fx.Node, shown: dict[str, str]) -> tuple[str, ...]:
    """The nearest layers before a node; what is no layer, such as a size, is passed through."""
    found: dict[str, None] = {}
    for source in node.all_input_nodes:
        if source.op == "placeholder":
            found[INPUT] = None
        elif source.name in shown:
            found[shown[source.name]] = None
        else:
            found.update(dict.fromkeys(_feeding(source, shown)))
    return tuple(found)


def _shape(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, tuple) and all(type(length) is int for length in value):
        return value
    return None
