"""Modules that the registry does not decide about: custom and standalone ones."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from qlab.errors import ArgumentError, DTypeError, QlabError, UnsupportedError
from qlab.graph.custom import (
    ConvertCustomConfig,
    PrepareCustomConfig,
    StandaloneModuleConfigEntry,
)
from qlab.graph.plan import Plan, Step
from qlab.nn.quantized import DeQuantize
from qlab.nn.quantized.holder import QParamsHolder
from qlab.qparams import QParams, quantize
from qlab.qtensor import QTensor
from qlab.registry.asked import asked_by
from qlab.registry.quant_type import QuantType, kind_of

#: ``meta["special"]`` of a node: a submodule quantized on its own; else its quantization types.
STANDALONE = "standalone"
Prepare = Callable[[nn.Module, StandaloneModuleConfigEntry], fx.GraphModule]


class CodesToQTensor(QParamsHolder):
    """Plain codes → the `QTensor` that a person's own module takes."""

    def forward(self, codes: Tensor) -> QTensor:
        """Codes as bound → a `QTensor` of the same shape."""
        bound = self.input_qparams
        assert bound is not None and bound[0] is not None
        return QTensor(codes, bound[0])


class QTensorToCodes(QParamsHolder):
    """What a person's own module gives → plain codes of the bound scale and zero point."""

    def forward(self, x: Tensor) -> Tensor:
        """A `QTensor`, whose codes are taken as they are if they mean the same; or real numbers.

        Raises:
            DTypeError: Something else.
        """
        bound = self.input_qparams
        assert bound is not None and bound[0] is not None
        if isinstance(x, QTensor):
            return (
                x.codes if same_qparams(x.qparams, bound[0]) else quantize(x.dequantize(), bound[0])
            )
        if isinstance(x, Tensor) and x.is_floating_point():
            return quantize(x, bound[0])
        raise DTypeError(
            "A custom module gave something that cannot be quantized",
            expected="a QTensor or a floating-point tensor",
            received=str(x.dtype) if isinstance(x, Tensor) else type(x).__name__,
        )


def same_qparams(a: QParams, b: QParams) -> bool:
    """Whether codes of one mean the same as codes of the other."""
    if a.dtype != b.dtype or a.scale.shape != b.scale.shape:
        return False
    return bool((a.scale == b.scale).all() and (a.zero_point == b.zero_point).all())


def mark(graph_module: fx.GraphModule, custom: PrepareCustomConfig) -> None:
    """Marks the nodes of custom and standalone modules for `annotate`, in place.

    Raises:
        ArgumentError: A standalone module is named that the model does not call.
    """
    found = set()
    for node in graph_module.graph.nodes:
        if node.op != "call_module":
            continue
        module = graph_module.get_submodule(str(node.target))
        if custom.standalone(node.meta["path"], module) is not None:
            node.meta["special"] = STANDALONE
            found.add(node.meta["path"])
        elif type(module) in custom.observed_classes:
            node.meta["special"] = frozenset(custom.observed_classes[type(module)])
    missing = sorted(set(custom.standalone_module_names) - found)
    if missing:
        raise ArgumentError(
            "A standalone module is not there",
            expected="paths of modules that the model calls",
            received=", ".join(map(repr, missing)),
        )


def observe(
    prepared: fx.GraphModule, plan: Plan, custom: PrepareCustomConfig, own: Prepare
) -> None:
    """Puts observed modules in place of custom ones, and prepares standalone ones, in place.

    Args:
        prepared: What `prepare` made.
        plan: Its plan.
        custom: The customisation.
        own: Prepares a standalone module by its entry.

    Raises:
        QlabError: A standalone module cannot be prepared; names it.
    """
    nodes = {node.name: node for node in prepared.graph.nodes}
    for step in plan.steps:
        special = nodes[step.node].meta.get("special")
        if special is None:
            continue
        module = prepared.get_submodule(step.name)
        if special == STANDALONE:
            entry = custom.standalone(nodes[step.node].meta["path"], module)
            assert entry is not None
            try:
                observed = own(module, entry)
                observed.meta[STANDALONE] = step.name
                prepared.add_submodule(step.name, observed)
            except QlabError as error:
                message = f"standalone module {step.name!r} ({step.type}): {error}"
                raise type(error)(message) from error
        elif step.execution == "custom":
            for part in module.modules():  # its own layers too, as from_float may use them
                vars(part)["qconfig"] = step.requested
            observed: Any = custom.observed_classes[type(module)][_kind(step)]
            prepared.add_submodule(step.name, observed.from_float(module))


def quantized(
    floating: fx.GraphModule,
    plan: Plan,
    observers: Mapping[str, nn.Module],
    custom: ConvertCustomConfig,
    own: Callable[[fx.GraphModule], fx.GraphModule],
) -> dict[str, nn.Module]:
    """The quantized modules of custom and standalone ones, by node.

    Args:
        floating: The graph behind a prepared one; its modules are those that were calibrated.
        plan: Its plan.
        observers: By the node they observe; a custom module gets that of its output as the
            attribute ``activation_post_process``.
        custom: The customisation of `convert_fx`.
        own: Converts a standalone module.

    Raises:
        UnsupportedError: Nothing says what a custom module becomes; names it.
    """
    nodes = {node.name: node for node in floating.graph.nodes}
    found: dict[str, nn.Module] = {}
    for step in plan.steps:
        special = nodes[step.node].meta.get("special")
        module = floating.get_submodule(step.name) if special is not None else None
        if special == STANDALONE and isinstance(module, fx.GraphModule):
            found[step.node] = own(module)
        elif step.execution == "custom" and module is not None:
            value = plan.by_node.get(step.node)
            observer = observers.get(value.source) if value is not None else None
            found[step.node] = _from_observed(step, module, observer, custom)
    return found


