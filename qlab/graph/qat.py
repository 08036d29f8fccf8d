"""Prepare for training: weights and activations are rounded in every pass."""

from __future__ import annotations

from torch import fx

from qlab import registry
from qlab.errors import QlabError
from qlab.fake_quantize import FakeQuantizeBase, FixedQParamsFakeQuantize
from qlab.graph.plan import Plan, Step, Value
from qlab.graph.prepare import Factory, asked_factory, factories, hang
from qlab.observers import observer_for


def prepare_for_training(graph_module: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """Makes a float graph train as it will compute after conversion, in place.

    Layers whose weight the plan quantizes become quantization-aware; what it quantizes passes a
    fake quantizer, outputs of a fixed range and constants included. Tensors that share a range
    pass the same one, as far as the plan says: it is one module under several names.

    Args:
        graph_module: A graph in training mode, made by `trace` and `fuse`.
        plan: What `annotate` decided for it.

    Returns:
        The same graph; its ``meta["plan"]`` is the plan.

    Raises:
        QlabError: A layer cannot be made quantization-aware; names it.
    """
    for step in plan.steps:
        if step.weight is not None:
            _make_aware(graph_module, step)
    hang(graph_module, factories(plan, _factory))
    graph_module.meta["plan"] = plan
    graph_module.recompile()
    return graph_module


def _make_aware(graph_module: fx.GraphModule, step: Step) -> None:
    module = graph_module.get_submodule(step.name)
    row = registry.row_for_module(type(module))
    aware = registry.qat_modules().get(type(module))
    if step.execution == "dynamic" and row is not None:
        aware = row.qat_dynamic
    if aware is None or type(module) is not aware.float_type:
        return  # no form to train in: its weight is rounded at conversion
    vars(module)["qconfig"] = step.requested
    try:
        graph_module.add_submodule(step.name, aware.from_float(module))
    except QlabError as error:
        raise type(error)(f"prepare_qat_fx: {step.name!r} ({step.type}): {error}") from error


def _factory(value: Value) -> Factory | None:
    """What makes a tensor's fake quantizer; None where only an observer is asked for in vain."""
    factory = asked_factory(value)
    rounds = isinstance(factory(), FakeQuantizeBase)
    if (value.constant or value.fixed) and not rounds:
        return None
    if value.fixed:
        return FixedQParamsFakeQuantize.with_args(observer=observer_for(value.spec))
    return factory
