"""Model: the network as a picture coloured by error, its layers, and where tracing needed help."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.common import address, selection, sidebar, stale, upload_forms
from pages.common.described import ERRORS, Described
from pages.common.format import count, escape, layer_name, number, size
from pages.common.frame import View, page
from pages.common.glossary import define
from pages.common.loaded import Loaded, compare
from pages.common.theme import THEME
from pages.figures.network import ZOOMABLE, network

ABOUT = """
The network as qlab traced it, from its input at the top to its output; of a model that could not be
traced, its layers in the order in which they are called. Batch norms and activations that were
folded into a layer have no mark of their own.

The colour of a mark is the error of its layer: the more it stands out, the lower its SQNR. Its
shape says how the layer runs. Click a mark to select the layer on every page; drag to move, scroll
to zoom, double-click to see it as at first.
"""
#: Title and meaning of the table's other columns.
TEXTS = {
    "type": ("Type", "Class of the layer, or name of the function."),
    "execution": ("Runs as", define("runs as")),
    "in": ("Input", "Shape of its first input for one batch of examples."),
    "out": ("Output", "Shape of its output for the same batch."),
    "fused": ("Folded in", "Layers that were folded into this one."),
}


def draw(view: View) -> None:
    upload_forms.model_form(view)
    loaded = view.loaded()
    _facts(view, loaded)
    shown = stale.at_once(view)
    report = compare(loaded, shown.mapping, view.workspace).report
    layers = Described.of(loaded.lab, report)
    _picture(view, loaded, layers, shown.stale)
    _table(layers)
    _tracing(loaded)
    _left_out(layers)


def _facts(view: View, loaded: Loaded) -> None:
    layers = loaded.lab.layers
    name = sidebar.label(view.choice.model, loaded.sample.trained)
    st.markdown(f"**{escape(name)}** · {escape(loaded.sample.title)}. {escape(loaded.sample.data)}")
    facts = st.columns(4)
    facts[0].metric("Layers", count(len(layers)), help=define("layers"))
    facts[1].metric("Parameters", count(loaded.parameters()), help=define("parameters"))
    facts[2].metric("As float32", size(loaded.float_bytes()), help=define("float32 size"))
    quantizable = sum(layer.quantizable for layer in layers)
    facts[3].metric("Can be quantized", f"{quantizable} of {len(layers)}", help=define("can be"))


def _picture(view: View, loaded: Loaded, layers: Described, is_stale: bool) -> None:
    top = st.container(horizontal=True, vertical_alignment="bottom", wrap=False)
    top.subheader("Network", anchor=False, help=define("network picture"))
    address.keep(view.workspace, "model_error", "local", ERRORS)
    error = top.segmented_control(
        "Error",
        list(ERRORS),
        required=True,
        key="model_error",
        label_visibility="collapsed",
        persist_state="session",
        help=f"{define('local')} {define('accumulated')}",
    )
    # Both before either is drawn: the last click counts, wherever it was.
    selection.from_chart(view, "network")
    selection.from_table(view, "layers", layers.names)
    selected = selection.current(view, loaded.lab)
    picture = network(layers.coloured_by(error or "local"), selected=selected, stale=is_stale)
    st.plotly_chart(
        picture,
        key="network",
        theme=THEME,
        config=ZOOMABLE,
        on_select="rerun",
        selection_mode="points",
    )
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="selected"):
        st.html(f"selected&nbsp; {layer_name(selected)}")
        st.caption(escape(layers.in_words(selected)))
        for term, value in layers.errors_of(selected).items():
            st.metric(f"{term} ↑", number(value, "dB"), help=define(term))
        selection.link(view, loaded, selected)


def _table(layers: Described) -> None:
    st.subheader("Layers", anchor=False)
    text, numeric = st.column_config.TextColumn, st.column_config.NumberColumn
    st.dataframe(
        layers.table(),
        key="layers",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "layer": text("Layer", pinned=True),
            "parameters": numeric("Parameters", format="localized", help=define("parameters")),
            **{column: text(title, help=told) for column, (title, told) in TEXTS.items()},
            **{
                column: numeric(f"{term} [dB] ↑", format="%.3g", help=define(term))
                for term, column in ERRORS.items()
            },
        },
    )


def _tracing(loaded: Loaded) -> None:
    """What kept the model from becoming a graph, if anything did."""
    st.subheader("Where tracing needed help", anchor=False, help=define("tracing"))
    error = loaded.lab.trace_error
    if error is None:
        st.caption("Nowhere: the whole model became one graph.")
        return
    place = f"line {error.line} of {Path(error.file).name}" if error.file else "its own code"
    st.warning(
        f"The model did not become a graph: {escape(place)}, in "
        f"{escape(error.module or 'the model itself')}: {escape(error.why)}. Its layers are "
        "quantized one by one, and each takes and gives real numbers; what runs between them stays "
        "in float. Repairs, mixed precision and files need the graph."
    )


def _left_out(layers: Described) -> None:
    """Every layer that the configuration leaves in float, with the engine's reason."""
    st.subheader("What stays in float", anchor=False, help=define("stays float"))
    left, passing = layers.left_in_float()
    if passing:
        told = "1 layer only moves" if passing == 1 else f"{count(passing)} layers only move"
        st.caption(f"{told} elements: what comes in goes on.")
    if left.empty:
        st.caption("Nothing: every layer that computes is quantized.")
        return
    told = st.column_config.TextColumn("Why", help=define("stays float"))
    st.dataframe(left, column_config={"Why": told})


page("Model", ABOUT, draw)
