"""The table on *Configure*: what is typed into it becomes the configuration, or says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from pages.common import rows
from pages.common.format import escape
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded
from pages.common.rows import IN_FLOAT, KINDS, Row
from pages.common.workspace import Choice

if TYPE_CHECKING:
    from qlab.qconfig import QConfigMapping

HELD = "configure_held"
PICKED = "picked"
TITLES = {
    IN_FLOAT: ("Float", "Keep the layer in float32, as in the original model."),
    "weight bits": ("W", f"Weight. {define('bits')} 'float' keeps the weight as it is."),
    "weight scheme": ("W", f"Weight. {define('scheme')}"),
    "weight granularity": ("W", f"Weight. {define('granularity')}"),
    "weight observer": ("W", f"Weight. {define('observer')}"),
    "activation bits": ("A", f"Output. {define('bits')} 'float' keeps the output as it is."),
    "activation scheme": ("A", f"Output. {define('scheme')}"),
    "activation granularity": ("A", f"Output. {define('one scale')}"),
    "activation observer": ("A", f"Output. {define('observer')}"),
}
#: Parts of what is asked, in the words of the columns: one at a time, beside what layers get.
PARTS = {"bits": "bits", "scheme": "scheme", "scale": "granularity", "observer": "observer"}
#: Pixels that all columns of a part have room for in a window of 853; in wider ones they grow.
NAME, PICK, SWITCH, CELL = 104, 46, 66, 80
#: Letters that a name may have in one line; where one has more, rows are high enough for several.
SHORT, HIGH, LOW, HEADER, MOST = 15, 74, 35, 38, 520


@dataclass
class Held:
    """What the table was last filled with; it is filled anew when anything else changes it.

    Attributes:
        choice: What it belongs to.
        base: The configuration that it was filled from.
        result: What the entries have made of that.
        frame: What it was filled with; never changed, else the editor would lose entries.
        seen: The rows as they stood at the last run.
        problems: What is wrong with some of them, in words, by layer.
        picked: Layers that are ticked for changing many at once.
        generation: In the editor's key.
    """

    choice: Choice
    base: QConfigMapping
    result: QConfigMapping
    frame: pd.DataFrame
    seen: dict[str, Row]
    problems: dict[str, str]
    picked: list[str] = field(default_factory=list)
    generation: int = 0


def draw(view: View, loaded: Loaded, part: str) -> Held:
    """Draws the table; entries that make sense are applied, each as one change.

    Args:
        view: What the page was given.
        loaded: The model in use.
        part: Which part of what is asked is shown: one of `rows.PARTS`.
    """
    held = _held(view, loaded)
    long = any(len(str(name)) > SHORT for name in held.frame.index)
    edited = st.data_editor(
        held.frame,
        key=f"configure_{held.generation}",
        column_config=_columns(loaded, held),
        column_order=(PICKED, IN_FLOAT, *(f"{kind} {part}" for kind in KINDS)),
        num_rows="fixed",
        row_height=HIGH if long else None,
        height=min(HEADER + (HIGH if long else LOW) * len(held.frame), MOST),
    )
    held.picked = [str(name) for name, row in edited.to_dict("index").items() if row[PICKED]]
    typed = _rows_of(edited)
    if typed != held.seen:
        held.seen = typed
        _apply(view, loaded, held)
        st.rerun()
    return held


def set_all(view: View, loaded: Loaded, layers: list[str], column: str, value: object) -> None:
    """Writes one value into a column of many rows, as one change; a button's callback."""
    held = _held(view, loaded)
    typed = {
        name: {**row, column: value} if name in layers and _has(row, column) else row
        for name, row in held.seen.items()
    }
    held.base, held.seen = view.mapping, typed
    _apply(view, loaded, held)
    st.session_state[HELD] = _filled(view, loaded, held)


def discard(view: View) -> None:
    """Forgets entries that make no sense; a button's callback."""
    view.workspace.refuse(view.choice, {})
    held: Held = st.session_state.pop(HELD)
    st.session_state[f"{HELD}_last"] = held.generation


def _held(view: View, loaded: Loaded) -> Held:
    held: Held | None = st.session_state.get(HELD)
    if (
        held is None
        or (held.choice, held.result) != (view.choice, view.mapping)
        or f"configure_{held.generation}" not in st.session_state
    ):
        held = st.session_state[HELD] = _filled(view, loaded, held)
    return held


def _filled(view: View, loaded: Loaded, before: Held | None) -> Held:
    """The table as the configuration in force has it, with what was refused still in its place."""
    last = before.generation if before else st.session_state.get(f"{HELD}_last", 0)
    read = rows.read(loaded, loaded.lab.plan(view.mapping))
    refused = view.workspace.refusals(view.choice)
    typed = {name: {**row, **refused.get(name, {})} for name, row in read.items()}
    problems = rows.write(loaded, view.mapping, typed).problems
    for name in refused.keys() & read.keys() - problems.keys():
        if typed[name][IN_FLOAT] != read[name][IN_FLOAT]:  # undone: it waited in float and is not
            typed[name] = read[name]
    picked = list(before.picked) if before and before.choice == view.choice else []
    frame = rows.frame(typed)
    frame.insert(0, PICKED, [name in picked for name in frame.index])
    return Held(view.choice, view.mapping, view.mapping, frame, typed, problems, picked, last + 1)


def _rows_of(table: pd.DataFrame) -> dict[str, Row]:
    """The rows as they stand; an empty cell is None however the editor calls it."""
    return {
        str(name): {
            column: _value(column, cell) for column, cell in row.items() if column != PICKED
        }
        for name, row in table.to_dict("index").items()
    }


def _value(column: object, cell: object) -> bool | str | None:
    if column == IN_FLOAT:
        return bool(cell)
    return cell if isinstance(cell, str) else None


def _apply(view: View, loaded: Loaded, held: Held) -> None:
    written = rows.write(loaded, held.base, held.seen)
    view.workspace.configure(view.choice, written.mapping, written.changed)
    as_read = rows.read(loaded, loaded.lab.plan(written.mapping))
    waiting = {
        name: row
        for name, row in held.seen.items()
        if name in written.problems or (row[IN_FLOAT] and row != as_read[name])
    }
    view.workspace.refuse(view.choice, waiting)
    held.result, held.problems = view.mapping, written.problems


def _has(row: Row, column: str) -> bool:
    """Whether a row's cell can be set with many others: a layer without weight has none."""
    return column == IN_FLOAT or row[f"{column.split()[0]} bits"] is not None


def _columns(loaded: Loaded, held: Held) -> dict:
    offered = rows.options(loaded, held.seen.values())
    return {
        "layer": st.column_config.TextColumn("Layer", pinned=True, disabled=True, width=NAME),
        PICKED: st.column_config.CheckboxColumn(
            "✓", help="Picks rows, for changing many layers at once, below.", width=PICK
        ),
        IN_FLOAT: st.column_config.CheckboxColumn(
            TITLES[IN_FLOAT][0], help=TITLES[IN_FLOAT][1], width=SWITCH
        ),
        **{
            column: st.column_config.SelectboxColumn(
                TITLES[column][0],  # the switch above the table says which part it is
                help=TITLES[column][1],
                options=options,
                width=CELL,
            )
            for column, options in offered.items()
        },
    }


def problems(view: View, held: Held) -> None:
    """Says what is wrong with which row; the rows stay as they were typed."""
    if not held.problems:
        return
    with st.container(key="problems"):
        for name, problem in held.problems.items():
            st.error(f"**{escape(name)}** is not applied. {escape(problem)}")
        st.button("Discard these entries", key="discard", on_click=discard, args=(view,))
