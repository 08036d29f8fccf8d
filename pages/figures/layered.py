"""Where the nodes of a directed graph are drawn: in levels from the top, chains straight.

Sugiyama's method: levels by the longest path, an order within each level that crosses few edges,
then places that make the edges as straight as that order allows. An edge that spans levels bends
around what lies between. Source: Sugiyama, Tagawa, Toda: Methods for Visual Understanding of
Hierarchical System Structures, 1981; Gansner et al., A Technique for Drawing Directed Graphs, 1993.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

Node = Hashable
SWEEPS = 8
#: Columns that a node, and the bend of a passing edge, keep free.
ROOM, BEND = 1.0, 0.35
#: How much straighter an edge is wanted between two bends, and at one, than between two nodes.
STRAIGHT = (1.0, 2.0, 8.0)


@dataclass(frozen=True)
class Placement:
    """Where everything goes.

    Attributes:
        x: Column of each node, from 0, not necessarily whole.
        level: Row of each node, from 0 at the top.
        routes: For each edge the points it runs through, (x, level).
    """

    x: dict[Node, float]
    level: dict[Node, int]
    routes: tuple[tuple[tuple[float, int], ...], ...]


def place(inputs: Mapping[Any, Sequence[Node]]) -> Placement:
    """Places the nodes of an acyclic graph.

    Args:
        inputs: For every node the nodes that feed it; those come before it.
    """
    level: dict[Node, int] = {}
    for node, sources in inputs.items():
        level[node] = 1 + max((level[source] for source in sources), default=-1)
    chains = [
        (source, *((source, node, between) for between in range(start, level[node])), node)
        for node, sources in inputs.items()
        for source in sources
        for start in (level[source] + 1,)
    ]
    rows: list[list[Node]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for node, row in level.items():
        rows[row].append(node)
    for chain in chains:
        for offset, bend in enumerate(chain[1:-1], start=level[chain[0]] + 1):
            rows[offset].append(bend)
    edges = [edge for chain in chains for edge in pairwise(chain)]
    _order(rows, edges)
    x = _columns(rows, edges, set(inputs))
    routes = tuple(
        tuple((x[node], row) for row, node in enumerate(chain, start=level[chain[0]]))
        for chain in chains
    )
    return Placement({node: x[node] for node in inputs}, level, routes)


def _order(rows: list[list[Node]], edges: Sequence[tuple[Node, Node]]) -> None:
    """Sorts each level by the mean position of its neighbours above, then below, and again."""
    above: dict[Node, list[Node]] = {}
    below: dict[Node, list[Node]] = {}
    for source, node in edges:
        above.setdefault(node, []).append(source)
        below.setdefault(source, []).append(node)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        ordered = rows if down else rows[::-1]
        for fixed, moved in pairwise(ordered):
            at = {node: float(i) for i, node in enumerate(fixed)}
            mean = {
                node: np.mean([at[n] for n in (above if down else below).get(node, []) if n in at])
                for node in moved
                if (above if down else below).get(node)
            }
            own = {node: float(i) for i, node in enumerate(moved)}
            moved.sort(key=lambda node, mean=mean, own=own: (mean.get(node, own[node]), own[node]))


def _columns(
    rows: list[list[Node]], edges: Sequence[tuple[Node, Node]], real: set[Node]
) -> dict[Node, float]:
    """Least total sideways distance of the edges under the order: a linear program.

    Minimise Σ w·d over d ≥ |x_a − x_b| per edge, neighbours in a row their room apart.
    """
    index = {node: i for i, node in enumerate(n for row in rows for n in row)}
    count = len(index)
    cost = [0.0] * count + [STRAIGHT[(a not in real) + (b not in real)] for a, b in edges]
    entries: list[tuple[int, int, float]] = []
    limits: list[float] = []
    for k, (a, b) in enumerate(edges):
        for sign in (1.0, -1.0):
            row = len(limits)
            entries += [(row, index[a], sign), (row, index[b], -sign), (row, count + k, -1.0)]
            limits.append(0.0)
    for nodes in rows:
        for left, right in pairwise(nodes):
            row = len(limits)
            entries += [(row, index[left], 1.0), (row, index[right], -1.0)]
            limits.append(-(ROOM if left in real else BEND))
    if not limits:
        return dict.fromkeys(index, 0.0)
    at, column, value = zip(*entries, strict=True)
    matrix = coo_array((value, (at, column)), shape=(len(limits), len(cost)))
    found = linprog(cost, A_ub=matrix.tocsr(), b_ub=limits, bounds=(0, None), method="highs")
    return {node: float(found.x[i]) for node, i in index.items()}
