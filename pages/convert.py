"""Convert: what was asked of every layer and what it gets; the integer model to take away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import checks, conversion, selection, sidebar
from pages.common.format import count, escape, layer_name, size
from pages.common.frame import View, page
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab.graph.plan import Plan

ABOUT = """
The configuration asks something of every layer. The table says what each one gets, by which rule,
and why: some have no integer form, some only pass codes on, some were fused into their neighbour.

**Convert** makes the integer model, writes it to a file, reads the file back and runs both on the
same images. What you download is that file. Below, the integer model beside its simulation in float
arithmetic, and the time that it takes on this machine.
"""
#: Title, meaning and width in pixels of each column of the truth table.
COLUMNS = {
    "requested": ("Asked", "What the matching rule of the configuration asks for.", 190),
    "rule": ("By rule", "The rule that decided; more specific ones win.", 100),
    "execution": (
        "Runs as",
        "integer: codes in, codes out. simulated: float arithmetic on quantized numbers. shared: "
        "moves codes as they are. float: as in the original model.",
        75,
    ),
    "reason": ("Why", "Why it was resolved this way.", 170),
    "weight": ("Weight", "How its weight is stored.", 170),
    "output": ("Output", "How its output leaves.", 170),
    "inputs": ("Input", "How its inputs arrive.", 170),
    "type": ("Type", "The layer's class, or the function's name.", 100),
    "fused": ("Fused", "Layers that were folded into this one.", 110),
}


def draw(view: View) -> None:
    loaded = view.loaded()
    name = sidebar.label(view.choice.model, loaded.sample.trained)
    st.markdown(f"**{escape(name)}** · {escape(view.choice.preset)}")
    _table(view, loaded, loaded.lab.plan(view.mapping))
    asked = view.workspace.converted.get(view.choice)
    st.button(
        "Convert",
        type="primary",
        key="convert",
        on_click=view.workspace.convert,
        args=(view.choice,),
        disabled=asked == view.mapping,
    )
    if asked is None:
        st.caption("Makes the integer model of this configuration and checks it.")
    elif asked != view.mapping:
        st.info("The configuration has changed since the last conversion. Convert again.")
    else:
        _files(view, loaded)
        checks.draw(view, loaded)


def _table(view: View, loaded: Loaded, plan: Plan) -> None:
    frame = plan.to_frame()
    counts = frame["execution"].value_counts()
    st.caption(" · ".join(f"{number} {kind}" for kind, number in counts.items()))
    for rule in plan.unmatched:
        st.warning(f"This rule matches nothing in the model: {escape(rule)}")
    st.dataframe(
        frame[list(COLUMNS)],
        key="plan",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "layer": st.column_config.TextColumn("Layer", pinned=True),
            **{
                column: st.column_config.TextColumn(title, help=meaning, width=width)
                for column, (title, meaning, width) in COLUMNS.items()
            },
        },
    )
    selection.from_table(view, "plan", list(frame.index))
    name = selection.current(view, loaded.lab)
    row = frame.loc[name]
    with st.container(border=True, key="selected"):
        title, link = st.columns([8, 1], vertical_alignment="center")
        title.html(f"selected&nbsp; {layer_name(name)}")
        with link:
            selection.link(view, loaded, name)
        st.text(
            f"Asked, by the rule '{row['rule']}': {row['requested']}.\n"
            f"Runs as {row['execution']}: {row['reason']}."
        )


def _files(view: View, loaded: Loaded) -> None:
    made = conversion.convert(loaded, view.mapping, view.workspace)
    name = conversion.file_name(view.choice, view.workspace.changes(view.choice))
    if made.identical:
        st.success(
            f"The file was read back and gave identical outputs on {count(made.images)} images."
        )
    else:
        st.error(
            "The file was read back and gave other outputs than the model it was made from. Do not "
            "use it, and please report this."
        )
    checkpoint, recipe = st.columns(2)
    checkpoint.download_button(
        f"Download {name}.safetensors ({size(len(made.checkpoint))})",
        made.checkpoint,
        file_name=f"{name}.safetensors",
        mime="application/octet-stream",
        key="download_checkpoint",
        on_click="ignore",
        type="primary",
        width="stretch",
    )
    recipe.download_button(
        f"Download {name}.json ({size(len(made.recipe))})",
        made.recipe,
        file_name=f"{name}.json",
        mime="application/json",
        key="download_recipe",
        on_click="ignore",
        width="stretch",
    )
    st.markdown("Load the model, in Python:")
    st.code(f'import qlab\nmodel = qlab.load_quantized("{name}.safetensors")', language="python")
    with st.expander("Load the recipe: the configuration alone"):
        st.code(
            "from pathlib import Path\nfrom qlab import QConfigMapping\n"
            f'mapping = QConfigMapping.from_json(Path("{name}.json").read_text())',
            language="python",
        )
    with st.expander("The integer model, as code"):
        st.code(made.code, language="python")


page("Convert", ABOUT, draw)
