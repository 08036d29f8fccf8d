"""What a command prints: one result on stdout, progress and complaints on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

#: Columns of a table where stdout is no terminal, so that a log cuts no names.
_WIDE = 160


def stdout() -> Console:
    """The console for results."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def stderr() -> Console:
    """The console for progress and complaints."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr for the time of one computation; yields what `Lab` calls ``on_progress``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=stderr()) as bars:
        bar = bars.add_task(escape(title), total=None)

        def report(done: int, total: int, label: str) -> None:
            bars.update(bar, completed=done, total=total or None)

        yield report


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document; infinities and NaN are the strings ``"inf"``, ``"-inf"``, ``"nan"``."""
    sys.stdout.write(json.dumps(_plain(document), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: float, unit: str = "") -> str:
    """Four significant digits, as they are read in a table."""
    text = f"{value:.4g}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str = "") -> None:
    """A table on stdout; columns whose name starts with ``>`` are aligned right."""
    grid = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        grid.add_column(name.removeprefix(">"), justify="right" if right else "left")
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    stdout().print(grid)


def say(text: str = "") -> None:
    """A line on stdout."""
    stdout().print(escape(text), soft_wrap=True)


def complain(text: str) -> None:
    """A line on stderr."""
    stderr().print(escape(text))
