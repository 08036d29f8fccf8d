"""`Search`: the Pareto front of mappings under a budget, and how far prediction is from truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.metrics import sqnr_db
from qlab.analysis.report import Report
from qlab.analysis.search.candidates import Candidate, Group, Measure, Space
from qlab.analysis.search.knapsack import Knapsack, Solution
from qlab.analysis.sensitivity import Sensitivity
from qlab.analysis.tasks import checked_count, checked_hooks
from qlab.errors import ArgumentError, DTypeError, UnfinishedError, UnknownNameError
from qlab.qconfig import QConfigMapping

_LARGEST_FRACTION = 16.0


Compare = Callable[[QConfigMapping], Report]


@dataclass(frozen=True)
class Losses:
    """Squared error of the network's output by (layer, config), and the output's own energy.

    Attributes:
        noise: ``sum((x - y)^2)`` with one layer quantized alone.
        signal: ``sum(x^2)`` of the float output over the same samples.
    """

    noise: Mapping[tuple[str, str], float]
    signal: float


def losses_of(sensitivity: Sensitivity) -> Losses:
    """The measured losses; where a layer was not measured alone, the estimated ones.

    Raises:
        ArgumentError: The sensitivities hold neither.
    """
    table = sensitivity.table
    for way in ("on", "estimate"):
        if f"noise_{way}" in table:
            noise, sqnr = table[f"noise_{way}"].to_numpy(), table[f"sqnr_{way}"].to_numpy()
            usable = np.isfinite(sqnr) & (noise > 0)
            signals = noise[usable] * 10 ** (sqnr[usable] / 10)
            signal = float(np.median(signals)) if usable.any() else 0.0
            return Losses(dict(zip(table.index.tolist(), noise.tolist(), strict=True)), signal)
    raise ArgumentError(
        "The sensitivities say nothing of single layers",
        expected="Lab.sensitivity with ways=('on',) or ('estimate',)",
        received=f"columns {list(table.columns)}",
    )


@dataclass(frozen=True)
class Verified:
    """Points that were measured end to end.

    Attributes:
        table: Indexed by point: ``size`` [bytes], ``predicted_sqnr`` and ``measured_sqnr`` [dB],
            ``noise_ratio`` (measured over predicted noise, 1 where the additive model is right),
            and the other metrics of ``Report.output``.
        rank_correlation: Spearman's coefficient between predicted and measured SQNR; None where
            fewer than two points differ.
        complete: False where it was stopped early.
    """

    table: pd.DataFrame
    rank_correlation: float | None
    complete: bool


@dataclass(frozen=True)
class Search:
    """Mappings of which none is both smaller and better than another, as predicted.

    The predicted noise of a mapping is the sum of its layers' noises, each measured with this
    layer alone quantized. `verify` measures it.

    Attributes:
        front: One row per point, smallest first: ``size`` [bytes of the converted model],
            ``bit_ops``, ``noise`` (predicted squared error of the output), ``sqnr`` [dB,
            predicted], and a column per candidate with the
            number of layers that have it.
        by: What the budget limits.
        budget: The most of it, in bytes or bit operations.
        smallest: The least that any mapping of these candidates takes.
        bound: No mapping of these candidates within the budget has less predicted noise.
        groups: The layers that were decided together.
        sensitivity: What the prediction rests on; another search with these candidates takes it.
        complete: False where it was stopped before the front was done.
    """

    front: pd.DataFrame
    by: Measure
    budget: int
    smallest: int
    bound: float
    groups: tuple[Group, ...] = field(repr=False)
    sensitivity: Sensitivity = field(repr=False)
    complete: bool
    _space: Space = field(repr=False)
    _solutions: tuple[Solution, ...] = field(repr=False)
    _compare: Compare = field(repr=False)

    def __len__(self) -> int:
        return len(self._solutions)

    @property
    def base_cost(self) -> int:
        """What the mapping that the search began with takes, in the budget's unit."""
        return self._space.base_cost

    @property
    def float_cost(self) -> int:
        """What it takes if every layer that the search decides stays in float."""
        costs = self._space.costs
        return self._space.fixed_cost + sum(
            costs(g)[i] for g in self.groups for i, c in enumerate(g.candidates) if c.is_float
        )

    def choices(self, point: int = -1) -> dict[str, Candidate]:
        """What each layer gets at a point of the front; -1 is the one nearest the budget.

        Raises:
            UnknownNameError: There is no such point.
        """
        if not isinstance(point, int) or not -len(self) <= point < len(self):
            raise UnknownNameError.of("point of the front", point, self.front.index)
        return _chosen(self.groups, self._solutions[point])

    def mapping(self, point: int = -1) -> QConfigMapping:
        """The configuration of a point; see `choices`."""
        return self._space.mapping(self.choices(point))

    def verify(
        self,
        points: Sequence[int] | None = None,
        *,
        known: Verified | None = None,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Verified:
        """Measures points end to end on the evaluation data; each becomes a run of the Lab.

        Args:
            points: Which; all if not given.
            known: What this search's `verify` has measured before; it is kept and not repeated.
            on_progress: Called as ``(points done, points in all, label)``.
            should_stop: Asked before each point; what was measured is kept.

        Raises:
            DTypeError: A hook that cannot be called, no sequence of points, or something else as
                ``known``.
            UnfinishedError: A loader failed; ``partial`` is what was measured of other points.
            UnknownNameError: There is no such point.
        """
        _check_asked(points, known)
        checked_hooks(on_progress, should_stop)
        mappings = [self.mapping(p) for p in (self.front.index if points is None else points)]
        chosen = list(self.front.index) if points is None else [p % len(self) for p in points]
        rows = {} if known is None else known.table.to_dict("index")
        before, asked = len(rows.keys() - set(chosen)), len({*rows, *chosen})
        for point, mapping in zip(chosen, mappings, strict=True):
            if point in rows:
                continue
            if should_stop is not None and should_stop():
                break
            try:
                rows[point] = self._row(point, self._compare(mapping))
            except UnfinishedError as error:
                raise _broken(error, _verified(rows, complete=False) if rows else None) from error
            if on_progress is not None:
                on_progress(len(rows) - before, len(chosen), "verifying")
        return _verified(rows, complete=len(rows) == asked)

    def best(
        self,
        count: int = 20,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> tuple[int, Verified]:
        """The best by measurement of the ``count`` points nearest the budget.

        By accuracy where there are labels, then by SQNR.

        Returns:
            The point, and what was measured of all of them.

        Raises:
            ArgumentError: A count below 1, or it was stopped before anything was measured.
            DTypeError: A hook that cannot be called.
            UnfinishedError: As `verify`.
        """
        nearest = list(self.front.index[-checked_count("count", count) :])[::-1]
        verified = self.verify(nearest, on_progress=on_progress, should_stop=should_stop)
        by = [c for c in ("accuracy", "measured_sqnr") if c in verified.table]
        if not by:
            raise ArgumentError(
                "No point was measured",
                expected="a front with points, and time for one of them",
                received=f"{len(self)} points",
                fix="Search to its end, or do not stop before the first point is measured.",
            )
        order = verified.table.sort_values(by, ascending=False, kind="stable")
        return int(order.index[0]), verified

    def _row(self, point: int, report: Report) -> dict[str, float]:
        predicted = self.front.loc[point, "sqnr"]
        measured = report.output["sqnr"]
        return {
            "size": report.size.quantized_bytes,
            "predicted_sqnr": predicted,
            "measured_sqnr": measured,
            "noise_ratio": 10 ** ((predicted - measured) / 10),
            **{k: v for k, v in report.output.items() if k != "sqnr"},
        }


def _check_asked(points: Any, known: Any) -> None:
    """Refuses points that are no sequence, and what `Search.verify` did not give."""
    if points is not None and (
        isinstance(points, str)
        or not isinstance(points, Iterable)
        or not all(isinstance(p, Integral) and not isinstance(p, bool) for p in points)
    ):
        raise DTypeError(
            "Not points of the front",
            expected="a sequence of whole numbers, or None for all",
            received=repr(points),
        )
    if known is not None and not isinstance(known, Verified):
        raise DTypeError(
            "Nothing known of points",
            expected="what Search.verify returned before, or an UnfinishedError's `partial`",
            received=repr(known),
        )


def _verified(rows: dict[Any, Any], *, complete: bool) -> Verified:
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("point")
    return Verified(table, _ranks(table), complete)


def _broken(error: UnfinishedError, partial: Verified | None) -> UnfinishedError:
    """A loader's error, with the points that were measured before."""
    fix = "Repair the loader. Pass the error's `partial` to verify as known= to go on."
    return UnfinishedError.of(error.problem, error.__cause__ or error, fix, partial)


def search_mappings(
    space: Space,
    budget: float,
    sensitivity: Sensitivity,
    compare: Compare,
    *,
    points: int | None = 64,
    nearest: int = 20,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Search:
    """Finds the front; see `Lab.search`.

    Args:
        space: The mappings to search among.
        budget: Bytes or bit operations, or a fraction of the base's.
        sensitivity: Sensitivity with the mappings of `Space.uniform`, by the candidates' names.
        compare: Measures a mapping end to end.
        points: How many points at most; None for the whole front.
        nearest: How many of them right below the budget, without gaps.
        on_progress: Called as ``(points done, points in all, label)``.
        should_stop: Asked before each point.

    Raises:
        ArgumentError: An impossible budget (states the smallest), or sensitivities that lack a
            layer and candidate.
    """
    limit, smallest = budget_limits(space, budget)
    stop: Stop = should_stop or (lambda: False)
    found: list[tuple[Solution, int]] = []
    bound, losses = math.nan, Losses({}, 0.0)
    if not (stopped := stop()):
        losses = losses_of(sensitivity)
        knapsack = Knapsack(
            list(map(space.costs, space.groups)), [_losses(g, losses) for g in space.groups]
        )
        inside = limit - space.fixed_cost
        for solution in knapsack.front(inside, points=points, nearest=nearest, should_stop=stop):
            found.append((solution, space.exact_bytes(_chosen(space.groups, solution))))
            if on_progress is not None:
                on_progress(len(found), max(points or 0, len(found)), "searching")
        stopped = stop()
    outside = _outside(space, losses)
    if found:
        bound = found[0][0].bound + outside
    kept = _undominated(found, space.by == "size")
    return Search(
        front=_front(space, kept, (outside, losses.signal)),
        by=space.by,
        budget=limit,
        smallest=smallest,
        bound=bound,
        groups=space.groups,
        sensitivity=sensitivity,
        complete=not stopped,
        _space=space,
        _solutions=tuple(solution for solution, _ in kept),
        _compare=compare,
    )


def budget_limits(space: Space, budget: float) -> tuple[int, int]:
    """The budget in its unit, and the least that any mapping takes.

    Raises:
        ArgumentError: Less than that, or no budget.
    """
    limit = _absolute(budget, space.base_cost)
    smallest = sum(min(space.costs(group)) for group in space.groups) + space.fixed_cost
    if limit < smallest:
        raise ArgumentError(
            "No mapping of these candidates fits the budget",
            expected=f"at least {smallest} {_unit(space.by)}, the smallest possible",
            received=f"{limit} ({limit / space.base_cost:.1%} of the base's {space.base_cost})",
            fix="Raise the budget, or give candidates with fewer bits.",
        )
    return limit, smallest


def _unit(by: Measure) -> str:
    return "bytes" if by == "size" else "bit operations"


def _absolute(budget: Any, whole: int) -> int:
    if isinstance(budget, bool) or not isinstance(budget, int | float | np.integer | np.floating):
        raise DTypeError(
            "A budget is a number",
            expected="whole bytes or bit operations, or a fraction of the base's such as 0.5",
            received=repr(budget),
        )
    whole_number, value = isinstance(budget, int | np.integer), float(budget)
    if not (value > 0 and (whole_number or value <= _LARGEST_FRACTION)):
        raise ArgumentError(
            "Not a budget",
            expected="a whole number above 0, or a fraction of the base's such as 0.5",
            received=repr(budget),
        )
    return int(budget) if whole_number else math.floor(value * whole)


def _losses(group: Group, losses: Losses) -> list[float]:
    """A group's loss for each candidate: the sum over its layers, 0 in float."""
    totals = []
    for candidate in group.candidates:
        parts = [
            0.0 if candidate.is_float else losses.noise.get((name, candidate.name), math.nan)
            for name in group.layers
        ]
        total = math.fsum(parts)
        if not math.isfinite(total):
            raise ArgumentError(
                f"The sensitivity of {group.layers[0]!r} as {candidate.name!r} is not known",
                expected="Lab.sensitivity over the mappings of all candidates, run to its end",
            )
        totals.append(total)
    return totals


def _outside(space: Space, losses: Losses) -> float:
    """The noise of the layers that the search does not decide, as the base has them."""
    config = next((c.name for c in space.candidates if not c.is_float), "")
    parts = [v for (n, c), v in losses.noise.items() if c == config and n not in space.layers]
    return math.fsum(v for v in parts if math.isfinite(v))


def _chosen(groups: tuple[Group, ...], solution: Solution) -> dict[str, Candidate]:
    return {
        name: group.candidates[index]
        for group, index in zip(groups, solution.choices, strict=True)
        for name in group.layers
    }


def _undominated(found: list[tuple[Solution, int]], by_size: bool) -> list[tuple[Solution, int]]:
    """By rising cost, without those that their exact size (borders may be shared) puts behind."""
    costs = [size if by_size else solution.cost for solution, size in found]
    order = sorted(range(len(found)), key=lambda i: (costs[i], found[i][0].loss))
    kept: list[tuple[Solution, int]] = []
    for i in order:
        if not kept or found[i][0].loss < kept[-1][0].loss:
            kept.append(found[i])
    return kept


def _front(
    space: Space, kept: list[tuple[Solution, int]], known: tuple[float, float]
) -> pd.DataFrame:
    outside, signal = known
    rows = []
    for solution, size in kept:
        chosen = _chosen(space.groups, solution)
        noise = solution.loss + outside
        rows.append(
            {
                "size": size,
                "bit_ops": sum(
                    group.bit_ops[i]
                    for group, i in zip(space.groups, solution.choices, strict=True)
                ),
                "noise": noise,
                "sqnr": sqnr_db(signal, noise),
                **{c.name: sum(v == c for v in chosen.values()) for c in space.candidates},
            }
        )
    columns = ["size", "bit_ops", "noise", "sqnr", *(c.name for c in space.candidates)]
    return pd.DataFrame(rows, columns=columns).rename_axis("point")


def _ranks(table: pd.DataFrame) -> float | None:
    if len(table) < 2 or any(table[c].nunique() < 2 for c in ("predicted_sqnr", "measured_sqnr")):
        return None
    from scipy.stats import spearmanr  # as slow to import as half of torch, and rarely needed

    ranks: Any = spearmanr(table["predicted_sqnr"], table["measured_sqnr"])
    return float(ranks.statistic)
