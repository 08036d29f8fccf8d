"""What a layer may be quantized to, which layers decide together, and what each choice costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import fx

from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.report import graph_bytes, module_bytes
from qlab.analysis.study import Study
from qlab.dtypes import integer
from qlab.errors import ArgumentError, DTypeError, UnknownNameError
from qlab.graph.plan import Plan, Step
from qlab.nn.intrinsic.fold import core
from qlab.qconfig import QConfig, QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec

Measure = Literal["size", "bit_ops"]
_FLOAT_BITS = 32
_BORDER = 8
"""Bytes of a module that turns real numbers into codes or back: a scale and a zero point."""


@dataclass(frozen=True)
class Candidate:
    """One way of quantizing a layer.

    Attributes:
        name: What tables call it, such as ``"w4a8"``; unique among candidates.
        weight: How its weight is quantized; None for float.
        activation: How its output is quantized; None for float.
    """

    name: str
    weight: TensorSpec | None
    activation: TensorSpec | None

    @property
    def is_float(self) -> bool:
        """Whether it leaves the layer as it is."""
        return self.weight is None and self.activation is None

    @property
    def qconfig(self) -> QConfig | None:
        """What a rule of a mapping gives; None for float."""
        return None if self.is_float else qconfig_of(self.activation, self.weight)

    @property
    def bits(self) -> int:
        """Bits of the weight times bits of the activation, 32 for float."""
        specs = (self.weight, self.activation)
        return math.prod(_FLOAT_BITS if spec is None else spec.dtype.bits for spec in specs)


FLOAT = Candidate("float", None, None)


def default_candidates(by: Measure, base: Candidate) -> tuple[Candidate, ...]:
    """The base, the same with other bits, and float.

    For a size, weights of 8, 6, 4, 3 and 2 bits beside the base's activations. For bit operations,
    also activations of 8, 6 and 4 bits where the base has more. Other bits than the base's come
    with ranges of least squared error.

    Args:
        by: What the budget limits.
        base: What every layer gets at first, such as 8 bits.
    """
    codes = base.activation
    widths: list[int | None] = [None if codes is None else codes.dtype.bits]
    if by == "bit_ops" and codes is not None:
        widths += [bits for bits in (8, 6, 4) if bits < codes.dtype.bits]
    made = {base.name: base}
    for activation in widths:
        for bits in (8, 6, 4, 3, 2):
            if activation is None or bits <= activation:
                one = _named(_of_bits(base.weight, bits), _of_bits(codes, activation))
                made.setdefault(one.name, one)
    return (*made.values(), FLOAT)


def _of_bits(spec: TensorSpec | None, bits: int | None) -> TensorSpec | None:
    """The same with other bits, and the range of least squared error."""
    if spec is None or bits is None or spec.dtype.bits == bits:
        return spec
    return replace(spec, dtype=integer(bits, signed=spec.dtype.signed), policy=MSE())


def _named(weight: TensorSpec | None, activation: TensorSpec | None) -> Candidate:
    """A candidate called after its bits, such as ``"w4a8"``; 32 stands for float."""
    widths = ("32" if spec is None else str(spec.dtype.bits) for spec in (weight, activation))
    return Candidate("w{}a{}".format(*widths), weight, activation)


@dataclass(frozen=True)
class Group:
    """Layers that are quantized alike, since they share a weight or a scale.

    Attributes:
        layers: Their names, in graph order.
        candidates: What they may become.
        bytes: Size of their modules for each candidate; float includes the two borders between
            codes and real numbers that each of them may need.
        bit_ops: MACs × weight bits × activation bits for each candidate.
    """

    layers: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    bytes: tuple[int, ...]
    bit_ops: tuple[int, ...]


class Space:
    """All mappings that a search may return.

    Args:
        study: The float network and its statistics.
        mapping: What everything gets that the search does not decide.
        candidates: What layers may become; for each layer those that it can execute.
        by: What the budget limits.
        on_progress: Called as ``(candidates done, candidates in all, label)`` while their sizes are
            measured.
        should_stop: Asked before each tensor whose range that takes, and each candidate.

    Attributes:
        complete: False where it was stopped: nothing can be decided then, there are no groups.

    Raises:
        DTypeError: Candidates that are none.
        ArgumentError: Candidates without unique names, or no layer whose weight is quantized.
        UnknownNameError: ``by`` is neither ``"size"`` nor ``"bit_ops"``.
    """

    def __init__(
        self,
        study: Study,
        mapping: QConfigMapping,
        candidates: Sequence[Candidate] | None,
        by: Measure,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> None:
        if by not in ("size", "bit_ops"):
            raise UnknownNameError.of("measure of a budget", by, ("size", "bit_ops"))
        self.study, self.base = study, mapping
        self.by: Measure = by
        plan = study.plan(mapping)
        self._modules = {
            str(n.meta["name"]): n for n in study.graph.graph.nodes if n.op == "call_module"
        }
        steps = [s for s in plan.steps if s.weight is not None and s.name in self._modules]
        if not steps:
            raise ArgumentError(
                "The search has nothing to decide",
                expected="a mapping under which the weight of a layer is quantized",
                received=f"{len(plan.steps)} operators without",
            )
        self.layers = tuple(step.name for step in steps)
        self.candidates = _checked(candidates, by, steps[0])
        uniform = {c.name: self.uniform(c) for c in self.candidates}
        self._plans = {name: study.plan(mapping) for name, mapping in uniform.items()}
        self.base_bytes = graph_bytes(self._sized(mapping))
        self.base_bit_ops = sum(self._macs(s.name) * _bits(s) for s in steps)
        self._converted: dict[str, fx.GraphModule] = {}
        self.complete = self._prepare(on_progress, should_stop or (lambda: False))
        self.groups = tuple(map(self._group, self._together(plan))) if self.complete else ()

    def _prepare(self, on_progress: Progress | None, stop: Stop) -> bool:
        """Quantizes every candidate for its size; False where it was stopped."""
        for done, candidate in enumerate(self.candidates, start=1):
            if not candidate.is_float:
                plan = self._plans[candidate.name]
                for value in plan.values:
                    if stop():
                        return False
                    if value.observed:
                        self.study.activation_qparams(value.node, value.spec)
                self._converted[candidate.name] = self.study.execute(plan, sized=True)
            if on_progress is not None:
                on_progress(done, len(self.candidates), f"preparing {candidate.name}")
        return True

    @cached_property
    def fixed_bytes(self) -> int:
        """Size of everything that the search does not decide."""
        converted = self._sized(self.base)
        return self.base_bytes - sum(module_bytes(converted.get_submodule(n)) for n in self.layers)

    def costs(self, group: Group) -> tuple[int, ...]:
        """What the budget counts of a group, for each of its candidates."""
        return group.bytes if self.by == "size" else group.bit_ops

    @property
    def fixed_cost(self) -> int:
        """What the budget counts of all that the search does not decide."""
        return self.fixed_bytes if self.by == "size" else 0

    @property
    def base_cost(self) -> int:
        """What the base takes, of which a budget may be a fraction."""
        return self.base_bytes if self.by == "size" else self.base_bit_ops

    def uniform(self, candidate: Candidate) -> QConfigMapping:
        """The mapping that gives every layer to be decided the same candidate."""
        return self.mapping(dict.fromkeys(self.layers, candidate))

    def configurations(self) -> dict[str, QConfigMapping | str | None]:
        """The mappings whose sensitivities a search needs, by candidate; float loses nothing."""
        return {c.name: self.uniform(c) for c in self.candidates if not c.is_float}

    def mapping(self, chosen: dict[str, Candidate]) -> QConfigMapping:
        """The base with a rule for each layer that is chosen otherwise than the base has it."""
        made, plan = self.base.copy(), self.study.plan(self.base)
        for name, candidate in chosen.items():
            if candidate.qconfig != plan.step(name).requested:
                plan.step(name).address.give(made, candidate.qconfig)
        return made

    def _sized(self, mapping: QConfigMapping) -> fx.GraphModule:
        """A quantized graph of the size that a mapping's has, with weights rounded anyhow.

        Searching for the best ranges of all weights takes longer than running the network, and
        how many bytes a scale takes does not depend on it.
        """
        return self.study.execute(self.study.plan(mapping), sized=True)

    def exact_bytes(self, chosen: dict[str, Candidate]) -> int:
        """Size of the converted model, as `Report.size` has it.

        Without float layers it is the sum of the groups'; with them, converting tells which
        borders between codes and real numbers they share.
        """
        if not any(candidate.is_float for candidate in chosen.values()):
            taken = [g.bytes[g.candidates.index(chosen[g.layers[0]])] for g in self.groups]
            return sum(taken) + self.fixed_bytes
        return graph_bytes(self._sized(self.mapping(chosen)))

    def _together(self, plan: Plan) -> list[list[str]]:
        """The layers in groups that share a weight, a module or a range."""
        found: list[tuple[set[object], list[str]]] = []
        for name in self.layers:
            module = self.study.graph.get_submodule(str(self._modules[name].target))
            value = plan.by_node.get(self._modules[name].name)
            keys: set[object] = {id(module), id(core(module).weight)}
            keys |= {value.source} if value is not None else set()
            names = [name]
            for group in [group for group in found if group[0] & keys]:
                found.remove(group)
                keys |= group[0]
                names = [*group[1], *names]
            found.append((keys, names))
        return [sorted(names, key=self.layers.index) for _, names in found]

    def _group(self, layers: list[str]) -> Group:
        possible = [c for c in self.candidates if all(self._executes(n, c) for n in layers)]
        if not possible:
            raise ArgumentError(
                f"No candidate fits the layer {layers[0]!r}",
                expected="at least one that it can execute",
                received=", ".join(c.name for c in self.candidates),
                fix="Lab.plan says why a layer stays in float.",
            )
        return Group(
            tuple(layers),
            tuple(possible),
            tuple(sum(self._bytes(name, c) for name in layers) for c in possible),
            tuple(sum(self._macs(name) for name in layers) * c.bits for c in possible),
        )

    def _executes(self, name: str, candidate: Candidate) -> bool:
        """Whether a layer gets what a candidate asks for; another rule may be stronger."""
        step = self._plans[candidate.name].step(name)
        if candidate.is_float:
            return not step.quantized
        return step.weight == candidate.weight and (step.output is None) == (
            candidate.activation is None
        )

    def _bytes(self, name: str, candidate: Candidate) -> int:
        if candidate.is_float:
            module = self.study.graph.get_submodule(str(self._modules[name].target))
            return module_bytes(module) + _BORDER * (1 + len(self._modules[name].all_input_nodes))
        return module_bytes(self._converted[candidate.name].get_submodule(name))

    def _macs(self, name: str) -> int:
        """Multiply-accumulates of a layer for the example inputs; 0 for a table of embeddings."""
        node = self._modules[name]
        layer = core(self.study.graph.get_submodule(str(node.target)))
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        if isinstance(layer, torch.nn.Embedding | torch.nn.EmbeddingBag):
            return 0
        transposed = getattr(layer, "transposed", False)
        read = node.all_input_nodes[0] if transposed else node
        return read.meta["numel"] * weight.numel() // weight.shape[0]


def _bits(step: Step) -> int:
    assert step.weight is not None
    return Candidate("", step.weight, step.output).bits


def _checked(
    candidates: Sequence[Candidate] | None, by: Measure, step: Step
) -> tuple[Candidate, ...]:
    if candidates is None:
        qconfig = step.requested
        assert qconfig is not None
        return default_candidates(by, _named(qconfig.weight_spec, qconfig.activation_spec))
    given = [candidates] if isinstance(candidates, Candidate) else candidates
    wrong = [c for c in given if not isinstance(c, Candidate)] if _several(given) else [given]
    if wrong:
        raise DTypeError(
            "Not a candidate of a search",
            expected="a sequence of qlab.Candidate, or None for the default ones",
            received=repr(wrong[0]),
        )
    names = [candidate.name for candidate in given]
    if not names or len(set(names)) < len(names):
        raise ArgumentError(
            "A search needs candidates with names of their own",
            expected="at least one Candidate, each with another name",
            received=f"{names}",
        )
    return tuple(given)


def _several(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)
