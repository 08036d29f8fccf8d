"""What a question about sensitivity consists of, and what is known of the answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qlab.analysis.metrics import sqnr_db
from qlab.analysis.networks import OutputSums
from qlab.analysis.work import Measured
from qlab.graph.plan import Plan, Step
from qlab.qconfig import QConfigMapping

WAYS = ("on", "off", "estimate")
Part = tuple[str, tuple[int, ...]]
"""A way, and the numbers of some of its cases."""


@dataclass
class Known:
    """What was measured, batch by batch and case by case: enough to go on from.

    Attributes:
        about: The objects that it rests on; what was measured of others tells nothing.
        on: A number for each layer alone, by what it computes.
        off: A number for each network, by what it computes.
        outputs: Errors of the network's output by batch, way and number.
        estimates: Estimated squared errors by batch and number of ``on``.
        reference: By batch the float network compared with itself, and the number of samples.
    """

    about: tuple[object, ...]
    on: dict[Any, int] = field(default_factory=dict)
    off: dict[Any, int] = field(default_factory=dict)
    outputs: dict[tuple[int, str, int], OutputSums] = field(default_factory=dict)
    estimates: dict[tuple[int, int], float] = field(default_factory=dict)
    reference: dict[int, tuple[OutputSums, int]] = field(default_factory=dict)

    def has(self, index: int, way: str, case: int) -> bool:
        """Whether a case was measured on a batch."""
        if way == "estimate":
            return (index, case) in self.estimates
        return (index, way, case) in self.outputs

    def continued(self, about: tuple[object, ...]) -> Known:
        """What to begin with where the answer rests on these objects: a copy, or nothing."""
        same = len(about) == len(self.about) and all(map(_is, about, self.about))
        if not same:
            return Known(about)
        return Known(
            about,
            dict(self.on),
            dict(self.off),
            dict(self.outputs),
            dict(self.estimates),
            dict(self.reference),
        )


def _is(one: object, other: object) -> bool:
    return one is other


class Cases:
    """The rows of an answer, and the cases that they are computed from; each is measured once.

    Args:
        ways: Of `WAYS`.
        known: What was measured before; what is measured is added to it.

    Attributes:
        rows: By (layer, config) the numbers of its cases by way.
        whole: By config the number of the network with everything quantized.
    """

    def __init__(self, ways: tuple[str, ...], known: Known) -> None:
        self.ways, self.known = tuple(way for way in WAYS if way in ways), known
        self.rows: dict[tuple[str, str], dict[str, int]] = {}
        self.whole: dict[str, int] = {}

    def add_rows(self, config: str, plan: Plan, steps: Iterable[Step], inputs: Mapping) -> None:
        """A candidate's layers, each alone.

        Args:
            config: The candidate.
            plan: Its plan.
            steps: The layers that it quantizes.
            inputs: By node the float network's nodes that feed it.
        """
        for step in steps:
            key = layer_key(plan, step, inputs[step.node])
            number = self.known.on.setdefault(key, len(self.known.on))
            self.rows[step.name, config] = {"on": number, "estimate": number}

    def add_network(self, config: str, layer: str | None, key: Any) -> int:
        """A candidate without a layer, or with all of them.

        Args:
            config: The candidate.
            layer: What it is without.
            key: Equal for networks that compute the same, such as `network_key`.

        Returns:
            The network's number.
        """
        number = self.known.off.setdefault(key, len(self.known.off))
        if layer is None:
            self.whole[config] = number
        else:
            self.rows[layer, config]["off"] = number
        return number

    def numbers(self, way: str) -> list[int]:
        """The cases of a way, each once, in the order of the rows."""
        whole = self.whole.values() if way == "off" else ()
        rows = (row[way] for row in self.rows.values() if way in row)
        return list(dict.fromkeys(itertools.chain(whole, rows)))

    def missing(self, index: int, way: str) -> list[int]:
        """Those not yet measured on a batch."""
        return [case for case in self.numbers(way) if not self.known.has(index, way, case)]

    def parts(self, index: int, size: int) -> list[Part]:
        """What is to be measured on a batch: at most ``size`` cases at once, but all estimates."""
        return list(self._parts(size, {way: self.missing(index, way) for way in self.ways}))

    def count(self, size: int) -> int:
        """How many parts there are on a batch of which nothing is known."""
        return len(list(self._parts(size, {way: self.numbers(way) for way in self.ways})))

    def _parts(self, size: int, cases: dict[str, list[int]]) -> Iterator[Part]:
        for way, numbers in cases.items():
            step = max(len(numbers), 1) if way == "estimate" else size
            for start in range(0, len(numbers), step):
                yield way, tuple(numbers[start : start + step])

    def add(self, index: int, way: str, found: Measured, samples: int) -> None:
        """What a task found of a batch."""
        known = self.known
        known.reference[index] = found.reference, samples
        known.estimates |= {(index, case): noise for case, noise in found.estimates.items()}
        known.outputs |= {(index, way, case): sums for case, sums in found.outputs.items()}

    # The answer

    def counted(self) -> list[int]:
        """The batches that the numbers are over: the finished ones, or the first that was begun."""
        begun = sorted(self.known.reference)
        begun = [i for i in begun if any(self.known.has(i, w, n) for w, n in self._each())]
        finished = [i for i in begun if all(self.known.has(i, w, n) for w, n in self._each())]
        return finished or begun[:1]

    def _each(self) -> Iterator[tuple[str, int]]:
        for way in self.ways:
            yield from ((way, number) for number in self.numbers(way))

    def reference(self, batches: list[int]) -> tuple[OutputSums, int]:
        """The float network over some batches, and how many samples they have."""
        total, samples = OutputSums.empty(), 0
        for index in batches:
            sums, size = self.known.reference[index]
            total.merge(sums)
            samples += size
        return total, samples

    def table(self, batches: list[int], reference: OutputSums) -> pd.DataFrame:
        """One row per layer and candidate; NaN for what was not measured on these batches."""
        signal, labelled = reference.errors.signal, bool(reference.labels.labelled)
        rows = [self._row(row, batches, signal) for row in self.rows.values()]
        columns = [
            f"{name}_{way}"
            for way in self.ways
            for name in ("noise", "sqnr", *(["accuracy"] if labelled and way != "estimate" else []))
        ]
        index = pd.MultiIndex.from_tuples(list(self.rows), names=["layer", "config"])
        return pd.DataFrame(rows, index=index, columns=columns, dtype=float)

    def _row(self, row: dict[str, int], batches: list[int], signal: float) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for way in self.ways:
            if way == "estimate":
                keys = [(index, row["on"]) for index in batches]
                found = [self.known.estimates[k] for k in keys if k in self.known.estimates]
                noise = math.fsum(found)
                estimate = {"noise_estimate": noise, "sqnr_estimate": sqnr_db(signal, noise)}
                numbers |= estimate if found else {}
            elif (sums := self._merged(way, row.get(way, -1), batches)) is not None:
                numbers |= {f"{name}_{way}": value for name, value in metrics_of(sums).items()}
        return numbers

    def _merged(self, way: str, case: int, batches: list[int]) -> OutputSums | None:
        found = [self.known.outputs.get((index, way, case)) for index in batches]
        total = OutputSums.empty()
        for sums in filter(None, found):
            total.merge(sums)
        return total if any(found) else None

    def networks(self, batches: list[int], labelled: bool) -> pd.DataFrame:
        """One row per candidate: the network with everything quantized."""
        found = {c: self._merged("off", number, batches) for c, number in self.whole.items()}
        rows = [{} if sums is None else metrics_of(sums) for sums in found.values()]
        columns = ["noise", "sqnr", *(["accuracy"] if labelled else [])]
        frame = pd.DataFrame(rows, index=list(found), columns=columns, dtype=float)
        return frame.rename_axis("config")


def metrics_of(sums: OutputSums) -> dict[str, float]:
    """Noise, SQNR and, with labels, accuracy, by name."""
    metrics = {"noise": sums.errors.noise, "sqnr": sums.errors.sqnr}
    accuracy = sums.labels.as_dict().get("accuracy")
    return metrics if accuracy is None else {**metrics, "accuracy": accuracy}


def layer_key(plan: Plan, step: Step, inputs: tuple[str, ...]) -> Any:
    """Equal for layers that compute the same from the same inputs."""
    sources = tuple(plan.range_node(node) for node in (*inputs, step.node))
    how = step.execution, plan.integer_biases
    return step.node, step.weight, step.output, step.inputs, how, sources


def network_key(plan: Plan) -> Any:
    """Equal for plans that make the same network."""
    steps = ((s.node, s.weight, s.output, s.inputs, s.execution) for s in plan.steps)
    return tuple(steps), plan.values, plan.integer_biases


Candidates = Mapping[str, QConfigMapping]
