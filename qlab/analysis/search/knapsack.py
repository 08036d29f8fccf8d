"""Multiple-choice knapsack: one choice per group, least loss within a budget, solved exactly.

Mixed-integer programs for HiGHS (Huangfu and Hall, "Parallelizing the dual revised simplex
method", 2018) through `scipy.optimize.milp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from qlab.analysis.search.printing import without_remarks
from qlab.errors import ArgumentError, NonFiniteError, QlabError

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

_SCALE = 1e4
"""Losses are scaled so that the best known solution has this one: HiGHS accepts solutions within
1e-6 of the best, which is then one part in 10^10."""
_INFEASIBLE = 2


@dataclass(frozen=True)
class Solution:
    """One choice per group.

    Attributes:
        choices: Index of the choice of each group.
        cost: Sum of their costs.
        loss: Sum of their losses.
        bound: No selection within the budget has less loss than this.
    """

    choices: tuple[int, ...]
    cost: int
    loss: float
    bound: float


@dataclass(frozen=True)
class _Choice:
    index: int
    cost: int
    loss: float


class Knapsack:
    """Groups of choices, of which each is taken one.

    Args:
        costs: For each group the cost of each choice: whole numbers, 0 or above.
        losses: For each group the loss of each choice, finite.

    Raises:
        ArgumentError: No groups, an empty one, or costs and losses of other lengths.
        NonFiniteError: A loss is NaN or infinite.
    """

    def __init__(self, costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]]) -> None:
        shapes = [list(map(len, costs)), list(map(len, losses))]
        if shapes[0] != shapes[1] or not shapes[0] or not all(shapes[0]):
            raise ArgumentError(
                "A knapsack needs groups of choices, each with a cost and a loss",
                received=f"costs {shapes[0]}, losses {shapes[1]}",
            )
        if not all(math.isfinite(loss) for group in losses for loss in group):
            raise NonFiniteError("A loss must be finite")
        self.groups = tuple(_undominated(*group) for group in zip(costs, losses, strict=True))

    @property
    def smallest(self) -> int:
        """The least cost that any selection has."""
        return sum(min(choice.cost for choice in group) for group in self.groups)

    @property
    def largest(self) -> int:
        """The cost of the selection with the least loss: more is never spent."""
        return sum(max(choice.cost for choice in group) for group in self.groups)

    def solve(self, budget: int) -> Solution | None:
        """The selection of least loss that costs at most ``budget``; of several the cheapest.

        None where even the smallest costs more.
        """
        if budget < self.smallest:
            return None
        best = self._greedy(budget)
        while True:
            found, bound = self._least_loss(budget, _loss(best))
            if found is None or not _loss(found) < _loss(best):
                break
            done = _loss(found) >= _loss(best) * 0.1  # else the scale was too coarse
            best = found
            if done:
                break
        cheapest = self._least_cost(best)
        return Solution(
            choices=tuple(choice.index for choice in cheapest),
            cost=sum(choice.cost for choice in cheapest),
            loss=_loss(cheapest),
            bound=min(bound, _loss(cheapest)),
        )

    def front(
        self,
        budget: int,
        *,
        nearest: int = 20,
        points: int | None = 64,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Solution]:
        """Pareto-optimal selections of cost and loss, from the budget down.

        Args:
            budget: The most that one may cost.
            nearest: How many are found without gaps: no other Pareto-optimal selection costs
                more than the cheapest of them, and at most the budget.
            points: How many in all; beyond the nearest, budgets are spread evenly between that
                of the last one and the smallest possible. None: every one, without gaps.
            should_stop: Asked before each.

        Yields:
            Selections of falling cost and rising loss.
        """
        count = 0
        while not should_stop():
            solution = self.solve(budget)
            if solution is None:
                return
            yield solution
            count += 1
            if points is not None and count >= points:
                return
            budget = solution.cost - 1
            if points is not None and count >= nearest:
                left = points - count
                spread = (budget - self.smallest) * (left - 1) // left + self.smallest
                budget = min(budget, max(spread, self.smallest)) if left > 1 else self.smallest

    def _greedy(self, budget: int) -> list[_Choice]:
        """A good selection to start from: gives up what frees most cost per loss."""
        places = [len(group) - 1 for group in self.groups]  # by falling loss: the last is best
        cost = self.largest
        while cost > budget:
            steps = [
                ((high.cost - low.cost) / max(low.loss - high.loss, 1e-300), g, i)
                for g, group in enumerate(self.groups)
                for i, low in enumerate(group[: places[g]])
                for high in (group[places[g]],)
            ]
            _, g, i = max(steps)
            cost -= self.groups[g][places[g]].cost - self.groups[g][i].cost
            places[g] = i
        return [group[i] for group, i in zip(self.groups, places, strict=True)]

    def _least_loss(self, budget: int, known: float) -> tuple[list[_Choice] | None, float]:
        """The least loss within a budget, where a loss is known; and a bound from below."""
        floor = math.fsum(group[-1].loss for group in self.groups)
        room = known - floor
        if room <= 0:
            return None, floor
        groups = [[c for c in group if c.loss - group[-1].loss <= room] for group in self.groups]
        losses = [[(c.loss - group[-1].loss) / room * _SCALE for c in group] for group in groups]
        result = _select(groups, losses, _costs(groups), budget - _cheapest(groups))
        if result is None:  # whatever fits holds a choice that was left out for losing more
            return None, known
        found = _taken(groups, result)
        excess = sum(choice.cost for choice in found) - budget
        if excess > 0:  # within the solver's tolerance: costs beyond 10^10
            return self._least_loss(budget - excess, known)
        bound = float(result.mip_dual_bound or 0.0) / _SCALE * room + floor
        return found, bound

    def _least_cost(self, best: list[_Choice]) -> list[_Choice]:
        """The cheapest selection that loses no more than a given one."""
        loss, floor = _loss(best), math.fsum(group[-1].loss for group in self.groups)
        room = loss - floor
        if room <= 0:
            return [group[-1] for group in self.groups]
        groups = [[c for c in group if c.loss - group[-1].loss <= room] for group in self.groups]
        losses = [[(c.loss - group[-1].loss) / room * _SCALE for c in group] for group in groups]
        result = _select(groups, _costs(groups), losses, _SCALE)
        if result is None:
            return best
        found = _taken(groups, result)
        cheaper = sum(c.cost for c in found) < sum(c.cost for c in best)
        return found if cheaper and _loss(found) <= loss else best


def _undominated(costs: Sequence[int], losses: Sequence[float]) -> list[_Choice]:
    """The choices that no other beats in both, by rising cost and falling loss."""
    kept: list[_Choice] = []
    for cost, loss, index in sorted(zip(costs, losses, range(len(costs)), strict=True)):
        if not kept or loss < kept[-1].loss:
            kept.append(_Choice(index, int(cost), float(loss)))
    return kept


def _loss(choices: Sequence[_Choice]) -> float:
    return math.fsum(choice.loss for choice in choices)


def _cheapest(groups: list[list[_Choice]]) -> int:
    return sum(min(choice.cost for choice in group) for group in groups)


def _costs(groups: list[list[_Choice]]) -> list[list[float]]:
    """Costs beyond each group's cheapest choice."""
    return [[float(c.cost - min(o.cost for o in group)) for c in group] for group in groups]


