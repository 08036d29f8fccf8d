"""How a program's inputs and outputs are nested, from the text that `torch.export` writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qlab.errors import FormatError, UnsupportedError
from qlab.io.uploads import strict_json
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.strict_json import shown

_KINDS = {
    "builtins.tuple": "tuple",
    "builtins.list": "list",
    "builtins.dict": "dict",
    "collections.OrderedDict": "dict",
}


@dataclass(frozen=True)
class Tree:
    """A leaf, or a tuple, list or dict of trees.

    Attributes:
        kind: ``"leaf"``, ``"tuple"``, ``"list"`` or ``"dict"``.
        keys: A dict's keys.
        children: What it holds.
    """

    kind: str
    keys: tuple[Any, ...] = ()
    children: tuple[Tree, ...] = ()

    def build(self, values: Iterator[Any]) -> Any:
        """The nested value whose leaves are the next of ``values``."""
        if self.kind == "leaf":
            return next(values)
        items = [child.build(values) for child in self.children]
        if self.kind == "dict":
            return dict(zip(self.keys, items, strict=True))
        return tuple(items) if self.kind == "tuple" else items


LEAF = Tree("leaf")


def leaves(tree: Tree) -> list[Tree]:
    """The leaves of a tree, in order."""
    return [tree] if tree.kind == "leaf" else [x for c in tree.children for x in leaves(c)]


def read_tree(text: str, what: str, limits: Limits) -> Tree:
    """Parses a tree.

    Raises:
        FormatError: Not such text.
        UnsupportedError: It holds a class other than tuple, list and dict.
    """
    data = strict_json.load(text.encode(), what, limits)
    if not isinstance(data, list) or len(data) != 2 or data[0] != 1:
        raise FormatError(f"{what} has an unknown form", received=shown(data))
    return _tree(data[1], what, limits)


def _tree(data: Any, what: str, limits: Limits) -> Tree:
    entry = strict_json.of(data, dict, what)
    kind = entry.get("type")
    children = strict_json.field(entry, "children_spec", list, what)
    if kind is None:
        if children:
            raise FormatError(f"{what} has a leaf with children")
        return LEAF
    trees = tuple(_tree(child, what, limits) for child in children)
    keys = _keys(entry.get("context"), what, limits)
    named = keys is not None and len(keys) == len(trees)
    if kind not in _KINDS and not named:
        raise UnsupportedError(
            f"{what} holds a class of Python",
            expected="tuples, lists and dicts",
            received=shown(kind),
            fix="Let the model return tuples, lists or dicts.",
        )
    if _KINDS.get(str(kind), "dict") != "dict":
        return Tree(_KINDS[str(kind)], children=trees)
    if not named:
        raise FormatError(f"{what} has a dict without a key for each value")
    return Tree("dict", tuple(keys or ()), trees)


def _keys(context: Any, what: str, limits: Limits) -> list[Any] | None:
    """A dict's keys; other classes may have the names of their fields there."""
    if not isinstance(context, str):
        return None
    data = strict_json.load(context.encode(), what, limits)
    if not isinstance(data, list) or not all(isinstance(k, str | int) for k in data):
        return None
    return data
