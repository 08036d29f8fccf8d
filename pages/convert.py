"""Convert: what was asked of every layer and what it gets; the integer model to take away."""

from __future__ import annotations

import streamlit as st

from pages.common import checks, conversion, more_files, onnx_check, sidebar, truth
from pages.common.conversion import Conversion
from pages.common.format import count, escape, size
from pages.common.frame import View, page
from pages.common.loaded import Loaded

ABOUT = """
The configuration asks something of every layer. The table says what each one gets, by which rule,
and why: some have no integer form, some only pass codes on, some were fused into their neighbour.

**Convert** makes the integer model, writes it to a file, reads the file back and runs both on the
same images. What you download is that file. Other forms are made when you ask for them; an ONNX
file is run in onnxruntime before you download it. Below, what every layer takes before and after,
the integer model beside its simulation in float arithmetic, and the time that it takes on this
machine.
"""
CONVERSION = "conversion"


def draw(view: View) -> None:
    loaded = view.loaded()
    name = sidebar.label(view.choice.model, loaded.sample.trained)
    st.markdown(f"**{escape(name)}** · {escape(view.choice.preset)}")
    truth.draw(view, loaded, loaded.lab.plan(view.mapping))
    asked = view.workspace.shown.get((CONVERSION, view.choice))
    st.button(
        "Convert",
        type="primary",
        key="convert",
        on_click=view.workspace.refresh,
        args=(view.choice, CONVERSION),
        disabled=asked == view.mapping,
    )
    if asked is None:
        st.caption("Makes the integer model of this configuration and checks it.")
    elif asked != view.mapping:
        st.info("The configuration has changed since the last conversion. Convert again.")
    else:
        made = conversion.convert(loaded, view.mapping, view.workspace)
        _files(view, loaded, made)
        more_files.draw(view, loaded)
        onnx_check.draw(view, loaded)
        checks.sizes(made.sizes)
        checks.draw(view, loaded)


def _files(view: View, loaded: Loaded, made: Conversion) -> None:
    name = conversion.file_name(view.choice, view.workspace, loaded)
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
    if loaded.chain:
        st.caption(
            "The checkpoint holds the repaired model. The recipe is the configuration alone: with "
            "the original model it gives another one."
        )


page("Convert", ABOUT, draw)