def _select(
    groups: list[list[_Choice]],
    objective: list[list[float]],
    limited: list[list[float]],
    limit: float,
) -> OptimizeResult | None:
    """One binary per choice; None where no selection keeps the limit."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, rarely needed

    ends = np.cumsum([0, *map(len, groups)])
    one_each = np.zeros((len(groups), ends[-1]))
    for row, (start, end) in enumerate(pairwise(ends)):
        one_each[row, start:end] = 1.0
    weights = np.concatenate(limited)
    unit = max(float(weights.max()), 1.0) / _SCALE  # so that tolerances are relative
    with without_remarks():
        result = milp(
            np.concatenate(objective),
            integrality=np.ones(ends[-1]),
            bounds=Bounds(0.0, 1.0),
            constraints=[
                LinearConstraint(one_each, 1.0, 1.0),
                LinearConstraint(weights[None] / unit, -np.inf, limit / unit),
            ],
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        if result.status != _INFEASIBLE:
            raise QlabError(f"HiGHS found no solution: {result.message}")
        return None
    return result


def _taken(groups: list[list[_Choice]], result: OptimizeResult) -> list[_Choice]:
    ends = np.cumsum([0, *map(len, groups)])
    return [
        group[int(np.argmax(result.x[start:end]))]
        for group, (start, end) in zip(groups, pairwise(ends), strict=True)
    ]
