"""Running a graph while watching what its nodes produce."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from qlab.execution.program import Program


class GraphRunner:
    """Runs a graph node by node and reports the values of the nodes it was asked to watch.

    A value is dropped after its last use, so memory holds one batch's live values, not all.

    Args:
        graph: The graph, or its program.
        watch: Names of the nodes whose values are reported.
    """

    def __init__(self, graph: fx.GraphModule | Program, watch: Collection[str]) -> None:
        self._program = graph if isinstance(graph, Program) else Program.of(graph)
        self._watch = frozenset(watch)

    def watch(self, inputs: tuple[Any, ...], observe: Callable[[str, Any], None]) -> Any:
        """Runs the graph, calling ``observe(node name, value)`` right after each watched node.

        Args:
            inputs: Positional inputs of the graph.
            observe: Receives each watched value; it may raise to stop the run.

        Returns:
            The graph's output.

        Raises:
            ArgumentError: A layer does not take what it is given; names it.
        """

        def filtered(name: str, value: Any) -> None:
            if name in self._watch:
                observe(name, value)

        with torch.no_grad():
            return self._program.run(inputs, filtered)

    def collect(self, inputs: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Runs the graph and keeps every watched value.

        Returns:
            The graph's output, and the watched values by node name.
        """
        values: dict[str, Any] = {}
        return self.watch(inputs, values.__setitem__), values
