"""Repairs explained: each algorithm at work on a sample, with the numbers that come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from pages.common import messages, repairs_shown, training
from pages.common.engine import wait_for
from pages.common.format import count, escape, number
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.jobs import CancelledError, Progress
from pages.common.repairs import parts_of
from pages.common.theme import THEME
from pages.figures.channels import channel_ranges
from pages.figures.layout import CONFIG
from pages.figures.repairs import by_layer, moved
from pages.figures.versus import versus
from pages.lessons.repairs_texts import TEXTS, Text
from pages.lessons.worked import lines
from qlab.analysis import grid

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qlab import Lab
    from qlab.algorithms import Algorithm, RepairReport
    from sample_models import SampleModel

KIND = "lesson"
LOUD, TIMES = (3, 17, 40), 60.0
#: Bins of a histogram of moves, in steps.
EDGES = np.linspace(-1.5, 1.5, 61)
Ranges = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Shown:
    """What a repair did to a sample.

    Attributes:
        sample: The sample.
        report: What it bought.
        ranges: Smallest and largest value of each channel, before and after.
        moves: How many weights moved how far, in the bins of `EDGES`.
        beyond: The share of them of which `Text.beyond` is true.
    """

    sample: SampleModel
    report: RepairReport
    ranges: tuple[Ranges, Ranges] | None = None
    moves: np.ndarray | None = None
    beyond: float = 0.0


def draw(view: View, name: str) -> None:
    """One algorithm: its rule, what it bought on its sample, and where."""
    row, text = rows()[name], TEXTS[name]
    st.html(lines(*text.formulas))
    st.caption(f"{escape(row.paper)}")
    with messages.shown(name):
        shown = _at_work(view, name, text)
        report = shown.report
        st.markdown(
            f"On **{escape(text.model)}** under *{escape(text.preset)}*, computed by this server:"
        )
        repairs_shown.gains(report, shown.sample, text.layer or None)
        st.caption(
            f"It took {number(report.seconds, 's')} and {count(report.samples)} calibration "
            "samples. The same in Python, with every setting:"
        )
        st.code(_call(name, text, report), wrap_lines=True)
        for note in report.notes:
            st.caption(f"{escape(note)}.")
        _own_figure(shown, text)
        st.subheader("Every layer, before and after", anchor=False, help=define("local"))
        columns = {f"sqnr_local_{when}": f"sqnr_local_{run}" for when, run in WHEN}
        chart = versus(report.layers.rename(columns=columns), "sqnr_local", ("before", "after"))
        st.plotly_chart(chart, key=f"versus_{name}", theme=THEME, config=CONFIG)
        with st.expander("What became of each layer"):
            table = pd.DataFrame({"What": report.layers["reason"]}, index=report.layers.index)
            st.dataframe(table, key=f"reasons_{name}")


def rows() -> dict[str, Algorithm]:
    """What the engine says of each algorithm, by name."""
    from qlab.algorithms import ALGORITHMS

    return {**ALGORITHMS, training.NAME: training.row()}


def _call(name: str, text: Text, report: RepairReport) -> str:
    settings = "".join(f", {key}={value!r}" for key, value in report.settings.items())
    if name == training.NAME:
        return f'lab.finetune("{text.preset}", batches{settings})'
    return f'lab.repair_with("{name}", "{text.preset}"{settings})'


WHEN = (("before", "a"), ("after", "b"))


def _own_figure(shown: Shown, text: Text) -> None:
    st.caption(text.seen)
    if shown.ranges is not None:
        for column, title, (low, high) in zip(
            st.columns(2), ("before", "after"), shown.ranges, strict=True
        ):
            with column:
                st.markdown(f"`{text.layer}` **{title}**")
                chart = channel_ranges(low, high)
                st.plotly_chart(chart, key=f"ranges_{title}", theme=THEME, config=CONFIG)
    elif shown.moves is not None:
        bound = "rounding to nearest" if text.beyond == Text.beyond else "half a step"
        chart = moved(EDGES, shown.moves, bound)
        st.plotly_chart(chart, key="moves", theme=THEME, config=CONFIG)
        st.caption(f"`{text.layer}`: {number(100 * shown.beyond, '%')} {text.beyond}.")
    else:
        layers = shown.report.layers
        values = pd.Series(layers[text.figure].to_numpy(float), index=layers.index)
        line = 1.0 if text.figure == "error_ratio" else None
        title = f"{text.figure.replace('_', ' ')} [{text.unit}]"
        chart = by_layer(values, title, line=line)
        st.plotly_chart(chart, key=text.figure, theme=THEME, config=CONFIG)


def _at_work(view: View, name: str, text: Text) -> Shown:
    """What the algorithm does to its sample; ends this part of the page while it does it."""

    def work(progress: Progress) -> Shown:
        import sample_models
        from qlab import Lab

        progress.report(0, 0, "reading the sample")
        sample = sample_models.load(text.model)
        if text.outliers:
            add_outliers(sample.model)
        report = parts_of(progress).report
        asked: Any = {"on_progress": report, "should_stop": progress.should_stop, **text.settings}
        data = sample.calibration(128), sample.evaluation()
        lab = Lab(sample.model, sample.example_inputs, *data)
        if name == training.NAME:
            made = lab.finetune(text.preset, sample.calibration(256), **asked)
        else:
            made = lab.repair_with(name, text.preset, **asked)
        if not made.report.complete:
            raise CancelledError
        return _shown(sample, lab, lab.apply(made), text)

    return wait_for((KIND, name), f"{name} at work", work, view.workspace, part=f"lesson_{name}")


def _shown(sample: SampleModel, before: Lab, after: Lab, text: Text) -> Shown:
    report = after.repairs[-1]
    if text.figure == "weights":
        low_high = [grid.extrema(lab.weight(text.layer)) for lab in (before, after)]
        return Shown(sample, report, (low_high[0], low_high[1]))
    if text.figure == "inputs":
        low_high = [_extrema(lab.layer_inputs(text.layer)[0]) for lab in (before, after)]
        return Shown(sample, report, (low_high[0], low_high[1]))
    if text.figure == "codes":
        moves = _moves(before, after, text.layer)
        other = _recoded(before, after, text) if report.algorithm == training.NAME else None
        beyond = float((moves.abs() > 0.5 if other is None else other).float().mean())
        inside = moves.clamp(float(EDGES[0]), float(EDGES[-1])).flatten().numpy()
        return Shown(sample, report, moves=np.histogram(inside, EDGES)[0], beyond=beyond)
    return Shown(sample, report)


def _moves(before: Lab, after: Lab, layer: str) -> Tensor:
    """How far each weight moved, in steps of its channel's scale."""
    weight = after.weight(layer)
    spec = after.plan(after.mapping).step(layer).weight
    assert spec is not None
    scale = after.qparams(layer, spec, "weight").scale.reshape(-1, *[1] * (weight.ndim - 1))
    return (weight - before.weight(layer)) / scale


