"""An exported program from its JSON: values, calls, inputs and outputs; nothing of it runs here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qlab.errors import FormatError, UnsupportedError
from qlab.io.uploads import strict_json
from qlab.io.uploads.arguments import Ref, Scope
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.operators import ON_SIZES, operator_of
from qlab.io.uploads.payload import TensorInfo, read_info
from qlab.io.uploads.strict_json import shown
from qlab.io.uploads.symbols import parse
from qlab.io.uploads.trees import Tree, leaves, read_tree

SCHEMA = 8
_PATH = re.compile(r"\w+(\.\w+)*\Z", re.ASCII)
_PERSISTED = ("parameter", "buffer", "tensor_constant")


@dataclass(frozen=True)
class Call:
    """One operator.

    Attributes:
        function: From `operators.operator_of`.
        args: Positional arguments, `Ref` for values.
        kwargs: Keyword arguments.
        results: The names of its results.
        several: Whether it gives a list or tuple, of which ``results`` are the items.
        stack: Key and path of each module it was called in, from the model down to the innermost.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[str, ...]
    several: bool
    stack: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Program:
    """An uploaded program.

    Attributes:
        tensors: For each value that is a parameter, buffer or constant, the tensor's name.
        given: The values that the user gives, in the order of ``in_tree``'s leaves; None for a
            leaf that is no tensor.
        calls: The operators, in order.
        returned: What it returns, in the order of ``out_tree``'s leaves.
        infos: What is known of each tensor.
        ranges: Smallest and largest value of each symbol; None where there is no limit.
        in_tree: Positional and keyword arguments.
        out_tree: How the returned values are nested.
        names: The names of the arguments.
    """

    tensors: dict[str, str]
    given: tuple[str | None, ...]
    calls: tuple[Call, ...]
    returned: tuple[Any, ...]
    infos: dict[str, TensorInfo]
    ranges: dict[str, tuple[int | None, int | None]]
    in_tree: Tree
    out_tree: Tree
    names: tuple[str, ...]


def read_program(data: Any, limits: Limits) -> Program:
    """Checks and reads the JSON of an exported program.

    Raises:
        FormatError: Not such JSON, another schema, or a program that does not hold together.
        UnsupportedError: It calls or holds something that qlab does not admit.
    """
    version = strict_json.field(data, "schema_version", dict, "the program")
    major = strict_json.field(version, "major", int, "the schema version")
    if major != SCHEMA:
        raise FormatError(
            "The archive was written by another generation of torch.export",
            expected=f"schema version {SCHEMA}",
            received=f"{major}",
            fix="Export the model again with torch 2.13 or a neighbouring version.",
        )
    return _Reading(data, limits).program()


