"""The truth table: what was asked of every layer, what it gets, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from pages.common import selection, words
from pages.common.format import escape, layer_name
from pages.common.frame import View
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab.graph.plan import Plan, Step

EVERYTHING_ELSE = "global"
SEPARATOR = " · "
#: Pixels: a cell of more than 64 wraps its text; these hold four and five lines.
ROW_BESIDE, ROW = 74, 104
HEADER, MOST = 36, 520
#: Title, meaning and width in pixels of each column of sentences; all fit a window of 853 pixels.
COLUMNS = {
    "asked": (
        "Asked",
        "What the matching rule asks for: W for the weight, A for the output; and which rule "
        "that is, where it is not the one for everything else.",
        150,
    ),
    "gets": (
        "Gets",
        "How the layer is resolved: W its weight, A its output, and which layers were fused "
        "into it.",
        165,
    ),
    "why": (
        "Runs as, and why",
        "integer: codes in, codes out. simulated: float arithmetic on quantized numbers. shared: "
        "moves codes as they are. float: as in the original model.",
        150,
    ),
}
GETS_BESIDE = (
    "integer: codes in, codes out. simulated: float arithmetic on quantized numbers. shared: moves "
    "codes as they are. float: as in the original model. Then what W, its weight, and A, its "
    "output, get; the rule that decided, where it is not the one for everything else; what was "
    "fused into it."
)


def beside(plan: Plan, part: str) -> None:
    """Draws what each layer gets in the width that a table beside another one has.

    Args:
        plan: Of the configuration in force.
        part: Which part of what a layer gets is told: one of `rows.PARTS`.
    """
    frame = told(plan, part)
    st.dataframe(
        frame,
        key="plan",
        on_select="rerun",
        selection_mode="single-cell",
        row_height=ROW_BESIDE,
        height=min(HEADER + ROW_BESIDE * len(frame), MOST),
        column_order=("part",),
        column_config={
            "layer": st.column_config.TextColumn("Layer", pinned=True, width=104),
            "part": st.column_config.TextColumn("Gets", help=GETS_BESIDE, width=128),
        },
    )


def draw(view: View, loaded: Loaded, plan: Plan) -> None:
    """Draws the table over the whole width, and the story of the selected row."""
    frame = told(plan)
    unmatched(plan)
    st.dataframe(
        frame,
        key="plan",
        on_select="rerun",
        selection_mode="single-cell",
        row_height=ROW,
        height=min(HEADER + ROW * len(frame), MOST),
        column_order=tuple(COLUMNS),
        column_config={
            "layer": st.column_config.TextColumn("Layer", pinned=True, width=112),
            **{
                column: st.column_config.TextColumn(title, help=meaning, width=width)
                for column, (title, meaning, width) in COLUMNS.items()
            },
        },
    )
    story(view, loaded, plan)


def told(plan: Plan, part: str = "bits") -> pd.DataFrame:
    """The plan's table with columns of sentences: those of `COLUMNS`, and `part` for one part."""
    frame = plan.to_frame()
    steps = [plan.step(str(name)) for name in frame.index]
    frame["asked"] = [_asked(step) for step in steps]
    frame["gets"] = [_gets(step) for step in steps]
    frame["why"] = [f"{step.execution}: {step.reason}" for step in steps]
    frame["part"] = [_part(step, part) for step in steps]
    return frame


def _rule(step: Step) -> list[str]:
    if step.rule == EVERYTHING_ELSE:
        return []
    return ["by its own rule" if step.rule == f"module name {step.name!r}" else f"by {step.rule}"]


def _fused(step: Step) -> list[str]:
    """What was fused into it; of names in the same module the last part tells."""
    home = f"{step.name.rpartition('.')[0]}."
    return [f"with {', '.join(name.removeprefix(home) for name in step.fused)}"] * bool(step.fused)


def _specs(step: Step) -> list[str]:
    """What its weight and its output get, a line each."""
    pairs = (("W", step.weight), ("A", step.output))
    return [f"{letter} {spec.describe()}" for letter, spec in pairs if spec is not None]


def _asked(step: Step) -> str:
    from qlab.registry.asked import asked_by

    if step.requested is None:
        return SEPARATOR.join(["float", *_rule(step)])
    specs = {"W": step.requested.weight, "A": step.requested.activation}
    lines = []
    for letter, factory in specs.items():
        spec = asked_by(factory).spec
        lines.append(f"{letter} {'float' if spec is None else spec.describe()}")
    return SEPARATOR.join([*_rule(step), *lines])


def _gets(step: Step) -> str:
    return SEPARATOR.join([*(_specs(step) or ["float"]), *_fused(step)])


def _part(step: Step, part: str) -> str:
    if part == "bits" or not step.quantized or step.execution == "shared":
        first = step.reason
    else:
        place = words.Words._fields.index(part)
        pairs = (("W", step.weight), ("A", step.output))
        got = [f"{k} {words.words_of(spec)[place]}" for k, spec in pairs if spec is not None]
        first = ", ".join(got)
    return SEPARATOR.join([f"{step.execution}: {first}", *_rule(step), *_fused(step)])


def unmatched(plan: Plan) -> None:
    """Says how many layers run as what, and flags the rules that match nothing."""
    counts = plan.to_frame()["execution"].value_counts()
    st.caption(" · ".join(f"{number} {kind}" for kind, number in counts.items()))
    for rule in plan.unmatched:
        st.warning(f"This rule matches nothing in the model: {escape(rule)}")


def story(view: View, loaded: Loaded, plan: Plan) -> None:
    """Draws all that there is to say of the row that was clicked last, or of the selected layer."""
    selection.from_table(view, "plan", [step.name for step in plan.steps])
    name = selection.current(view, loaded.lab)
    row = plan.to_frame().loc[name]
    with st.container(border=True, key="selected"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.html(f"selected&nbsp; {layer_name(name)}", width="content")
            st.space("stretch")
            selection.link(view, loaded, name)
        rule = "everything else" if row["rule"] == EVERYTHING_ELSE else row["rule"]
        lines = [f"Asked, by the rule for {rule}: {row['requested']}."]
        lines.append(f"Runs as {row['execution']}: {row['reason']}.")
        for column in ("weight", "inputs", "output"):
            if row[column]:
                lines.append(f"{column.capitalize()}: {row[column]}.")
        lines.append(f"{row['type']}" + (f", with {row['fused']} fused." if row["fused"] else "."))
        st.text("\n".join(lines))
