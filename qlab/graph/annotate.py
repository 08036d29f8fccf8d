"""Annotate: decides for every operator of a graph how it is quantized, and why.

Nothing is changed. Each operator first gets a verdict from the registry and its qconfig alone.
Then the tensors are gone through in graph order: what an operator on codes reads and gives is
quantized, and operators that only pass values on do so in codes where these come, or where all
that read them want codes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache

from torch import fx, nn

from qlab import registry
from qlab.granularity import PerTensor
from qlab.graph.backend import half_static, half_weight, not_allowed
from qlab.graph.infinite import infinite_nodes
from qlab.graph.lift import is_real, is_tensor, shape_nodes
from qlab.graph.nodes import bounds_of, calls, no_form, operands
from qlab.graph.plan import Execution, Plan, Step, Value
from qlab.graph.reasons import (
    SEVERAL_SCALES,
    dtype_words,
    weight_obstacle,
    why_simulated,
    with_real_biases,
)
from qlab.graph.requests import Request, requests_for
from qlab.graph.sharing import join
from qlab.graph.verdicts import Role, Verdict, of_special
from qlab.qconfig import QConfigMapping
from qlab.ranges import Fixed, TensorSpec
from qlab.registry import OutputKind, Row
from qlab.registry.asked import output_spec, weight_spec
from qlab.registry.backend import BackendConfig
from qlab.registry.sharing import SHARING, TRAINS_APART, Sharing


def annotate(
    graph_module: fx.GraphModule,
    mapping: QConfigMapping,
    backend: BackendConfig | None = None,
    masks: Collection[str] = (),
    sharing: Sharing = Sharing.SEPARATE,
) -> Plan:
    """The plan of a graph under a mapping; a pure function of the two.

    An operator that has an integer form and whose qconfig asks for it takes codes and gives codes.
    A tensor is quantized once: as the step that produces it asks, or, coming from outside or from
    a float operator, as the first step that wants its codes asks. An input of the graph may have a
    rule of its own, by its name; where that leaves it in float, what reads it does too. A step
    whose output only a clamp reads (ReLU, ReLU6, Hardtanh) takes the range of the clamp.

    Args:
        graph_module: A graph made by `trace` and `fuse`; it stays as it is.
        mapping: Which qconfig each operator gets.
        backend: What may be quantized at all, and how; everything that can be if not given.
        masks: Names of the placeholders that are known to hold infinity.
        sharing: How the tensors get their ranges; see `Sharing`.

    Returns:
        One step per operator, and the tensors that are quantized.

    Raises:
        ArgumentError: The graph was not made by `trace`.
        QlabError: A qconfig holds something that is no observer.
    """
    requests, inputs, unmatched = requests_for(graph_module, mapping)
    infinite = infinite_nodes(graph_module, masks)
    annotation = _Annotation(graph_module, (requests, inputs), (backend, sharing), infinite)
    plan = replace(annotation.plan(unmatched), integer_biases=mapping.integer_biases)
    return with_real_biases(plan, graph_module)


class _Annotation:
    """The decisions about one graph."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        requests: tuple[dict[fx.Node, Request], dict[fx.Node, Request]],
        held_to: tuple[BackendConfig | None, Sharing],
        infinite: set[fx.Node],
    ) -> None:
        self.graph_module = graph_module
        self.backend, self.sharing = held_to
        self.requests, self.inputs = requests
        self.shapes = shape_nodes(graph_module)
        self.infinite = infinite
        self.verdicts = {node: self._verdict(node) for node in self.requests}
        self._keep_pieces_together()
        self.asker_of = cache(self._asker_of)
        self.values: dict[fx.Node, Value] = {}
        self.in_codes: set[fx.Node] = set()  # made in codes by a step, not quantized on the way
        for node in self.requests:
            self._quantize_around(node)

    def plan(self, unmatched: tuple[str, ...]) -> Plan:
        """The decisions as a plan, in graph order."""
        steps = tuple(self._step(node) for node in self.requests)
        values = (self.values.get(node) for node in self.graph_module.graph.nodes)
        given = tuple(value for value in values if value is not None)
        return Plan(steps, given, unmatched, self.sharing)

    # Verdicts: what each operator could do, seen alone.

    def _row(self, node: fx.Node) -> Row | None:
        if "special" in node.meta:
            return None
        if node.op == "call_module":
            return registry.row_for_module(type(self._module(node)))
        if isinstance(node.target, str):
            row = registry.row_for_method(node.target)
        else:
            row = registry.row_for_function(node.target)
        return row if row is not None and row.static is None else None

    def _module(self, node: fx.Node) -> nn.Module:
        return self.graph_module.get_submodule(str(node.target))

    def _verdict(self, node: fx.Node) -> Verdict:
        if node in self.shapes:
            return Verdict(Role.NONE, "a size or another plain value, not a tensor")
        if not is_real(node):
            return Verdict(Role.NONE, "its result is not real numbers")
        row, request = self._row(node), self.requests[node]
        if "special" in node.meta:
            return of_special(node, request)
        if row is not None and row.dynamic is not None and request.dynamic:
            if request.weight is None and not half_weight(request):
                return Verdict(Role.FLOAT, "its qconfig leaves the weight in float")
            refused = self._not_allowed(node, row, request)
            return Verdict(Role.FLOAT if refused else Role.DYNAMIC, refused or "")
        if row is None or (row.static is None and row.output.kind is not OutputKind.SHARED):
            return Verdict(Role.FLOAT, node.meta.get("refused") or no_form(node))
        if request.qconfig is None:
            return Verdict(Role.FLOAT, request.why_float)
        refused = self._not_allowed(node, row, request)
        if self.backend is not None and row.static is not None and half_static(request.qconfig):
            return Verdict(Role.FLOAT if refused else Role.HALF, refused or "")
        obstacle = self._obstacle(node, row, request) or refused
        if obstacle is not None:
            return Verdict(Role.FLOAT, obstacle)
        if row.output.kind is OutputKind.SHARED:
            trained = self.sharing is Sharing.TRAINED
            if trained and node.meta["kind"] not in SHARING | TRAINS_APART:
                return Verdict(Role.FLOAT, "rounded before and behind it, as training did")
            return Verdict(Role.SHARED)
        return Verdict(Role.CODES if request.activation is not None else Role.WEIGHT)

    def _not_allowed(self, node: fx.Node, row: Row, request: Request) -> str | None:
        """Why the backend does not run an operator as asked, or None."""
        if self.backend is None:
            return None
        module = type(self._module(node)) if node.op == "call_module" else node.target
        return not_allowed(self.backend, (module, node.meta["kind"]), row, request)

    def _obstacle(self, node: fx.Node, row: Row, request: Request) -> str | None:
        """Why an operator stays in float although its qconfig asks for more, or None."""
        if not self.infinite.isdisjoint({node, *operands(node)}):
            return "it is given infinity, as a mask holds it, which no code stands for"
        if row.static is not None:
            refused = row.static.obstacle(self._module(node))
            if refused is not None:
                return refused
        if row.output.kind is OutputKind.FLOAT:
            return self._float_obstacle(node, row, request)
        if row.static is not None:
            if not all(is_real(operand) and is_tensor(operand) for operand in operands(node)):
                return "an operand is not a tensor of real numbers"
            if node.kwargs or len(operands(node)) < len(node.args):
                return "it is called with further arguments"
        if request.dynamic:
            return "a dynamic qconfig: its input's scale is not known before the call"
        if request.activation is None:
            moves = row.static is None
            takes_float = row.static is not None and row.static.takes_real_numbers
            weighted = row.weight and takes_float and request.weight is not None
            if not (moves or weighted):
                return "its qconfig leaves activations in float"
        elif not isinstance(request.activation.granularity, PerTensor):
            return SEVERAL_SCALES
        elif (kept := self._kept_in_float(node)) is not None:
            return f"it reads {kept.meta['name']!r}, left in float by {self.inputs[kept].rule}"
        spec = weight_spec(row, request.weight) if row.weight else None
        return weight_obstacle(self._module(node), spec) if spec else None

    def _kept_in_float(self, node: fx.Node) -> fx.Node | None:
        """An input of the graph that an operator reads and that its rule leaves in float."""
        named = (operand for operand in operands(node) if operand in self.inputs)
        return next((o for o in named if not self.inputs[o].gives_codes), None)

    def _float_obstacle(self, node: fx.Node, row: Row, request: Request) -> str | None:
        """Why an operator that gives real numbers does so with a float weight, or None."""
        if not row.weight:
            return "its output is never quantized"
        if request.activation is not None or request.weight is None:
            return "it gives real numbers: only a weight-only qconfig quantizes its weight"
        return weight_obstacle(self._module(node), request.weight)

    def _keep_pieces_together(self) -> None:
        """Leaves in float what gives several tensors, unless all of them are passed on."""
        for node, verdict in self.verdicts.items():
            row = self._row(node)
            pieces = not is_tensor(node) or (row is not None and row.name == "chunk")
            if verdict.role is Role.SHARED and pieces:
                readers = [self.verdicts.get(user) for user in node.users]
                if any(reader is None or reader.role is not Role.SHARED for reader in readers):
                    reason = "its pieces are not all passed on in codes"
                    self.verdicts[node] = Verdict(Role.FLOAT, reason)

    # Values: which tensors are quantized, and how.

    def _quantize_around(self, node: fx.Node) -> None:
        """Decides about the tensors that an operator reads and gives."""
        role, request = self.verdicts[node].role, self.requests[node]
        if role is Role.CODES and request.activation is not None:
            for operand in operands(node):
                self._quantize_outside(operand, node)
            row = self._row(node)
            spec = output_spec(row.output, request.activation) if row else request.activation
            clamps = [] if isinstance(spec.policy, Fixed) else self._clamps_behind(node)
            self.values[node] = self._value(node, spec, clamps[-1] if clamps else node, node)
            self.in_codes.add(node)
            if self._joins(node):
                join(self.values, node, operands(node), self._keeps)
        elif role is Role.SHARED:
            operand = operands(node)[0]
            asker = self.asker_of(node) if is_tensor(operand) else None
            if operand not in self.in_codes and asker is None:
                return
            if asker is not None:
                self._quantize_outside(operand, asker)
            self.values[node] = self._value(node, self.values[operand].spec, operand, node)
            self.in_codes.add(node)

    def _quantize_outside(self, operand: fx.Node, asker: fx.Node) -> None:
        """Quantizes a tensor on its way into a step, unless it is quantized already."""
        named = self.inputs.get(operand)
        decides = operand if named is not None and named.gives_codes else asker
        spec = self._request(decides).activation
        if operand not in self.values and spec is not None:
            self.values[operand] = self._value(operand, spec, operand, decides)

    def _value(
        self, node: fx.Node, spec: TensorSpec, shares_with: fx.Node, asker: fx.Node
    ) -> Value:
        shared = self.values.get(shares_with)
        source = shared.source if shared is not None else shares_with.name
        seen_by = node.name if source == node.name else None
        if shared is not None and source != node.name and is_tensor(node) and self._shares(node):
            seen_by = shared.seen_by
        elif self.sharing is Sharing.TRAINED and node.meta.get("kind") in TRAINS_APART:
            seen_by = node.name
        return Value(
            node=node.name,
            name=node.meta["name"],
            spec=spec,
            source=source,
            constant=node.op == "get_attr",
            address=shared.address if shared is not None else self._request(asker).address,
            requested=shared.requested if shared is not None else self._request(asker).qconfig,
            seen_by=seen_by,
        )

    def _shares(self, node: fx.Node) -> bool:
        """Whether the observer of an operator's input sees its output too."""
        return self.sharing is not Sharing.SEPARATE and node.meta.get("kind") in SHARING

    def _joins(self, node: fx.Node) -> bool:
        """Whether all that an operator reads shares one range with what it gives."""
        row = self._row(node)
        return row is not None and row.name in ("cat", "stack") and self._shares(node)

    def _keeps(self, node: fx.Node) -> bool:
        return node in self.verdicts and self.verdicts[node].role is Role.SHARED

    def _request(self, node: fx.Node) -> Request:
        """What is asked of an operator, or of an input that a rule names."""
        return self.inputs.get(node) or self.requests[node]

    def _clamps_behind(self, node: fx.Node) -> list[fx.Node]:
        """The clamps that one after the other are all that reads a tensor.

        Codes beyond their bounds would be wasted, so the tensor takes the clamped one's range.
        """
        chain: list[fx.Node] = []
        while self.sharing is not Sharing.TRAINED:
            readers = [user for user in (chain or [node])[-1].users if user not in self.shapes]
            if len(readers) != 1 or readers[0].op != "call_module":
                return chain
            row, verdict = self._row(readers[0]), self.verdicts[readers[0]]
            if row is None or not row.clamps or verdict.role is not Role.SHARED:
                return chain
            chain.append(readers[0])
        return chain

    def _bounds(self, node: fx.Node) -> tuple[float, float] | None:
        """Between what the clamps behind a tensor leave it; None without any."""
        bounds = [bounds_of(self._module(clamp)) for clamp in self._clamps_behind(node)]
        if not bounds:
            return None
        return max(low for low, _ in bounds), min(high for _, high in bounds)

    def _asker_of(self, node: fx.Node) -> fx.Node | None:
        """The first step on codes that a tensor reaches, if all that read it want codes."""
        first = None
        for user in node.users:
            if user in self.shapes:
                continue
            verdict = self.verdicts.get(user, Verdict(Role.FLOAT))
            found = user if verdict.role is Role.CODES else None
            if verdict.role is Role.SHARED:
                found = self.asker_of(user)
            if found is None:
                return None
            first = first or found
        return first

    # Steps: the decisions in words.

    def _step(self, node: fx.Node) -> Step:
        verdict, request, row = self.verdicts[node], self.requests[node], self._row(node)
        read = [o for o in operands(node) if o not in self.shapes and is_real(o)]
        given = [self._arriving(node, operand) for operand in read]
        value = self.values.get(node)
        output = value.spec if value is not None and node in self.in_codes else None
        weight = None
        if row is not None and row.weight and verdict.role in (Role.CODES, Role.WEIGHT):
            weight = weight_spec(row, request.weight)
        elif verdict.role is Role.DYNAMIC:
            weight = request.weight
        execution, reason = self._execution(node, given, weight, output)
        return Step(
            node=node.name,
            name=node.meta["name"],
            type=calls(node),
            fused=node.meta.get("fused", ()),
            row=row.name if row is not None else None,
            address=request.address,
            requested=request.qconfig,
            rule=request.rule,
            inputs=tuple(given) if verdict.role is not Role.NONE else (),
            weight=weight,
            output=output,
            execution=execution,
            reason=reason,
            bounds=self._bounds(node) if verdict.role is Role.CODES else None,
        )

    def _arriving(self, node: fx.Node, operand: fx.Node) -> TensorSpec | None:
        """How a tensor arrives at an operator that reads it."""
        takes_codes = node in self.in_codes
        value = self.values.get(operand)
        return value.spec if takes_codes and value is not None else None

    def _execution(
        self,
        node: fx.Node,
        inputs: list[TensorSpec | None],
        weight: TensorSpec | None,
        output: TensorSpec | None,
    ) -> tuple[Execution, str]:
        verdict, row = self.verdicts[node], self._row(node)
        match verdict.role:
            case Role.NONE:
                return "none", verdict.reason
            case Role.CUSTOM | Role.CODES if "special" in node.meta:
                return "custom", verdict.reason
            case Role.FLOAT:
                return "float", verdict.reason
            case Role.WEIGHT:
                return "simulated", "weight-only qconfig: float arithmetic, quantized weight"
            case Role.HALF:
                return "simulated", "float16 qconfig: weight and output rounded, float arithmetic"
            case Role.DYNAMIC if weight is None:
                return "dynamic", "dynamic qconfig: float16 weight, float arithmetic"
            case Role.DYNAMIC:
                kind = dtype_words(weight)
                return "dynamic", f"dynamic qconfig: {kind} weight, input quantized in every call"
            case Role.SHARED if output is not None:
                return "shared", "keeps the scale and zero point of its input"
            case Role.SHARED:
                moves = row is not None and row.static is None
                reason = "its input is float and nothing behind it asks for codes"
                return ("shared" if moves else "float"), reason
        if row is not None and row.weight and weight is None:
            return "simulated", "activation-only qconfig: float arithmetic, float weight"
        simulated = why_simulated(row, inputs, weight, output)
        if simulated:
            return "simulated", simulated
        words = " × ".join(dtype_words(spec) for spec in (*inputs, weight) if spec is not None)
        clamps = [clamp.meta["name"] for clamp in self._clamps_behind(node)]
        behind = f", in the range that {clamps[-1]} leaves" if clamps else ""
        named = [o for o in operands(node) if o in self.inputs]
        asked = "".join(f", the input as {self.inputs[o].rule} asks" for o in named)
        return "integer", f"{words} → {dtype_words(output)}{behind}{asked}"
