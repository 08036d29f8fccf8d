"""Running a graph while watching what its nodes produce."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx

from qlab.errors import ArgumentError, QlabError
from qlab.graph.shapes import refusal, tensors_in


class GraphRunner(fx.Interpreter):
    """Runs a graph node by node and reports the values of the nodes it was asked to watch.

    A value is dropped after its last use, so memory holds one batch's live values, not all.

    Args:
        graph_module: The graph.
        watch: Names of the nodes whose values are reported.
    """

    def __init__(self, graph_module: fx.GraphModule, watch: Collection[str]) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False  # fx would append node dumps to messages meant for people
        self._watch = frozenset(watch)
        self._observe: Callable[[str, Any], None] | None = None

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except (QlabError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise self._refused(n, error) from error
        if self._observe is not None and n.name in self._watch:
            self._observe(n.name, value)
        return value

    def _refused(self, n: fx.Node, error: Exception) -> QlabError:
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        received: list[Tensor] = tensors_in(self.fetch_args_kwargs_from_env(n))
        return refusal(n, module, received, error, "inputs")

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
        self._observe = observe
        try:
            with torch.no_grad():
                return self.run(*inputs)
        finally:
            self._observe = None

    def collect(self, inputs: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Runs the graph and keeps every watched value.

        Returns:
            The graph's output, and the watched values by node name.
        """
        values: dict[str, Any] = {}
        return self.watch(inputs, values.__setitem__), values


def usable_device(device: torch.device | str | int) -> torch.device:
    """The device of a name, if tensors can be put there.

    Raises:
        ArgumentError: There is no such device, or it holds no numbers.
    """
    try:
        found = torch.device(device)
        usable = found.type != "meta"
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(
            "This machine has no such device", received=f"{device!r} ({reason})", fix=_DEVICES
        ) from error
    if not usable:
        raise ArgumentError("The meta device holds no numbers", received=device, fix=_DEVICES)
    return found


_DEVICES = 'Pass "cpu", or "cuda" where torch.cuda.is_available().'
