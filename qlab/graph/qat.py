"""Prepare for training: weights and activations are rounded in every pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cache

from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from qlab import registry
from qlab.errors import QlabError
from qlab.fake_quantize import FakeQuantize, FakeQuantizeBase, FixedQParamsFakeQuantize
from qlab.graph.lift import is_tensor
from qlab.graph.plan import Plan, Step, Value
from qlab.graph.prepare import asked_factory, hang, insert_behind
from qlab.observers import observer_for
from qlab.qparams import fake_quantize


class Rounded(nn.Module):
    """Rounds as a fake quantizer elsewhere in the graph does, without showing it the data.

    For a tensor that takes the range of a clamp behind it, before that clamp: what the clamp
    cuts off must not widen the range.

    Args:
        source: The fake quantizer behind the clamp.
    """

    def __init__(self, source: FakeQuantize) -> None:
        super().__init__()
        vars(self)["source"] = source  # no submodule: its state belongs to the other place

    def forward(self, x: Tensor) -> Tensor:
        """Real numbers → the nearest that the input's codes stand for."""
        source: FakeQuantize = vars(self)["source"]
        enabled = bool(source.fake_quant_enabled[0])
        return fake_quantize(x, source.current_qparams()) if enabled else x


def prepare_for_training(graph_module: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """Makes a float graph train as it will compute after conversion, in place.

    Layers whose weight the plan quantizes become quantization-aware; what it quantizes passes a
    fake quantizer, outputs of a fixed range and constants included. Behind an operator that keeps
    its input's range hangs the input's own fake quantizer once more, which so observes both, as in
    the reference. It is one module under several names.

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
    nodes = {node.name: node for node in graph_module.graph.nodes}
    keeping = {
        value.node
        for value in plan.values
        if value.node != value.source and _shows_its_output(graph_module, nodes[value.node])
    }
    names = hang(graph_module, _factories(plan, keeping))
    for value in plan.values:
        source = names.get(value.source)
        if value.node in names or source is None or nodes[value.node].op != "call_module":
            continue
        fake = graph_module.get_submodule(source)
        module = graph_module.get_submodule(str(nodes[value.node].target))
        if isinstance(fake, FakeQuantize) and _computes_on_codes(module):
            name = f"{source}_of_{value.node}"
            graph_module.add_submodule(name, Rounded(fake))
            insert_behind(nodes[value.node], name, rounds=value.node)
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


def _factories(
    plan: Plan, keeping: Collection[str]
) -> Iterator[tuple[Value, Callable[[], nn.Module]]]:
    """What makes the fake quantizer behind every tensor: for those in ``keeping`` the source's."""
    made: dict[str, Callable[[], nn.Module]] = {}
    for value in plan.values:
        if value.node != value.source:
            # Not there yet: the tensor takes the range of a clamp behind it.
            if value.node in keeping and value.source in made:
                yield value, made[value.source]
            continue
        factory = asked_factory(value)
        rounds = isinstance(factory(), FakeQuantizeBase)
        if not value.observed and not rounds:
            continue
        fixed = FixedQParamsFakeQuantize.with_args(observer=observer_for(value.spec))
        factory = cache(fixed if value.fixed else factory)
        if rounds:
            made[value.node] = factory
        yield value, factory


def _shows_its_output(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an operator that keeps its input's range shows its output to the fake quantizer.

    Dropout does not: in training it gives larger numbers than in evaluation.
    """
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return is_tensor(node) and not isinstance(module, _DropoutNd)


def _computes_on_codes(module: nn.Module) -> bool:
    """Whether an operator that keeps its input's scale gives numbers off its input's grid."""
    row = registry.row_for_module(type(module))
    moves = row is None or row.static is None or row.clamps
    return not moves and not isinstance(module, _DropoutNd)
