"""From an uploaded program to the graph of a float model, with layers where it had layers."""

from __future__ import annotations

import keyword
import operator
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qlab import registry
from qlab.errors import FormatError, UnsupportedError
from qlab.graph.aten import (
    as_users_call_it,
    first_alone,
    gives_several,
    operator_name,
    passes_on,
)
from qlab.graph.sizes import check_sizes
from qlab.graph.trace import FROM_FILE
from qlab.io.uploads.layers import layer_of
from qlab.io.uploads.operators import CHECKS, is_in_place, not_in_place
from qlab.io.uploads.program import Call, Program
from qlab.io.uploads.raw import arguments, first_name, raw_graph, writes_to_itself

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")
_LIBRARY = "torch.nn.modules."
_WEIGHTED = ("linear", "conv1d", "conv2d", "conv3d")


def build(
    program: Program, tensors: Mapping[str, Tensor], parameters: frozenset[str]
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graph that people work with, and the raw one that it was made from.

    Args:
        program: From `read_program`.
        tensors: Weights, buffers and constants by name.
        parameters: Which of them are parameters.

    Raises:
        FormatError: The program does not hold together.
    """
    try:
        raw = raw_graph(program, tensors)
        return _Writing(program, raw, tensors, parameters).run(), raw
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        if isinstance(error, FormatError | UnsupportedError):
            raise
        raise FormatError(f"The program does not describe a model: {error}") from error


class _Writing:
    """The graph being written, and for each value of the program the node that carries it."""

    def __init__(
        self,
        program: Program,
        raw: fx.GraphModule,
        tensors: Mapping[str, Tensor],
        parameters: frozenset[str],
    ) -> None:
        self.program, self.raw = program, raw
        self.root, self.graph = nn.Module(), fx.Graph()
        self.nodes: dict[fx.Node, fx.Node] = {}
        self.tensors = {
            name: nn.Parameter(tensor, requires_grad=False) if name in parameters else tensor
            for name, tensor in tensors.items()
        }
        self.layers: dict[str, str] = {}
        calls = [n.meta["call"] for n in raw.graph.nodes if "call" in n.meta]
        self.calls_in = Counter(call.stack[-1][0] for call in calls if call.stack)

    def run(self) -> fx.GraphModule:
        given = self._write_inputs()
        for node in self.raw.graph.nodes:
            if node.op == "get_attr":
                target = self.program.tensors[node.meta["value"]]
                self.nodes[node] = self.graph.get_attr(target)
            elif node.op == "call_function":
                self._write(node)
        output = next(iter(reversed(self.raw.graph.nodes)))
        values = fx.map_arg(output.args[0], self._node)
        self.graph.output(self.program.out_tree.build(iter(values)))
        for node in self.graph.nodes:
            if node.op == "get_attr" and node.users:
                self._attach(str(node.target))
        for node in [n for n in self.graph.nodes if n.op == "get_attr" and not n.users]:
            self.graph.erase_node(node)
        graph_module = fx.GraphModule(self.root, self.graph, "UploadedModel").eval()
        self.graph = graph_module.graph
        self.graph.eliminate_dead_code()
        graph_module.delete_all_unused_submodules()
        self._write_checks(given)
        self.graph.lint()
        graph_module.recompile()
        graph_module.meta["qlab"] = FROM_FILE
        return graph_module

    def _node(self, node: fx.Node) -> fx.Node:
        return self.nodes[node]

    # Inputs

    def _write_inputs(self) -> list[tuple[fx.Node, fx.Node, str]]:
        """One placeholder per argument, and what reads the tensors inside it."""
        flat = [n for n in self.raw.graph.nodes if n.op == "placeholder"]
        parts = arguments(self.program, iter(flat))
        names = list(self.program.names)
        usable = len(set(names)) == len(parts) == len(names) and all(map(_is_name, names))
        names = names if usable else [f"input_{index}" for index in range(len(parts))]
        carriers = [self.graph.placeholder(name) for name in names]
        for part, carrier in zip(parts, carriers, strict=True):
            self._write_part(part, carrier)
        return [(n, self.nodes[n], n.meta["value"]) for n in flat]

    def _write_part(self, part: Any, carrier: fx.Node) -> None:
        if isinstance(part, fx.Node):
            self.nodes[part] = carrier
            return
        if part is None:
            return
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            if any(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(inner)):
                item = self.graph.call_function(operator.getitem, (carrier, key))
                self._write_part(inner, item)

    def _write_checks(self, given: list[tuple[fx.Node, fx.Node, str]]) -> None:
        for _, carrier, name in given:
            bounds = tuple(self._bounds(size) for size in self.program.infos[name].sizes)
            if any(bound != (None, None) for bound in bounds):
                placeholders = [n for n in self.graph.nodes if n.op == "placeholder"]
                after = placeholders[-1] if carrier.op == "placeholder" else carrier
                with self.graph.inserting_after(after):
                    self.graph.call_function(check_sizes, (carrier, bounds))

    def _bounds(self, size: Any) -> tuple[int | None, int | None]:
        if size.fixed:
            return size.example, size.example
        low, high = self.program.ranges.get(size.symbol, (None, None))
        return (None if low is None or low <= 2 else low), high  # 2 is what export begins with

    # Calls

    def _write(self, node: fx.Node) -> None:
        call: Call | None = node.meta.get("call")
        if call is None:  # an item of a result
            source, index = node.args
            carrier = self.nodes.get(source)  # type: ignore[arg-type]
            if isinstance(source, fx.Node) and carrier is not None and first_alone(source):
                if index == 0:
                    self.nodes[node] = carrier
            elif carrier is not None:
                self.nodes[node] = self.graph.call_function(operator.getitem, (carrier, index))
            return
        if operator_name(node.target) in CHECKS:
            return
        if passes_on(node):
            self.nodes[node] = self.nodes[node.all_input_nodes[0]]
            return
        target = node.target
        if not is_in_place(target):
            self.nodes[node] = self._write_call(node, call)
            return
        node.target = not_in_place(target)
        self.nodes[node] = self._write_call(node, call)
        node.target = target
        self._redirect(node)

    def _redirect(self, node: fx.Node) -> None:
        """What reads the overwritten tensor later reads the result: nothing writes in place."""
        written = node.args[0] if node.args else None
        if not isinstance(written, fx.Node) or written.op == "get_attr":
            raise writes_to_itself()
        for name in [n for n in self.nodes if first_name(n) is first_name(written)]:
            self.nodes[name] = self.nodes[node]

    def _write_call(self, node: fx.Node, call: Call) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self._node)
        target, args, kwargs = as_users_call_it(node, args, kwargs) or (node.target, args, kwargs)
        path = self._layer_path(args, call)
        layer = self._layer(path, node, target, (args, kwargs)) if path is not None else None
        if layer is not None:
            written = self.graph.call_module(str(path), layer)
        elif isinstance(target, str):
            written = self.graph.call_method(target, args, kwargs)
        else:
            written = self.graph.call_function(target, args, kwargs)
        self._name(written, call)
        return written

    def _name(self, written: fx.Node, call: Call) -> None:
        """Where a call stood, which people read; a call that is a whole module has its name."""
        stack = list(call.stack)
        if written.op != "call_module" and stack and self._is_whole(call):
            label = stack.pop()[1].rpartition(".")[2]
            written.meta["label"] = label
        elif operator_name(written.target) in _WEIGHTED and len(written.args) > 1:
            weight = written.args[1]
            if isinstance(weight, fx.Node) and weight.op == "get_attr":
                name = str(weight.target).rpartition(".")[2].removesuffix("weight").strip("_")
                written.meta.update({"label": name} if name else {})
        written.meta["nn_module_stack"] = {key: (path, None) for key, path, _ in stack}

    def _is_whole(self, call: Call) -> bool:
        """Whether a call is all that a module of `torch.nn` does."""
        key, _, kind = call.stack[-1]
        return kind.startswith(_LIBRARY) and self.calls_in[key] == 1

    def _layer_path(self, args: tuple[Any, ...], call: Call) -> str | None:
        """The layer that a call is: the only one in a module of `torch.nn`, or with its weights."""
        if call.stack and self._is_whole(call):
            return call.stack[-1][1]
        weights = [str(a.target) for a in args if isinstance(a, fx.Node) and a.op == "get_attr"]
        owner, _, name = (weights or [""])[0].rpartition(".")
        expected = [f"{owner}.{part}" for part in ("weight", "bias")][: len(weights)]
        return owner if owner and name == "weight" and weights == expected else None

    def _layer(
        self, path: str, node: fx.Node, target: Any, given: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> tuple[fx.Node, ...] | None:
        """Puts the layer in its place; gives what it is called with, or None if it is none."""
        made = self._made(node, target, *given)
        if made is None:
            return None
        module, inputs = made
        if not type(module).__module__.startswith("torch.nn") or not _are_values(inputs):
            return None
        described = repr((target, _without_values(given)))
        if path in self.layers:  # called before: one module if it is the same call
            return inputs if self.layers[path] == described else None
        if any(other.startswith(f"{path}.") for other in self.layers):
            return None
        self.layers[path] = described
        self._place(path, module)
        return inputs

    def _made(
        self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[nn.Module, tuple[Any, ...]] | None:
        is_method = isinstance(target, str)
        row = registry.row_for_method(target) if is_method else registry.row_for_function(target)
        if gives_several(node) and not first_alone(node):
            return None
        try:
            flat = fx.map_arg(node.args, self._node)
            made = layer_of(operator_name(node.target), node, flat, self._constant)
            if made is None and row is not None and row.lift is not None:
                return registry.lift_call(row, args, kwargs, self._constant)
            return made
        except UnsupportedError:
            return None

    def _constant(self, value: Any) -> Tensor:
        if isinstance(value, fx.Node) and value.op == "get_attr":
            return self.tensors[str(value.target)]
        raise UnsupportedError("A weight that the model computes is no layer's")

    def _place(self, path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        self._container(parent).add_module(name, module)

    def _container(self, path: str) -> nn.Module:
        place = self.root
        for part in filter(None, path.split(".")):
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        return place

    def _attach(self, target: str) -> None:
        """Puts a tensor that the graph reads where its name says."""
        path, _, name = target.rpartition(".")
        place, tensor = self._container(path), self.tensors[target]
        if name in place._parameters or name in place._buffers:
            return
        if isinstance(tensor, nn.Parameter):
            place.register_parameter(name, tensor)
        else:
            place.register_buffer(name, tensor)


def _are_values(inputs: tuple[Any, ...]) -> bool:
    return all(isinstance(i, fx.Node) and i.op != "get_attr" for i in inputs)


def _without_values(value: Any) -> Any:
    """Arguments with computed values left out, to compare two calls of one layer."""
    return fx.map_arg(value, lambda n: str(n.target) if n.op == "get_attr" else "value")


def _is_name(name: str) -> bool:
    return _IDENTIFIER.match(name) is not None and not keyword.iskeyword(name) and name != "self"
