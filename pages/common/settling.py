"""Whether calibration saw enough: the engine's verdict, and tables for *Calibrate*."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from pages.common import collecting, engine, selection
from pages.common.collecting import Begun
from pages.common.engine import wait_for
from pages.common.format import count, escape, layer_name, number, percent
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.jobs import CancelledError, Job, Parts, Progress
from pages.common.loaded import Loaded
from pages.common.theme import THEME
from pages.figures.histogram import histogram
from pages.figures.layout import CONFIG
from pages.figures.settling import range_curve
from qlab.analysis import grid

if TYPE_CHECKING:
    from qlab.analysis.stability import Stability
    from qlab.stats import TensorStats

#: Batches that the verdict needs to hear of trends; fewer images are seen in smaller batches.
BATCHES = 8
JUDGING = "judging how far they move"
KINDS = {"outputs": "activation", "weights": "weight"}
#: Width of the layers' names, and title, term of the glossary and width of each other column, in
#: pixels: with the boxes that select a row all fit a window of 853.
NAME = 132
MOVING = (
    ("Range", "minimum", 104),
    ("Growth [steps] ↓", "range growth", 110),
    ("Change [dB] ↓", "range change", 100),
    ("To add", "more samples", 60),
    ("Verdict", "settled", 78),
)
TENSORS = (
    ("Min", "minimum", 56),
    ("Max", "maximum", 56),
    ("Mean", "mean", 72),
    ("Std", "std", 56),
    ("Zeros", "zeros", 60),
    ("Outliers ↓", "tail", 76),
    ("NaN, Inf ↓", "not finite", 76),
)


def stability(view: View, loaded: Loaded) -> Stability:
    """How far ranges still move; ends this part of the page while that is computed.

    Where the lab saw too few batches to tell, the same images are seen again in smaller ones.
    """

    def work(progress: Progress) -> Stability:
        from qlab import Lab

        original = loaded.lab.original
        seen = original.calibrated
        if seen is not None and seen.batches >= BATCHES:
            return original.stability()
        sample, size = loaded.sample, max(1, loaded.samples // BATCHES)
        lab = Lab(sample.model, sample.example_inputs, sample.calibration(loaded.samples, size))
        parts = Parts(progress, ((), (JUDGING,)), (0.6, 0.4))
        lab.calibrate(parts.report, progress.should_stop)
        if progress.should_stop():
            raise CancelledError
        parts.report(0, 0, JUDGING)
        return lab.stability()

    key = ("stability", *loaded.key)
    return wait_for(key, "Judging the ranges", work, view.workspace, part="stability")


def draw_verdict(view: View, loaded: Loaded) -> None:
    """The verdict, every layer's range by how much it still moves, and the selected one's curve."""
    st.subheader("Have the ranges settled?", anchor=False, help=define("settled"))
    found = stability(view, loaded)
    say = {True: st.success, False: st.warning, None: st.info}[found.settled]
    say(escape(found.verdict))
    table = found.table.sort_values(["moving", "change"], ascending=False, kind="stable")
    names = list(map(str, table.index))
    shown = _moving(table, settled=found.settled is not None)
    key = f"moving_{loaded.sample.name}_{loaded.samples}"
    _table(key, shown, MOVING)
    name = _selected(view, loaded, key, names)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(layer_name(name), width="content")
        st.markdown("range over the batches", help=define("range curve"), width="content")
    told = f"Judged in {found.batches} batches of {count(found.samples / found.batches)}"
    row = found.table.loc[name]
    st.caption(f"{told}{', on the model before its repair' if loaded.chain else ''}.")
    st.caption(
        f"Trend: {row['trend'] or 'none'}. Depends on the order of the batches by "
        f"{number(_positive(row['order_change']), 'dB')}.",
        help=f"Trend: {define('trend')} Order: {define('order change')}",
    )
    st.plotly_chart(range_curve(found.curve(name)), key="range_curve", theme=THEME, config=CONFIG)


def draw_live(view: View) -> None:
    """The ranges so far while they are being collected; moves on its own."""
    job = engine.board().find(collecting.loaded_key(view.choice, view.workspace))
    if job is not None and job.state == "running":
        st.fragment(_live, run_every=engine.POLL)(view, job)


def _live(view: View, job: Job) -> None:
    from qlab.analysis.stability import range_over_batches

    begun: Begun | None = job.partial
    seen = begun and begun.lab.calibrated
    if begun is None or not seen:
        return
    names = [layer.name for layer in begun.lab.layers if layer.quantizable]
    if not names:
        return
    now = selection.current(view, begun.lab)
    at = names.index(now) if now in names else 0
    name = st.selectbox("Watch the range of", names, index=at, key="watched")
    curve = range_over_batches(begun.lab.statistics(name))
    low, high = (float(curve[side].iloc[-1]) for side in ("low", "high"))
    st.caption(
        f"After {count(seen.batches)} batches, {count(seen.samples)} images: "
        f"{number(low)} to {number(high)}."
    )
    st.plotly_chart(range_curve(curve), key="live_curve", theme=THEME, config=CONFIG)


def _moving(table: pd.DataFrame, *, settled: bool) -> pd.DataFrame:
    verdicts = np.where(table["moving"], "still moves", "settled" if settled else "cannot tell")
    columns = (
        [f"{number(a)} to {number(b)}" for a, b in zip(table["low"], table["high"], strict=True)],
        *([number(_positive(v)) for v in table[c]] for c in ("growth", "change")),
        [number(v) if not np.isfinite(v) else count(v) for v in table["more_samples"]],
        verdicts.tolist(),
    )
    titles = [title for title, _, _ in MOVING]
    return pd.DataFrame(dict(zip(titles, columns, strict=True)), index=table.index)


def _positive(value: float) -> float:
    """A difference without the noise of its subtraction."""
    return 0.0 if abs(value) < 1e-9 else value


def draw_tensors(view: View, loaded: Loaded) -> None:
    """Statistics of every tensor, and the histogram of the selected one."""
    st.subheader("What each tensor looks like", anchor=False, help=define("observed tensors"))
    kind = KINDS[
        str(
            st.segmented_control(
                "Tensors",
                list(KINDS),
                default="outputs",
                required=True,
                key="tensor_kind",
                label_visibility="collapsed",
                persist_state="session",
            )
        )
    ]
    stats = described(loaded, kind)
    titles = [title for title, _, _ in TENSORS]
    rows = [dict(zip(titles, _numbers(s), strict=True)) for s in stats.values()]
    names = list(stats)
    key = f"{kind}s_of_{loaded.sample.name}"
    _table(key, pd.DataFrame(rows, index=pd.Index(names, name="layer")), TENSORS)
    name = _selected(view, loaded, key, names)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f"{layer_name(name)} &nbsp; {count(stats[name].count)} values of its {kind}")
        selection.link(view, loaded, name)
    edges, counts = grid.histogram_of(stats[name])
    chart = histogram(edges, counts, grid=None, title=f"{kind} value")
    st.plotly_chart(chart, key="tensor_histogram", theme=THEME, config=CONFIG)


def described(loaded: Loaded, kind: str) -> dict[str, TensorStats]:
    """Statistics of one kind of tensor by layer, where there are any."""
    from qlab.errors import QlabError

    found = {}
    for layer in loaded.lab.layers:
        try:
            found[layer.name] = loaded.lab.statistics(layer.name, kind)
        except QlabError:  # no weight, or an output that holds no real numbers
            continue
    return found


def _numbers(stats: TensorStats) -> list[str]:
    values = (float(stats.min_val), float(stats.max_val), stats.mean, stats.variance**0.5)
    return [
        *(number(value) for value in values),
        percent(stats.zeros / max(stats.count, 1)),
        f"{number(stats.tail_ratio)}×",
        count(stats.nan_count + stats.inf_count),
    ]


def _table(key: str, frame: pd.DataFrame, columns: tuple[tuple[str, str, int], ...]) -> None:
    st.dataframe(
        frame,
        key=key,
        on_select="rerun",
        selection_mode="single-row",
        height=min(36 * (len(frame) + 1), 360),
        column_config={
            "layer": st.column_config.TextColumn("Layer", pinned=True, width=NAME),
            **{
                title: st.column_config.TextColumn(
                    title, help=define(term), width=width, alignment="right"
                )
                for title, term, width in columns
            },
        },
    )


def _selected(view: View, loaded: Loaded, key: str, names: list[str]) -> str:
    """The row that was clicked last, which selects its layer everywhere, else the selected layer.

    A click counts once: another table on the page may have been clicked since.
    """
    event, state = st.session_state.get(key), st.session_state
    rows = list(event["selection"]["rows"]) if event else []
    clicked = names[rows[0]] if rows else None
    layers = [layer.name for layer in loaded.lab.layers]
    if rows != state.get(f"{key}_before", []) and clicked in layers:
        selection.select(view, clicked)
    state[f"{key}_before"] = rows
    if clicked is not None and clicked not in layers:
        return clicked  # an input of the network: not a layer, but its range settles like one
    name = selection.current(view, loaded.lab)
    return name if name in names else names[0]
