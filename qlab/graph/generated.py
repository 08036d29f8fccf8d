"""The Python code of a converted graph: how it finds modules, and which memory it writes again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, fx, nn
from torch.fx.graph import _format_target

from qlab.nn.intrinsic.quantized import ConvAdd2d
from qlab.nn.quantized.base import QuantizedModule

#: ``y = self._modules['a']._modules['b'](x, other);  x = other = None``, what follows if any.
_CALL = re.compile(
    r"\s*(?P<result>\w+) = (?P<module>self(?:\._modules\['[^']*'\])+)\((?P<arguments>[\w, ]*)\)"
    r"(?:;(?P<dropped>(?:\s+\w+ =)+ None))?\s*"
)


def write_for_speed(graph: fx.Graph, targets: Mapping[str, nn.Module | Tensor]) -> None:
    """Lets a converted graph's code be what runs fastest; its nodes stay as they are.

    Modules are looked up in dictionaries, since attributes of modules are slow to find. A sum
    behind a convolution (`ConvAdd2d`) is told whether its second operand is dead afterwards, and
    may then be written where that lies: `ConvAdd2d.last_use`.

    Both are read off the code whenever it is written anew, so that who adds a reader to a graph
    keeps the value it reads. Who runs the nodes one by one never meets the second.

    Args:
        graph: Of a converted model.
        targets: What its nodes call, by path.
    """
    own = {p for p, m in targets.items() if isinstance(m, QuantizedModule) and m.own_memory}
    sums = {path for path, module in targets.items() if isinstance(module, ConvAdd2d)}
    transform = partial(_written, tuple(targets), frozenset(own), frozenset(sums))
    graph.on_generate_code(lambda _: transform)


def _written(
    paths: Sequence[str], own: frozenset[str], sums: frozenset[str], lines: list[str]
) -> list[str]:
    code = "".join(lines)
    for path in paths:
        code = code.replace(f" = {_format_target('self', path)}(", f" = {_found(path)}(")
    return [_last_uses(code, {_found(p) for p in own}, {_found(p) for p in sums})]


def _found(path: str) -> str:
    return "self" + "".join(f"._modules[{part!r}]" for part in path.split("."))


@dataclass(frozen=True)
class _Line:
    """One call of a module, as code."""

    result: str
    module: str
    arguments: tuple[str, ...]
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> _Line | None:
        """None for anything but a call of a module with values alone."""
        match = _CALL.fullmatch(text)
        if match is None:
            return None
        given = tuple(match["arguments"].split(", "))
        dropped = tuple(re.findall(r"(\w+) =", match["dropped"] or ""))
        return cls(match["result"], match["module"], given, dropped)


def _last_uses(code: str, own: set[str], sums: set[str]) -> str:
    """Calls of sums whose second operand nothing can see afterwards, turned into `last_use`."""
    texts = code.split("\n")
    lines = [_Line.of(text) for text in texts]
    for index, line in enumerate(lines):
        if line is None or line.module not in sums or len(line.arguments) != 2:
            continue
        x, other = line.arguments
        makers = _makers_and_readers(other, texts, lines, own)
        if x != other and other in line.dropped and makers:
            given, seen = f"({x}, {other}", "".join(f"{maker}, " for maker in makers)
            texts[index] = texts[index].replace(f"{given})", f".last_use{given}, ({seen}))", 1)
    return "\n".join(texts)


def _makers_and_readers(
    value: str, texts: Sequence[str], lines: Sequence[_Line | None], own: set[str]
) -> list[str]:
    """The modules that make a value and read it before its last use; none where others see it.

    They must be such that make memory of their own: no other name then stands for the value's.
    """
    name = re.compile(rf"(?<![\w'.]){value}(?![\w'])")
    mentions = [lines[i] for i, text in enumerate(texts) if name.search(text)]
    first = mentions[0] if mentions else None
    if first is None or first.result != value or value in first.arguments:
        return []
    found = [line.module for line in mentions if line is not None and line.module in own]
    return found[:-1] if len(found) == len(mentions) else []
