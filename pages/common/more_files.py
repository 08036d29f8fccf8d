"""Other forms of the converted model, each written when someone asks for it."""

from __future__ import annotations

import streamlit as st

from pages.common import conversion, messages, models
from pages.common.conversion import Written
from pages.common.format import size
from pages.common.frame import View
from pages.common.loaded import Loaded

#: By suffix, what the file is. Those of other parts of the page are not in here.
ABOUT = {
    ".pt2": "The quantized program in PyTorch's own operators, for `torch.export.load` on machines "
    "without qlab.",
    ".py": "A script that repeats this conversion and checks that it ends in the same integers.",
    ".html": "A report that opens offline: configuration, metrics, the error of every layer and "
    "its causes, versions.",
}
MEDIA = {".py": "text/x-python", ".html": "text/html"}
ONNX = ".onnx"
#: What the page offers at once.
AT_ONCE = (".safetensors", ".json")


def draw(view: View, loaded: Loaded) -> None:
    """One row per file that the engine can write."""
    from qlab.io.exports import WRITERS

    st.subheader("Other files", anchor=False)
    for suffix in WRITERS:
        if suffix in AT_ONCE or suffix == ONNX:
            continue
        row, button = st.columns([3, 2], vertical_alignment="center")
        row.markdown(f"**{suffix}** · {ABOUT[suffix]}")
        with button, messages.shown(f"file-{suffix[1:]}"):
            written = asked(view, loaded, suffix, f"Make {suffix}")
            if written is not None:
                download(view, loaded, written, suffix)


def asked(view: View, loaded: Loaded, suffix: str, label: str) -> Written | None:
    """The file of the configuration in force, once someone has asked for it; else the button."""
    kind = f"file {suffix}"
    if view.workspace.shown.get((kind, view.choice)) != view.mapping:
        st.button(
            label,
            key=f"make_{suffix[1:]}",
            on_click=view.workspace.refresh,
            args=(view.choice, kind),
            width="stretch",
        )
        return None
    origin = models.origin(view.choice, view.workspace)
    return conversion.write(loaded, view.mapping, view.workspace, suffix, origin)


def download(view: View, loaded: Loaded, written: Written, suffix: str) -> None:
    """The button that hands a file out, or why there is none."""
    if written.refusal:
        st.warning(written.refusal)
        return
    name = conversion.file_name(view.choice, view.workspace, loaded)
    st.download_button(
        f"Download {name}{suffix} ({size(len(written.content))})",
        written.content,
        file_name=f"{name}{suffix}",
        mime=MEDIA.get(suffix, "application/octet-stream"),
        key=f"download_{suffix[1:]}",
        on_click="ignore",
        width="stretch",
    )
