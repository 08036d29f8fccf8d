"""Quantizing what a question about sensitivity runs, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from torch import fx

from qlab.analysis.cases import Candidates, Cases, network_key
from qlab.analysis.kept import kept_in_float
from qlab.analysis.networks import Networks, places_of
from qlab.analysis.work import Off, On
from qlab.execution import Program
from qlab.graph.plan import Step
from qlab.ops import compiled

if TYPE_CHECKING:
    from qlab.analysis.study import Study

Piece = tuple[str, Callable[[], object]]


class Preparation:
    """The layers and networks of a question, as far as they are not measured yet.

    Args:
        study: The float network and its statistics.
        candidates: Configurations by name.
        cases: The question; their rows are added to it.
        count: How many batches there are; None where that is not known.

    Attributes:
        on: The layers to run alone, by number.
        bases: The wholly quantized networks.
        off: The networks with one layer in float, by number.
        total: How many `pieces` there are.
    """

    def __init__(
        self, study: Study, candidates: Candidates, cases: Cases, count: int | None
    ) -> None:
        self.study, self.candidates, self.cases = study, candidates, cases
        known = 1 + max(cases.known.reference, default=-1)
        # One more than is known where more may come: then nothing is known of all batches.
        self.batches = range(known + 1 if count is None else max(count, known))
        self.on: dict[int, On] = {}
        self.bases: list[Program] = []
        self.off: dict[int, Off] = {}
        self._places: dict[str, int] = {}
        inputs = {
            node.name: tuple(a.name for a in node.args if isinstance(a, fx.Node))
            for node in study.graph.graph.nodes
        }
        for config, mapping in candidates.items():
            plan = study.plan(mapping)
            cases.add_rows(config, plan, plan.quantized_steps, inputs)
        self.total = sum(1 for _ in self.pieces())

    def pieces(self) -> Iterator[Piece]:
        """Functions to call in this order, each short beside a batch, and what each is for."""
        for config, mapping in self.candidates.items():
            plan, off = self.study.plan(mapping), "off" in self.cases.ways
            numbers = [row["on"] for (_, of), row in self.cases.rows.items() if of == config]
            if not (off or any(map(self._alone_wanted, numbers))):
                continue
            # Importing Numba takes a second, once: a piece of its own, not part of the first task.
            yield f"preparing {config}", compiled.unavailable
            for name, compute in self.study.scales(plan):
                yield f"preparing {name}", compute
            yield f"preparing {config}", partial(self._alone, config)
            if off:
                yield f"preparing {config}", partial(self._network, config, None)
                for step in plan.quantized_steps:
                    yield f"preparing {step.name}", partial(self._network, config, step)

    def _wanted(self, way: str, number: int) -> bool:
        known = self.cases.known
        asked = way in self.cases.ways
        return asked and not all(known.has(index, way, number) for index in self.batches)

    def _alone_wanted(self, number: int) -> bool:
        return self._wanted("on", number) or self._wanted("estimate", number)

    def _alone(self, config: str) -> None:
        mapping = self.candidates[config]
        networks = Networks(
            self.study.graph, self.study.converted(mapping), self.study.plan(mapping)
        )
        for place in places_of(networks):
            number = self.cases.rows[place.step.name, config]["on"]
            if self._alone_wanted(number):
                self.on.setdefault(number, On(place.step.node, place.layer, place.inputs))

    def _network(self, config: str, left_out: Step | None) -> None:
        mapping = self.candidates[config]
        chosen = mapping if left_out is None else kept_in_float(mapping, left_out)
        plan = self.study.plan(chosen)
        name = None if left_out is None else left_out.name
        number = self.cases.add_network(config, name, network_key(plan))
        if number in self.off or not self._wanted("off", number):
            return
        converted = self.study.converted(mapping)
        base = self._base(config, converted)
        variant = Program.of(self.study.execute(plan, like=converted))
        touched = frozenset(variant.changed_from(self.bases[base]))
        self.off[number] = Off(base, variant, touched)

    def _base(self, config: str, converted: fx.GraphModule) -> int:
        """The place of a candidate's network among the bases."""
        if config not in self._places:
            self._places[config] = len(self.bases)
            self.bases.append(Program.of(converted))
        return self._places[config]
