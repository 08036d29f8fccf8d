"""The model as ONNX: exported, run in onnxruntime and compared before anyone downloads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from pages.common import checks, messages, more_files
from pages.common.format import count, number, percent
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab.io.onnx_check import OnnxCheck

#: Column of the engine's table, title, term of the glossary, and width in pixels.
COLUMNS: checks.Columns = (
    ("codes", "Codes", "onnx", 90),
    ("exact", "Equal codes", "onnx exact", 95),
    ("off_by_1", "Off by 1", "onnx off by", 70),
    ("off_by_2", "by 2", "onnx off by", 60),
    ("off_by_more", "by more", "onnx off by", 70),
    ("max_steps", "Largest", "onnx largest", 70),
)


def draw(view: View, loaded: Loaded) -> None:
    """The section: a button, then what onnxruntime gives, then the download."""
    st.subheader("ONNX", anchor=False, help=define("onnx"))
    with messages.shown("file-onnx"):
        written = more_files.asked(view, loaded, more_files.ONNX, "Export ONNX and check it")
        if written is None:
            st.caption(
                "Writes QuantizeLinear and DequantizeLinear around float operators, runs the file "
                "in onnxruntime on the calibration data and compares every tensor of codes."
            )
            return
        if written.check is not None:
            _check(written.check)
        more_files.download(view, loaded, written, more_files.ONNX)


def _check(check: OnnxCheck) -> None:
    tiles = _tiles(check)
    for place, (title, value, term) in zip(st.columns(len(tiles)), tiles, strict=True):
        place.metric(title, value, help=define(term))
    st.caption(
        f"{check.runtime}, opset {check.opset}, on {count(check.samples)} calibration samples; "
        "the file passed onnx.checker."
    )
    if check.measured:
        out = check.measured
        facts = [f"output SQNR {number(out['sqnr'], 'dB')}"]
        if "within_one" in out:
            facts.insert(0, f"{percent(out['within_one'])} of outputs within one step")
        if "top1_agreement" in out:
            facts.append(f"the same class on {number(out['top1_agreement'], '%')} of samples")
        st.caption(
            "In the file, and in the integer model that it is compared with above, biases are "
            "int32 codes, as integer runtimes hold them. Beside the model as measured on the other "
            f"pages, whose biases are real numbers: {', '.join(facts)}."
        )
    if check.most_local_steps > 1:
        row = check.table["max_steps_local"].idxmax()
        st.warning(
            f"onnxruntime gives other codes than qlab for {row!s}, by up to "
            f"{check.most_local_steps} steps. Measure the file on your own data before you use it."
        )
    if len(check.table):
        checks.agreement(check.table, COLUMNS, "onnx")
    else:
        st.caption("The file quantizes no activation, so there are no codes to compare.")


def _tiles(check: OnnxCheck) -> list[tuple[str, str, str]]:
    """Title, value and term of what is known of the network and its operators."""
    out = check.output
    tiles = []
    if len(check.table):
        steps = check.most_local_steps
        unit = "step" if steps == 1 else "steps"
        tiles.append(("Largest difference of an operator", f"{steps} {unit}", "onnx steps"))
    if "within_one" in out:
        tiles.append(("Outputs within one step", percent(out["within_one"]), "onnx outputs"))
    if "top1_agreement" in out:
        tiles.append(("Same class", number(out["top1_agreement"], "%"), "onnx top1"))
    tiles.append(("Output SQNR", number(out["sqnr"], "dB"), "onnx sqnr"))
    return tiles
