"""The plan: what is asked of every operator, what it gets, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd
from torch import Tensor

from qlab.errors import UncalibratedError, UnknownNameError
from qlab.qconfig import Address, QConfig
from qlab.qparams import QParams
from qlab.ranges import Fixed, TensorSpec
from qlab.registry import ROWS
from qlab.registry.asked import asked_by
from qlab.registry.sharing import Sharing
from qlab.stats import TensorStats

Execution = Literal["integer", "simulated", "dynamic", "custom", "float", "shared", "none"]

#: Names of the registry's rows whose operators have a weight.
WITH_WEIGHT = frozenset(row.name for row in ROWS if row.weight)


@dataclass(frozen=True)
class Step:
    """One operator of the graph, with what was fused into it.

    Attributes:
        node: Name of its node in the fused graph.
        name: Module path ``"features.3.dw"``, or the enclosing path and the function,
            ``"block1.add"``; unique.
        type: Class or function, such as ``"Conv2d"`` or ``"add"``.
        fused: Names of the operators that it took in.
        row: Name of its row in the registry; None where there is no integer form.
        address: What rules of the mapping may call it.
        requested: The qconfig that the mapping gives it; None for float.
        rule: The rule of the mapping that decided, in words.
        inputs: One entry per tensor input: how it arrives, None for float.
        weight: How the weight is quantized; None where there is none, or it stays float.
        output: How the output leaves; None for float.
        execution: ``integer``: codes in, codes out. ``simulated``: float arithmetic on quantized
            numbers. ``dynamic``: real numbers in and out, the input is quantized in every call.
            ``custom``: a person's own module. ``shared``:
            moves elements as they come, codes or not. ``float``: as in the
            float model. ``none``: a size or another plain value, no tensor of real numbers.
        reason: Why, in words.
        bounds: What the operators behind it clamp its output to, where they alone read it; what
            lies outside is not represented, and no error. None where all of it counts.
    """

    node: str
    name: str
    type: str
    fused: tuple[str, ...]
    row: str | None
    address: Address
    requested: QConfig | None
    rule: str
    inputs: tuple[TensorSpec | None, ...]
    weight: TensorSpec | None
    output: TensorSpec | None
    execution: Execution
    reason: str
    bounds: tuple[float, float] | None = None

    def counting(self, output: Tensor) -> Tensor:
        """What counts of the step's output: all of it, or what lies within `bounds`."""
        return output if self.bounds is None else output.clamp(*self.bounds)

    @property
    def quantized(self) -> bool:
        """Whether its output or its weight is quantized."""
        return self.output is not None or self.weight is not None


@dataclass(frozen=True)
class Value:
    """A tensor of the graph that is quantized.

    Attributes:
        node: Name of the node that produces it.
        name: What people call that node.
        spec: How it is quantized.
        source: Name of the node whose range gives its scale and zero point: its own, that of the
            tensor it shares them with, or that of the clamped tensor where only a clamp reads it.
        constant: Whether it is a parameter or buffer, whose range needs no calibration.
        address: What rules may call the step whose qconfig decided; an input's own where a rule
            names it.
        requested: That qconfig.
        seen_by: Name of the node whose observer sees it: its own, or that of a tensor it shares
            its range with; None where nobody needs to look.
    """

    node: str
    name: str
    spec: TensorSpec
    source: str
    constant: bool
    address: Address
    requested: QConfig | None
    seen_by: str | None = None

    @property
    def asked_by(self) -> str:
        """Name of the step, or the input, whose qconfig decided."""
        return self.address.name

    @property
    def observed(self) -> bool:
        """Whether its range comes from calibration."""
        return self.node == self.source and not (self.constant or self.fixed)

    @property
    def fixed(self) -> bool:
        """Whether scale and zero point are given, whatever the data."""
        return isinstance(self.spec.policy, Fixed)


@dataclass(frozen=True)
class Plan:
    """What `annotate` decided for a graph; prepare and convert execute it.

    Attributes:
        steps: One per operator, in graph order.
        values: The quantized tensors, in graph order: what crosses between steps in codes, and
            what is quantized on its way into one.
        unmatched: The rules of the mapping that matched nothing, in words.
        sharing: How the tensors get their ranges.
        integer_biases: As `QConfigMapping.integer_biases`.
    """

    steps: tuple[Step, ...]
    values: tuple[Value, ...]
    unmatched: tuple[str, ...] = ()
    sharing: Sharing = Sharing.SEPARATE
    integer_biases: bool = False

    def step(self, name: str) -> Step:
        """The step of a name.

        Raises:
            UnknownNameError: No step has this name; lists those that exist.
        """
        if name not in self._by_name:
            raise UnknownNameError.of("layer", name, self._by_name)
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Step]:
        return {step.name: step for step in self.steps}

    @property
    def quantized_steps(self) -> tuple[Step, ...]:
        """The steps that compute on quantized numbers, in integers or simulated."""
        return tuple(step for step in self.steps if step.execution in ("integer", "simulated"))

    @cached_property
    def by_node(self) -> Mapping[str, Value]:
        """The quantized tensors by the name of their node."""
        return {value.node: value for value in self.values}

    def range_node(self, node: str) -> str:
        """The node whose statistics give the range of a node's output: mostly its own."""
        value = self.by_node.get(node)
        return node if value is None else value.source

    def qparams(self, statistics: Mapping[str, TensorStats]) -> dict[str, QParams]:
        """Scale and zero point of every observed tensor, by node, as `convert` takes them.

        Args:
            statistics: What each tensor looked like in float, by node; more than needed is fine.

        Raises:
            UncalibratedError: A tensor has no statistics, or saw no data; names it.
        """
        result = {}
        for value in self.values:
            if value.observed:
                stats = statistics.get(value.node)
                if stats is None or not stats.count:
                    raise uncalibrated(value)
                result[value.node] = value.spec.qparams(stats)
        return result

    def to_frame(self) -> pd.DataFrame:
        """The truth table for people: one row per step, indexed by its name.

        Columns: ``type``, ``fused``, ``requested``, ``rule``, ``inputs``, ``weight``, ``output``,
        ``execution``, ``reason``; all of them text. What is not quantized is ``"float"``, and
        empty where an operator has no weight or gives no tensor.
        """
        rows = [
            {
                "layer": step.name,
                "type": step.type,
                "fused": ", ".join(step.fused),
                "requested": _requested(step),
                "rule": step.rule,
                "inputs": ", ".join(dict.fromkeys(_words(spec) for spec in step.inputs)),
                "weight": _words(step.weight) if step.row in WITH_WEIGHT or step.weight else "",
                "output": "" if step.execution == "none" else _words(step.output),
                "execution": step.execution,
                "reason": step.reason,
            }
            for step in self.steps
        ]
        columns = [
            "layer", "type", "fused", "requested", "rule", "inputs", "weight", "output",
            "execution", "reason",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns).set_index("layer")


def uncalibrated(value: Value) -> UncalibratedError:
    """The error for a tensor whose range is needed and not known."""
    return UncalibratedError(
        f"The output of {value.name!r} has no calibrated range",
        expected=f"statistics of node {value.node!r}, quantized as {value.spec.describe()}",
        fix="Run calibration data through the prepared model, or calibrate the Lab, before "
        "converting; NaN and infinities do not count.",
    )


def _words(spec: TensorSpec | None) -> str:
    return "float" if spec is None else spec.describe()


def _requested(step: Step) -> str:
    if step.requested is None:
        return "float"
    activation, weight = (_words(asked_by(factory).spec) for factory in step.requested)
    return f"activation {activation}; weight {weight}"