def _recoded(before: Lab, after: Lab, text: Text) -> Tensor:
    """Which weights have another code after training than before."""
    from qlab.qparams import quantize

    codes = []
    for lab, mapping in ((before, text.preset), (after, after.mapping)):
        spec = lab.plan(mapping).step(text.layer).weight
        assert spec is not None
        codes.append(quantize(lab.weight(text.layer), lab.qparams(text.layer, spec, "weight")))
    return codes[0] != codes[1]


def _extrema(x: Tensor) -> Ranges:
    """Smallest and largest value of each channel of a layer's input, whose last axis they are."""
    flat = x.flatten(0, -2)
    return flat.amin(0).numpy(), flat.amax(0).numpy()


def add_outliers(model: nn.Module) -> None:
    """Makes some channels behind each norm louder, and the weights that read them smaller."""
    import torch

    with torch.no_grad():
        for block in model.get_submodule("blocks").children():
            readers = {"norm1": ("attn.q", "attn.k", "attn.v"), "norm2": ("mlp.fc1",)}
            for norm, names in readers.items():
                loud = list(LOUD)
                for part in ("weight", "bias"):
                    block.get_parameter(f"{norm}.{part}")[loud] *= TIMES
                for reader in names:
                    block.get_parameter(f"{reader}.weight")[:, loud] /= TIMES
