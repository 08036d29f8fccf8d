import itertools
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qlab.analysis.search.knapsack import Knapsack
from qlab.errors import ArgumentError, NonFiniteError

WIDE = st.floats(-8, 4).map(lambda exponent: 10.0**exponent)
LOSSES = st.one_of(WIDE, st.integers(0, 5).map(float))


@st.composite
def instances(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    ranges = [st.integers(0, 10 ** draw(st.integers(1, 7))) for _ in sizes]
    costs = [draw(st.lists(r, min_size=n, max_size=n)) for r, n in zip(ranges, sizes, strict=True)]
    return costs, [draw(st.lists(LOSSES, min_size=n, max_size=n)) for n in sizes]


def selections(costs, losses):
    """Every selection's cost and loss, by brute force."""
    for picks in itertools.product(*(range(len(group)) for group in costs)):
        pairs = list(enumerate(picks))
        yield sum(costs[g][i] for g, i in pairs), math.fsum(losses[g][i] for g, i in pairs)


@settings(max_examples=60)
@given(instances(), st.floats(0, 1))
@example(([[0], [0], [0, 1]], [[1.0], [1.0], [1.0, 0.1]]), 0.0)  # 3 - 2.1 < 1 - 0.1
def test_the_solution_is_the_best_within_the_budget(instance, share):
    knapsack, every = Knapsack(*instance), list(selections(*instance))
    costs = [cost for cost, _ in every]
    budget = round(min(costs) + share * (max(costs) - min(costs)))
    assert knapsack.smallest == min(costs)
    solution = knapsack.solve(budget)
    best = min(loss for cost, loss in every if cost <= budget)
    assert solution is not None and solution.cost <= budget
    assert solution.loss == pytest.approx(best, rel=1e-9)
    assert (solution.cost, solution.loss) in every
    assert solution.bound <= solution.loss
    assert solution.bound == pytest.approx(best, rel=1e-6)
    assert knapsack.solve(min(costs) - 1) is None


@settings(max_examples=40)
@given(instances())
def test_the_whole_front_is_what_brute_force_finds(instance):
    knapsack, every = Knapsack(*instance), list(selections(*instance))
    found = list(knapsack.front(max(cost for cost, _ in every), points=None))
    for point in found:
        for cost, loss in every:
            assert not (cost < point.cost and loss <= point.loss)
            assert not (cost <= point.cost and loss < point.loss * (1 - 1e-9))
    for cost, loss in every:
        assert any(p.cost <= cost and p.loss <= loss * (1 + 1e-9) for p in found)
    assert [p.cost for p in found] == sorted({p.cost for p in found}, reverse=True)


@settings(max_examples=20)
@given(instances(), st.integers(1, 4), st.integers(1, 6))
def test_a_front_of_few_points_has_no_gaps_near_the_budget(instance, nearest, points):
    knapsack = Knapsack(*instance)
    whole = list(knapsack.front(knapsack.largest, points=None))
    few = list(knapsack.front(knapsack.largest, nearest=nearest, points=points))
    assert len(few) <= points
    assert [p.choices for p in few[:nearest]] == [p.choices for p in whole[: min(nearest, points)]]
    assert {p.cost for p in few} <= {p.cost for p in whole}
    if points > 1 and len(whole) > 1 and len(few) > nearest:
        assert few[-1].cost == whole[-1].cost


def test_losses_of_very_different_size_are_told_apart():
    losses = [[1e9, 2e-9, 1e-9], [1e9, 3e-9, 2.5e-9]]
    solution = Knapsack([[0, 10, 20], [0, 10, 20]], losses).solve(30)
    assert solution is not None and solution.choices == (2, 1)


ITEMS = [(7, 7.7), (5, 5.0), (5, 5.0), (4, 5.0)]


@pytest.mark.parametrize("order", list(itertools.permutations(ITEMS))[::2])
def test_of_several_solutions_with_the_same_loss_the_cheapest_is_taken(order):
    costs, losses = [[0, cost] for cost, _ in order], [[gain, 0.0] for _, gain in order]
    solution = Knapsack(costs, losses).solve(10)
    assert solution is not None and solution.loss == pytest.approx(12.7) and solution.cost == 9


def test_stopping_ends_the_front():
    knapsack, asked = Knapsack([[0, 1, 2, 3]], [[3.0, 2.0, 1.0, 0.0]]), iter([False, False, True])
    assert len(list(knapsack.front(3, should_stop=lambda: next(asked)))) == 2


@pytest.mark.parametrize(
    ("costs", "losses"), [([], []), ([[]], [[]]), ([[1, 2]], [[1.0]]), ([[1]], [[1.0], [2.0]])]
)
def test_silly_knapsacks_are_refused(costs, losses):
    with pytest.raises(ArgumentError, match="groups of choices, each with a cost and a loss"):
        Knapsack(costs, losses)
    with pytest.raises(NonFiniteError, match="A loss must be finite"):
        Knapsack([[1]], [[math.nan]])
