"""Every public name of the reference's files is in qlab, or in the list of what is not there."""

from __future__ import annotations

import importlib
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.golden.test_signatures import resolved

DEFINED: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("names.json").read_text(encoding="utf-8")
)
GUIDE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")


def listed() -> list[tuple[list[str], list[str]]]:
    """Files and patterns of names, row by row of the guide's last table."""
    table = GUIDE.partition("### Name by name")[2]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", one), re.findall(r"`([^`]+)`", two)) for one, two, _ in rows]


def excused(module: str, name: str) -> bool:
    return any(
        module in modules and any(fnmatchcase(name, pattern) for pattern in patterns)
        for modules, patterns in listed()
    )


def has(module: str, name: str | None = None) -> bool:
    """Whether qlab has a name of a file of the reference, or the file itself."""
    if name is None:
        try:
            importlib.import_module(f"qlab.{module}")
        except ImportError:
            return False
        return True
    try:
        resolved(f"{module}.{name}")
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("module", DEFINED)
def test_a_name_is_there_or_listed_and_never_both(module: str):
    assert has(module) is not excused(module, "*")
    wrong = [name for name in DEFINED[module] if has(module, name) is excused(module, name)]
    assert wrong == []


def test_no_entry_of_the_list_is_stale():
    for modules, patterns in listed():
        assert modules and patterns and set(modules) <= set(DEFINED)
        defined = [name for module in modules for name in DEFINED[module]]
        for pattern in patterns:
            assert pattern == "*" or any(fnmatchcase(name, pattern) for name in defined), pattern
