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
from qlab.qconfig import (
    QConfig,
    QConfigMapping,
    Resolution,
    Rule,
    get_default_qconfig_mapping,
    resolve,
)
from qlab.ranges import TensorSpec
from qlab.registry import ON_REQUEST
from qlab.registry.asked import Asked, asked_by

_ON_REQUEST = {pattern.fused for pattern in ON_REQUEST}
_CALLS = ("call_module", "call_function", "call_method")


@dataclass(frozen=True)
class Request:
    """What is asked of one operator.

    Attributes:
        qconfig: Its qconfig; None for float.
        rule: The rule that gave it, in words.
        activation: How its output is to be quantized; None for float.
        weight: How its weight is to be quantized; None for float.
        dynamic: Whether its input is to be quantized anew for every call.
    """

    qconfig: QConfig | None
    rule: str
    activation: TensorSpec | None = None
    weight: TensorSpec | None = None
    dynamic: bool = False

    @property
    def why_float(self) -> str:
        """Why an operator without a qconfig has none."""
        return "no rule asked for it" if self.rule == "no rule" else f"kept in float by {self.rule}"


def requests_for(
    graph_module: fx.GraphModule, mapping: QConfigMapping
) -> tuple[dict[fx.Node, Request], tuple[str, ...]]:
    """Resolves a mapping for every operator of a graph, in graph order.

    Returns:
        The requests, and in words the rules that match no operator. The types that the default
        mapping names, and with it every preset, are left out there.

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
        if id(factory) not in factories:
            factories[id(factory)] = asked_by(factory)
        return factories[id(factory)]

    requests = {}
    for operator in operators:
        qconfig, rule = operator.resolve(mapping)
        request = Request(qconfig, rule)
        if qconfig is not None:
            activation, weight = asked(qconfig.activation), asked(qconfig.weight)
            request = Request(qconfig, rule, activation.spec, weight.spec, activation.dynamic)
        requests[operator.node] = request
    used = {request.rule for request in requests.values()}
    unmatched = [
        str(rule)
        for rule in mapping.rules()
        if str(rule) not in used and not _standard(rule) and not _matches(rule, operators)
    ]
    return requests, tuple(unmatched)


def asked_of(graph_module: fx.GraphModule, mapping: QConfigMapping) -> dict[str, object]:
    """What a mapping asks of each operator of a graph that is not fused yet, by node.

    Equal for two operators only where one operator in their place would be asked for the same, and
    can be: not in float, nor with an input quantized as it comes. What only the default mapping
    says of a type counts as what is asked of all. Batch norms are left out.
    """
    standard = {str(rule) for rule in mapping.rules() if _standard(rule)}
    found: dict[str, object] = {}
    for operator in _operators(graph_module):
        if isinstance(operator.types[0], type) and issubclass(operator.types[0], _BatchNorm):
            continue
        qconfig, rule = operator.resolve(mapping)
        if qconfig is not None and rule in standard:
            qconfig = mapping.global_qconfig
        alone = qconfig is None or asked_by(qconfig.activation).dynamic
        found[operator.node.name] = object() if alone else qconfig
    return found


@dataclass(frozen=True)
class _Operator:
    """How rules may refer to one operator.

    Attributes:
        node: Its node.
        name: Its own name; several calls of one module have names of their own.
        path: The name that all calls of the module share.
        types: What rules by type may call it, the strongest first.
        index: Which of its kind in the module around it, from 0.
    """

    node: fx.Node
    name: str
    path: str
    types: tuple[Any, ...]
    index: int

    def resolve(self, mapping: QConfigMapping) -> Resolution:
        own = self.name in mapping.module_name_qconfigs
        scope = self.path.rpartition(".")[0]
        name = self.name if own else self.path
        found = resolve(mapping, name, self.types, scope=scope, index=self.index)
        return next(self._of_parts(mapping, found), found)

    def _of_parts(self, mapping: QConfigMapping, found: Resolution) -> Iterator[Resolution]:
        """Float, by each rule that names a part and asks something else of it.

        The parts of `ON_REQUEST` compute other integers alone than together, so where a person
        asks for one of them alone, the whole is not for integers.
        """
        if self.types[0] not in _ON_REQUEST:
            return
        for name in self.node.meta.get("fused", ()):
            part = resolve(mapping, name, ())
            if part.rule not in ("global", "no rule") and part.qconfig != found.qconfig:
                yield Resolution(None, part.rule)


def _operators(graph_module: fx.GraphModule) -> Iterator[_Operator]:
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
        yield _Operator(node, node.meta["name"], path, types, seen[scope, kind])
        seen[scope, kind] += 1


@cache
def _default_types() -> frozenset[Any]:
    return frozenset(get_default_qconfig_mapping().object_type_qconfigs)


def _standard(rule: Rule) -> bool:
    """Whether a rule came with the default mapping rather than from a person."""
    return rule.style == "global" or (rule.style == "object_type" and rule.key in _default_types())


def _matches(rule: Rule, operators: list[_Operator]) -> bool:
    """Whether a rule matches an operator that a stronger one decided."""
    key = rule.key if isinstance(rule.key, tuple) else (rule.key,)
    alone = QConfigMapping.from_dict({rule.style: [(*key, rule.qconfig)]})
    return any(operator.resolve(alone).rule == str(rule) for operator in operators)
