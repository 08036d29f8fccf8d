"""What a mapping asks of each operator of a graph, and which of its rules ask nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

from qlab.errors import ArgumentError
from qlab.granularity import PerTensor
from qlab.qconfig import (
    Address,
    QConfig,
    QConfigMapping,
    Resolution,
    Rule,
    get_default_qconfig_mapping,
)
from qlab.ranges import TensorSpec
from qlab.registry import ON_REQUEST
from qlab.registry.asked import Asked, asked_by

_ON_REQUEST = {pattern.fused for pattern in ON_REQUEST}
_CALLS = ("call_module", "call_function", "call_method")


@dataclass(frozen=True)
class Request:
    """What is asked of one operator, or of an input of the graph, which has no weight.

    Attributes:
        address: What rules may call it.
        qconfig: Its qconfig; None for float.
        rule: The rule that gave it, in words.
        activation: How its output is to be quantized; None for float.
        weight: How its weight is to be quantized; None for float.
        dynamic: Whether its input is to be quantized anew for every call.
    """

    address: Address
    qconfig: QConfig | None
    rule: str
    activation: TensorSpec | None = None
    weight: TensorSpec | None = None
    dynamic: bool = False

    @property
    def gives_codes(self) -> bool:
        """Whether it asks for one scale and zero point that are known before the call."""
        spec = self.activation
        return spec is not None and not self.dynamic and isinstance(spec.granularity, PerTensor)

    @property
    def why_float(self) -> str:
        """Why an operator without a qconfig has none."""
        return "no rule asked for it" if self.rule == "no rule" else f"kept in float by {self.rule}"


def requests_for(
    graph_module: fx.GraphModule, mapping: QConfigMapping
) -> tuple[dict[fx.Node, Request], dict[fx.Node, Request], tuple[str, ...]]:
    """Resolves a mapping for every operator of a graph, in graph order, and for its inputs.

    An input has a request of its own where a rule by module name is its name, such as ``"x"``, and
    no operator has that name or lies in a module of it.

    Returns:
        The requests of operators, those of inputs, and in words the rules that match neither. The
        types that the default mapping names, and with it every preset, are left out there.

    Raises:
        ArgumentError: The graph was not made by `trace`.
        QlabError: A qconfig holds something that is no observer; names it.
    """
    if any("name" not in node.meta for node in graph_module.graph.nodes):
        raise ArgumentError(
            "annotate: the graph has nodes without names",
            expected="a graph made by qlab.graph.trace and qlab.graph.fuse",
            received=type(graph_module).__name__,
        )
    operators = list(_operators(graph_module))
    factories: dict[int, Asked] = {}

    def asked(factory: Any) -> Asked:
        known = factories.get(id(factory))
        return known or factories.setdefault(id(factory), asked_by(factory))

    def request(address: Address, found: Resolution) -> Request:
        qconfig, rule = found
        if qconfig is None:
            return Request(address, None, rule)
        activation, weight = asked(qconfig.activation), asked(qconfig.weight)
        specs = activation.spec, weight.spec
        return Request(address, qconfig, rule, *specs, activation.dynamic)

    requests = {node: request(address, address.resolve(mapping)) for node, address in operators}
    addresses = [address for _, address in operators]
    inputs = {
        node: request(Address(rule.key, rule.key, (), 0), Resolution(rule.qconfig, str(rule)))
        for node, rule in _named_inputs(graph_module, mapping)
        if not _matches(rule, addresses)
    }
    used = {request.rule for request in (*requests.values(), *inputs.values())}
    unused = (r for r in mapping.rules() if str(r) not in used and not is_standard(r))
    unmatched = tuple(str(rule) for rule in unused if not _matches(rule, addresses))
    return requests, inputs, unmatched


def asked_of(graph_module: fx.GraphModule, mapping: QConfigMapping) -> dict[str, object]:
    """What a mapping asks of each operator of a graph that is not fused yet, by node.

    Equal for two operators only where one operator in their place would be asked for the same, and
    can be: not in float, nor with an input quantized as it comes. What only the default mapping
    says of a type counts as what is asked of all. Batch norms are left out.
    """
    standard = {str(rule) for rule in mapping.rules() if is_standard(rule)}
    found: dict[str, object] = {}
    for node, address in _operators(graph_module):
        kind = address.types[0]
        if isinstance(kind, type) and issubclass(kind, _BatchNorm):
            continue
        qconfig, rule = address.resolve(mapping)
        if qconfig is not None and rule in standard:
            qconfig = mapping.global_qconfig
        alone = qconfig is None or asked_by(qconfig.activation).dynamic
        found[node.name] = object() if alone else qconfig
    return found


def _named_inputs(
    graph_module: fx.GraphModule, mapping: QConfigMapping
) -> Iterator[tuple[fx.Node, Rule]]:
    for node in graph_module.graph.nodes:
        name = node.meta["name"]
        if node.op == "placeholder" and name in mapping.module_name_qconfigs:
            yield node, Rule("module_name", name, mapping.module_name_qconfigs[name])


def _operators(graph_module: fx.GraphModule) -> Iterator[tuple[fx.Node, Address]]:
    """Every operator, and how rules may refer to it."""
    seen: Counter[tuple[str, Any]] = Counter()
    for node in graph_module.graph.nodes:
        if node.op not in _CALLS:
            continue
        kind, path = node.meta["kind"], node.meta["path"]
        if node.op == "call_module" and isinstance(kind, type):
            module = graph_module.get_submodule(str(node.target))
            types = (type(module), kind)
        else:
            label = kind if isinstance(kind, str) else kind.__name__
            path = f"{path}.{label}" if path else label
            types = (node.meta["scope"], kind)
        scope = path.rpartition(".")[0]
        parts = node.meta.get("fused", ()) if types[0] in _ON_REQUEST else ()
        yield node, Address(node.meta["name"], path, types, seen[scope, kind], parts)
        seen[scope, kind] += 1


@cache
def _default_types() -> frozenset[Any]:
    return frozenset(get_default_qconfig_mapping().object_type_qconfigs)


def is_standard(rule: Rule) -> bool:
    """Whether a rule came with the default mapping rather than from a person."""
    return rule.style == "global" or (rule.style == "object_type" and rule.key in _default_types())


def _matches(rule: Rule, addresses: list[Address]) -> bool:
    """Whether a rule matches an operator that a stronger one decided."""
    key = rule.key if isinstance(rule.key, tuple) else (rule.key,)
    alone = QConfigMapping.from_dict({rule.style: [(*key, rule.qconfig)]})
    return any(address.resolve(alone).rule == str(rule) for address in addresses)
