"""Running a model that has no graph: hooks see what its layers take and give, or replace it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.analysis.probe import QuantizedLayer
from qlab.errors import QlabError
from qlab.execution import full_precision
from qlab.graph.inputs import Call
from qlab.graph.islands import arguments_of
from qlab.graph.shapes import refusal, tensors_in
from qlab.graph.state import State

#: Called with a layer's name, its arguments by position and its output, after each of its calls.
Observe = Callable[[str, Sequence[Any], Any], None]


class DynamicLayer(QuantizedLayer):
    """A layer that quantizes its input as it comes: it takes and gives what the float layer does"""

    def run(
        self, inputs: Sequence[Any], order: torch.memory_format = torch.contiguous_format
    ) -> Any:
        """The float layer's arguments, in any order of memory → what it gives."""
        with torch.no_grad(), full_precision():
            return self.module(*inputs)


def run_layer(layer: QuantizedLayer, arguments: Sequence[Any]) -> Any:
    """A quantized layer's output for the arguments of the float one."""
    if isinstance(layer, DynamicLayer):
        return layer.run(arguments)
    return layer.run([value for value in arguments if isinstance(value, Tensor)])


class HookedRun:
    """Runs a model and shows every call of its layers, in the order in which they end.

    Args:
        model: The model, in evaluation mode. Every run begins with the buffers and attributes that
            it has now, and leaves them so: what a forward writes to them is no part of what runs
            are compared for, nor does it depend on which run comes first.
        graph: Its islands, as `qlab.graph.islands` made them.
        call: How it is called.
    """

    def __init__(self, model: nn.Module, graph: fx.GraphModule, call: Call) -> None:
        self.model, self.call, self._state = model, call, State(model)
        self.nodes = {n.target: n for n in graph.graph.nodes if n.op == "call_module"}

    def run(
        self,
        inputs: tuple[Any, ...],
        observe: Observe | None = None,
        *,
        watch: Collection[str] | None = None,
        replaced: Mapping[str, QuantizedLayer] | None = None,
    ) -> Any:
        """One forward pass.

        Args:
            inputs: Values of the arguments that `call` names.
            observe: Receives each call; it may raise to stop the run. What it is shown may be
                overwritten later: copy what is to be kept.
            watch: The layers whose calls are shown; all if not given.
            replaced: Layers whose outputs are those of their quantized selves.

        Returns:
            The model's output.

        Raises:
            ArgumentError: A layer does not take what it is given; names it.
        """
        replaced = replaced or {}
        watched = set(self.nodes) if watch is None else set(watch)
        current: list[tuple[str, tuple[Any, ...]]] = []
        self._state.restored()  # who else calls the model may have written to it
        with ExitStack() as hooks, torch.no_grad(), full_precision():
            hooks.callback(self._state.restored)
            for path in watched | set(replaced):
                call = _Call(path, replaced.get(path), observe if path in watched else None)
                module = self.model.get_submodule(path)
                hooks.callback(_before(module, call, current).remove)
                hooks.callback(_after(module, call, current).remove)
            try:
                return self.call.run(self.model, inputs)
            except (QlabError, torch.OutOfMemoryError):
                raise
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                if not current:
                    raise
                path, given = current[-1]
                node, module = self.nodes[path], self.model.get_submodule(path)
                raise refusal(node, module, tensors_in(given), error, "inputs") from error


class _Call:
    """What to do around the calls of one layer."""

    def __init__(
        self, path: str, quantized: QuantizedLayer | None, observe: Observe | None
    ) -> None:
        self.path, self.quantized, self.observe = path, quantized, observe
        self.arguments: list[tuple[Any, ...]] = []


def _before(module: nn.Module, call: _Call, current: list[Any]) -> Any:
    in_place = bool(vars(module).get("inplace"))

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = arguments_of(module, args, kwargs)[0]
        call.arguments.append((given[0].clone(), *given[1:]) if in_place else given)
        current.append((call.path, given))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: nn.Module, call: _Call, current: list[Any]) -> Any:
    in_place = bool(vars(module).get("inplace"))

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        _, (written, *_) = current.pop()
        given = call.arguments.pop()
        if call.quantized is not None:
            result = run_layer(call.quantized, given)
            output = written.copy_(result) if in_place else result
        if call.observe is not None:
            call.observe(call.path, given, output)
        return output

    return module.register_forward_hook(hook)


class QuantizedOnItsOwn(nn.Module):
    """A quantized layer in a model without a graph: real numbers in, real numbers out.

    Args:
        module: The float layer whose place it takes.
        layer: The same as it is deployed.
    """

    def __init__(self, module: nn.Module, layer: QuantizedLayer) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer.module)
        self._deployed = type(layer)
        self.output_qparams = layer.output
        self._float_type = type(module)
        self._in_place = bool(vars(module).get("inplace"))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The float layer's arguments → its output, as its codes stand for it."""
        if kwargs:
            bound = inspect.signature(self._float_type.forward).bind(self, *args, **kwargs)
            args = bound.args[1:]
        result = run_layer(self._deployed(self.layer, self.output_qparams), args)
        return args[0].copy_(result) if self._in_place else result

    def extra_repr(self) -> str:
        return f"instead of {self._float_type.__name__}, real numbers in and out"
