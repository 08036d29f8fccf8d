"""Sizes that an exported program leaves open: integers and expressions of named symbols.

`torch.export` writes an expression as sympy's ``srepr``, which is Python; sympy would evaluate it.
Here it is parsed by hand, with a grammar of a few functions, and never evaluated:

    expression := Symbol('s0', positive=True, …) | Integer(3) | 3 | Function(expression, …)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from qlab.errors import FormatError
from qlab.io.uploads import strict_json
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.strict_json import shown

_FUNCTIONS = (
    "Add", "CleanDiv", "FloorDiv", "Max", "Min", "Mod", "Mul", "Pow", "PythonMod", "Rational",
)  # fmt: skip
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][A-Za-z0-9_]*)|(-?\d{1,19})|('[A-Za-z_]\w{0,63}')|([(),=]))")
_DEEPEST = 32
_LARGEST = 2**48


@dataclass(frozen=True)
class Size:
    """One size, stride or offset.

    Attributes:
        symbol: The symbol's name, where the expression is a symbol alone.
        example: Its value for the inputs that the program was made from, if known.
        fixed: Whether it is a plain integer.
    """

    example: int | None
    fixed: bool = True
    symbol: str | None = None


def read_size(data: Any, what: str, limits: Limits) -> Size:
    """A size from its JSON: ``{"as_int": 3}`` or ``{"as_expr": {"expr_str": …, "hint": …}}``.

    Raises:
        FormatError: Negative, too large, or an expression outside the grammar.
    """
    tag, value = strict_json.union(data, what)
    if tag == "as_int":
        return Size(_checked(strict_json.of(value, int, what), what))
    if tag != "as_expr":
        raise FormatError(f"{what} is neither a number nor an expression", received=shown(tag))
    text = strict_json.field(value, "expr_str", str, what)
    limits.check("text", len(text), f"The expression for {what} is too long")
    symbol = parse(text)
    hint = value.get("hint")
    example = None
    if hint is not None:
        example = _checked(strict_json.field(hint, "as_int", int, f"the hint of {what}"), what)
    return Size(example, fixed=False, symbol=symbol)


def _checked(value: int, what: str) -> int:
    if not 0 <= value <= _LARGEST:
        raise FormatError(f"{what} is out of range", expected=f"0 to {_LARGEST}", received=value)
    return value


def parse(text: str) -> str | None:
    """The name of the symbol that an expression is; None where it is more than one symbol.

    Raises:
        FormatError: Outside the grammar.
    """
    parser = _Parser(text)
    symbol = parser.expression(0)
    if parser.peek() is not None:
        parser.refuse()
    return symbol


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                self.refuse()
            self.tokens.append(match.group().strip())
            position = match.end()
        self.next = 0

    def refuse(self) -> NoReturn:
        raise FormatError(
            "A size is given by an expression that qlab does not read",
            expected="integers and symbols in " + ", ".join(_FUNCTIONS),
            received=shown(self.text),
            fix="Export the model with dynamic_shapes that name whole axes, or without.",
        )

    def peek(self) -> str | None:
        return self.tokens[self.next] if self.next < len(self.tokens) else None

    def take(self, *allowed: str) -> str:
        token = self.peek()
        if token is None or (allowed and token not in allowed):
            self.refuse()
        self.next += 1
        return str(token)

    def expression(self, depth: int) -> str | None:
        if depth > _DEEPEST:
            self.refuse()
        token = self.take()
        if token.lstrip("-").isdigit():
            return None
        if token == "Symbol":
            return self.symbol()
        if token == "Integer":
            self.take("(")
            if not self.take().lstrip("-").isdigit():
                self.refuse()
            self.take(")")
            return None
        if token not in _FUNCTIONS:
            self.refuse()
        self.take("(")
        self.expression(depth + 1)
        while self.take(",", ")") == ",":
            self.expression(depth + 1)
        return None

    def symbol(self) -> str:
        self.take("(")
        name = self.take()
        if not name.startswith("'"):
            self.refuse()
        while self.take(",", ")") == ",":
            if not self.take().isidentifier():
                self.refuse()
            self.take("=")
            self.take("True", "False")
        return name.strip("'")