class _Reading:
    def __init__(self, data: dict[str, Any], limits: Limits) -> None:
        self.data, self.limits = data, limits
        self.module = strict_json.field(data, "graph_module", dict, "the program")
        self.graph = strict_json.field(self.module, "graph", dict, "the graph module")
        self.scope = Scope(limits)

    def program(self) -> Program:
        tensors, given = self._inputs()
        nodes = strict_json.field(self.graph, "nodes", list, "the graph")
        self.limits.check("nodes", len(nodes), "The program has too many operators")
        infos = {
            name: read_info(entry, f"the value {shown(name)}", self.limits)
            for name, entry in self._values("tensor_values").items()
        }
        for name, entry in self._values("sym_int_values").items():
            self._check_symbol(entry, name)
        calls = tuple(self._call(node) for node in nodes)
        in_tree, out_tree, names = self._signature(given)
        returned = tuple(self._outputs())
        if len(leaves(out_tree)) != len(returned):
            raise FormatError("The program returns another number of values than it declares")
        for name in [*tensors, *(name for name in given if name is not None)]:
            if name not in infos:
                raise FormatError("Nothing is known of an input", received=shown(name))
        return Program(
            tensors, given, calls, returned, infos, self._ranges(), in_tree, out_tree, names
        )

    def _values(self, name: str) -> dict[str, Any]:
        entries = strict_json.field(self.graph, name, dict, "the graph")
        most = 4 * self.limits.nodes + self.limits.tensors
        if len(entries) > most:
            raise FormatError("The program has too many values", expected=f"at most {most}")
        return entries

    def _check_symbol(self, entry: Any, name: str) -> None:
        tag, value = strict_json.union(entry, f"the size {shown(name)}")
        if tag == "as_expr":
            text = strict_json.field(value, "expr_str", str, f"the size {shown(name)}")
            self.limits.check("text", len(text), "The expression for a size is too long")
            parse(text)

    # Inputs and outputs

    def _inputs(self) -> tuple[dict[str, str], tuple[str | None, ...]]:
        signature = strict_json.field(self.module, "signature", dict, "the graph module")
        tensors: dict[str, str] = {}
        given: list[str | None] = []
        for spec in strict_json.field(signature, "input_specs", list, "the signature"):
            kind, value = strict_json.union(spec, "an input")
            if kind in _PERSISTED:
                target = strict_json.field(value, f"{kind}_name", str, "an input")
                if not _PATH.match(target) or len(target) > self.limits.text:
                    raise FormatError(
                        "A parameter has no name that PyTorch allows", received=shown(target)
                    )
                argument = strict_json.field(value, "arg", dict, "an input")
                tensors[self.scope.define(argument.get("name"))] = target
            elif kind == "user_input":
                tag, argument = strict_json.union(
                    strict_json.field(value, "arg", dict, "an input"), "an input"
                )
                tensor = tag == "as_tensor"
                given.append(
                    self.scope.define(strict_json.field(argument, "name", str, "an input"))
                    if tensor
                    else None
                )
                if tag.startswith("as_sym"):
                    raise UnsupportedError(
                        "The program takes a number that changes from call to call",
                        expected="tensors",
                        fix="Export the model with that argument fixed.",
                    )
            elif kind == "constant_input":
                given.append(None)
            else:
                raise UnsupportedError(
                    "The program takes an input that is no plain tensor",
                    expected="parameters, buffers, constants and the user's tensors",
                    received=shown(kind),
                    fix="Keep custom and opaque objects out of the model.",
                )
        return tensors, tuple(given)

    def _outputs(self) -> Iterator[Any]:
        signature = strict_json.field(self.module, "signature", dict, "the graph module")
        for spec in strict_json.field(signature, "output_specs", list, "the signature"):
            kind, value = strict_json.union(spec, "an output")
            if kind != "user_output":
                raise UnsupportedError(
                    "The program does more than return values when it is called",
                    expected="a model in evaluation mode",
                    received=shown(kind),
                    fix="Call model.eval() before torch.export.export.",
                )
            argument = strict_json.field(value, "arg", dict, "an output")
            yield self.scope.argument(argument, "an output")

    def _signature(self, given: tuple[str | None, ...]) -> tuple[Tree, Tree, tuple[str, ...]]:
        calls = strict_json.field(self.module, "module_call_graph", list, "the graph module")
        entries = [c for c in calls if strict_json.field(c, "fqn", str, "a module") == ""]
        if len(entries) != 1 or entries[0].get("signature") is None:
            raise FormatError("The program does not say how it is called")
        signature = strict_json.field(entries[0], "signature", dict, "the call")
        what = "the tree of arguments"
        text = strict_json.field(signature, "in_spec", str, what)
        in_tree = read_tree(text, what, self.limits)
        out_text = strict_json.field(signature, "out_spec", str, "the tree of results")
        out_tree = read_tree(out_text, "the tree of results", self.limits)
        if len(leaves(in_tree)) != len(given):
            raise FormatError("The program takes another number of values than it declares")
        pair = in_tree.children if in_tree.kind == "tuple" else ()
        if [t.kind for t in pair] != ["tuple", "dict"]:
            raise FormatError(f"{what} holds no positional and keyword arguments")
        names = signature.get("forward_arg_names")
        names = [] if names is None else strict_json.of(names, list, "the arguments' names")
        names = [strict_json.of(n, str, "an argument's name") for n in names]
        return in_tree, out_tree, tuple(names)

    def _ranges(self) -> dict[str, tuple[int | None, int | None]]:
        found = {}
        entries = strict_json.field(self.data, "range_constraints", dict, "the program")
        for name, entry in entries.items():
            what = f"the range of {shown(name)}"
            bounds = [strict_json.of(entry, dict, what).get(b) for b in ("min_val", "max_val")]
            low, high = (b if b is None else strict_json.of(b, int, what) for b in bounds)
            found[name] = (low, high)
        return found

    # Calls

    def _call(self, node: Any) -> Call:
        target = strict_json.field(node, "target", str, "an operator")
        function = operator_of(target)
        args, kwargs = self._arguments(node, target, function)
        results, several = self._results(node, target)
        return Call(function, args, kwargs, results, several, self._stack(node))

    def _arguments(
        self, node: Any, target: str, function: Callable[..., Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        schema = getattr(function, "_schema", None)
        names = [a.name for a in schema.arguments] if schema else []
        for entry in strict_json.field(node, "inputs", list, target):
            name = strict_json.field(entry, "name", str, f"an argument of {target}")
            value = self.scope.argument(entry.get("arg"), f"the argument {shown(name)} of {target}")
            positional = len(args) < len(names) and names[len(args)] == name and not kwargs
            keyword_only = positional and schema and schema.arguments[len(args)].kwarg_only
            if target in ON_SIZES or (positional and not keyword_only):
                args.append(value)
            elif name in names and name not in kwargs:
                kwargs[name] = value
            else:
                raise FormatError(
                    f"{target} takes no such argument",
                    expected="one of: " + ", ".join(names),
                    received=shown(name),
                )
        return tuple(args), kwargs

    def _results(self, node: Any, target: str) -> tuple[tuple[str, ...], bool]:
        outputs = strict_json.field(node, "outputs", list, target)
        names: list[str] = []
        several = len(outputs) > 1
        for output in outputs:
            tag, value = strict_json.union(output, f"a result of {target}")
            if tag == "as_tensors":
                several = True
                items = strict_json.of(value, list, f"a result of {target}")
                names += [strict_json.field(i, "name", str, "a result") for i in items]
            elif tag == "as_tensor":
                names.append(strict_json.field(value, "name", str, "a result"))
            elif tag in ("as_sym_int", "as_sym_bool", "as_sym_float"):
                names.append(strict_json.field(value, "as_name", str, "a result"))
            elif tag != "as_none":
                raise UnsupportedError(f"{target} gives what is no tensor", received=shown(tag))
        return tuple(self.scope.define(name) for name in names), several

    def _stack(self, node: Any) -> tuple[tuple[str, str, str], ...]:
        """The modules around a call, for names only: what they are is told by the operators."""
        metadata = strict_json.field(node, "metadata", dict, "an operator")
        text = metadata.get("nn_module_stack", "")
        found = []
        for entry in strict_json.of(text, str, "a module stack").split(";")[: 2 * 64]:
            key, _, rest = entry.partition(",")
            path, _, kind = rest.partition(",")
            if _PATH.match(path) and len(path) <= self.limits.text:
                found.append((key, path, kind))
        return tuple(found)


__all__ = ["Call", "Program", "Ref", "read_program"]
