"""Layers are placed in levels, with room between them and chains straight."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pages.figures.layered import ROOM, place


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, tuple[int, ...]]:
    """Up to twelve nodes, each fed by up to three earlier ones."""
    count = draw(st.integers(1, 12))
    return {
        node: tuple(draw(st.sets(st.integers(0, node - 1), max_size=3))) if node else ()
        for node in range(count)
    }


@given(graphs())
def test_every_edge_runs_down_level_by_level_from_node_to_node(inputs):
    placed = place(inputs)
    edges = [(source, node) for node, sources in inputs.items() for source in sources]
    assert len(placed.routes) == len(edges)
    for (source, node), route in zip(edges, placed.routes, strict=True):
        assert route[0] == (placed.x[source], placed.level[source])
        assert route[-1] == (placed.x[node], placed.level[node])
        assert [row for _, row in route] == list(range(route[0][1], route[-1][1] + 1))


@given(graphs())
def test_neighbours_in_a_level_keep_their_room(inputs):
    placed = place(inputs)
    for a, b in combinations(inputs, 2):
        if placed.level[a] == placed.level[b]:
            assert abs(placed.x[a] - placed.x[b]) >= ROOM - 1e-6
    assert all(x >= -1e-6 for x in placed.x.values())


def test_a_chain_is_a_straight_line():
    placed = place({0: (), **{node: (node - 1,) for node in range(1, 9)}})
    assert len(set(placed.x.values())) == 1
    assert list(placed.level.values()) == list(range(9))


def test_a_skip_passes_beside_what_it_skips():
    placed = place({"in": (), "a": ("in",), "b": ("a",), "add": ("b", "in")})
    *_, skip = (route for route in placed.routes if len(route) == 4)
    at = {row: x for x, row in skip}
    assert at[1] != pytest.approx(placed.x["a"])
    assert at[2] != pytest.approx(placed.x["b"])
    assert all(abs(x - y) < 1e-6 for (x, _), (y, _) in pairwise(skip[1:-1]))


def test_crossings_that_need_not_be_are_avoided():
    inputs = {"a": (), "b": (), "of_b": ("b",), "of_a": ("a",)}
    placed = place(inputs)
    assert (placed.x["a"] < placed.x["b"]) == (placed.x["of_a"] < placed.x["of_b"])