def _from_observed(
    step: Step, module: nn.Module, observer: nn.Module | None, custom: ConvertCustomConfig
) -> nn.Module:
    kind = _kind(step)
    classes = custom.observed_to_quantized_mapping.get(kind, {})
    target: Any = classes.get(type(module))
    if target is None:
        raise UnsupportedError(
            f"convert_fx: nothing says what the custom module {step.name!r} becomes",
            expected=f"a quantized class for {type(module).__name__}, {kind.name.lower()}",
            received=", ".join(known.__name__ for known in classes) or "no classes",
            fix="Call ConvertCustomConfig().set_observed_to_quantized_mapping(observed, quantized, "
            "quant_type).",
        )
    observed = copy.deepcopy(module)
    if observer is not None:
        observed.activation_post_process = observer
    return target.from_observed(observed)


def _kind(step: Step) -> QuantType:
    assert step.requested is not None
    return kind_of(asked_by(step.requested.activation))


def read_standalone(
    converted: fx.GraphModule, floating: fx.GraphModule, replaced: Mapping[str, nn.Module]
) -> None:
    """Lets a converted graph read what standalone modules give as `QTensor`, in place.

    Args:
        converted: The graph.
        floating: The graph that was converted, whose standalone modules are prepared ones.
        replaced: What stands for them, by node.
    """
    for node in list(converted.graph.nodes):
        made = replaced.get(node.meta.get("source")) if node.op == "call_module" else None
        if made is None or converted.get_submodule(str(node.target)) is not made:
            continue
        prepared: Any = floating.get_submodule(str(node.target))
        custom = getattr(prepared, "meta", {}).get("custom")
        if custom is not None and custom.output_quantized_indexes:
            (output,) = (other for other in prepared.graph.nodes if other.op == "output")
            _read_as_real(node, node.meta["source"], many=not isinstance(output.args[0], fx.Node))
    converted.recompile()


def real_numbers(value: Any) -> Any:
    """A value with every `QTensor` in it dequantized; tuples, lists and dicts keep their form."""
    return tree_map_only(QTensor, QTensor.dequantize, value)


def _read_as_real(node: fx.Node, source: str, *, many: bool) -> None:
    """Lets all users of a node that gives a `QTensor`, or ``many`` values, read real numbers."""
    graph = node.graph
    with graph.inserting_after(node):
        if many:
            real = graph.call_function(real_numbers, (node,))
        else:
            real = graph.call_method("dequantize", (node,))
    real.meta = {"source": source}
    node.replace_all_uses_with(real, delete_user_cb=lambda user: user is not real)


def at_borders(graph_module: fx.GraphModule, custom: PrepareCustomConfig) -> fx.GraphModule:
    """Lets a converted graph take and give `QTensor` where the customisation says so, in place.

    Raises:
        ArgumentError: It has no input or output of that index; or the output is no codes.
    """
    graph = graph_module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for index in custom.input_quantized_indexes:
        node = _at("input", inputs, index)
        many = any(user.target is operator.getitem for user in node.users)
        _read_as_real(node, node.name, many=many)
    (output,) = (node for node in graph.nodes if node.op == "output")
    given = output.args[0]
    outputs = list(given) if isinstance(given, tuple | list) else [given]
    for index in custom.output_quantized_indexes:
        node = _at("output", outputs, index)
        codes = _codes_behind(graph_module, node)
        if codes is None:
            raise ArgumentError(
                "An output that is not quantized cannot be returned quantized",
                received=f"output {index}, {node}",
                fix="Quantize the layer that gives it, or leave it out of "
                "output_quantized_indexes.",
            )
        outputs[index] = _kept(graph_module, output, node, codes)
    if isinstance(given, tuple | list):
        output.args = (type(given)(outputs),)
    elif custom.output_quantized_indexes:
        output.args = (outputs[0],)
    graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _kept(graph_module: fx.GraphModule, output: fx.Node, node: fx.Node, codes: fx.Node) -> fx.Node:
    """The node that gives codes behind an output as a `QTensor`."""
    if node.op == "call_method":
        return codes
    name = f"{node.name}_kept"
    graph_module.add_submodule(name, CodesToQTensor().bind_inputs(codes.meta["qparams"]))
    with graph_module.graph.inserting_before(output):
        kept = graph_module.graph.call_module(name, (codes,))
    kept.meta = {"source": node.meta["source"]}
    return kept


def _codes_behind(graph_module: fx.GraphModule, node: Any) -> fx.Node | None:
    """The codes, or `QTensor`, that a graph's output was dequantized from, or None."""
    if not isinstance(node, fx.Node) or node.op not in ("call_module", "call_method"):
        return None
    if node.op == "call_method":
        (first, *_) = node.all_input_nodes
        return first if node.target == "dequantize" and "qparams" in first.meta else None
    module = graph_module.get_submodule(str(node.target))
    return node.all_input_nodes[0] if isinstance(module, DeQuantize) else None


def _at(what: str, nodes: list[Any], index: int) -> Any:
    if not 0 <= index < len(nodes):
        raise ArgumentError(
            f"The model has no {what} of this index",
            expected=f"0 to {len(nodes) - 1}",
            received=index,
        )
    return nodes[index]
