"""Why a layer is bad: its causes as cards, each with the remedy one click away."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from pages.common import repairs_fitting, repairs_shown, training_shown
from pages.common.engine import wait_for
from pages.common.format import count, escape, number, percent
from pages.common.frame import View
from pages.common.glossary import define
from pages.common.jobs import Progress
from pages.common.loaded import Loaded, without_cause
from pages.common.repairs_fitting import fitting

if TYPE_CHECKING:
    from qlab.analysis.causes import Cause
    from qlab.qconfig import QConfigMapping

#: Cards in one row; a layer seldom has more.
ROW = 3
SHARES = ("clipping", "mean shift", "quantized input", "unused sign range")
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a layer.

    Attributes:
        causes: As the engine ranks them.
        words: What there is to say where there are none.
        seconds: How long each algorithm takes that fits one of them.
    """

    causes: tuple[Cause, ...]
    words: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def diagnose(view: View, loaded: Loaded, name: str) -> Diagnosis:
    """A layer's causes as it is configured; ends this part of the page while they are sought."""
    mapping = view.mapping

    def work(progress: Progress) -> Diagnosis:
        progress.report(0, 0, "measuring what each remedy gains")
        causes = loaded.lab.causes(name, mapping)
        words = "" if causes else without_cause(loaded, name, mapping)
        return Diagnosis(causes, words, repairs_fitting.estimates(loaded.lab, mapping, causes))

    key = ("causes", *loaded.key, mapping, name)
    return wait_for(key, "Looking for causes", work, view.workspace, part="causes")


def draw(view: View, loaded: Loaded, name: str) -> None:
    """Draws the last remedy and repair with their gains, and a card for each cause that is left."""
    st.subheader(
        "Why is this layer bad?", anchor=False, help=f"{define('causes')} {define('gain')}"
    )
    _applied(view, loaded, name)
    repairs_shown.panel(view, loaded, name)
    step = loaded.lab.plan(view.mapping).step(name)
    if not step.quantized or step.execution == "shared":
        told = "moves codes as they are" if step.execution == "shared" else "runs in float"
        st.caption(f"It {told}: it adds no error of its own.")
        return
    found = diagnose(view, loaded, name)
    groups = grouped(found.causes, view.mapping)
    if not groups:
        st.caption(escape(found.words))
    for start in range(0, len(groups), ROW):
        row = groups[start : start + ROW]
        for position, place in enumerate(st.columns(max(len(row), 2))[: len(row)], start):
            with place.container(border=True, height="stretch", key=f"cause_{position}"):
                group = row[position - start]
                _card(view, group, key=f"apply_cause_{position}")
                repairs_shown.offer(view, group, found.seconds, key=f"try_{position}")
    training_shown.offer(view, loaded)


def grouped(causes: tuple[Cause, ...], mapping: QConfigMapping) -> list[list[Cause]]:
    """Causes by what helps against them, in their order: one button for all that it settles."""
    groups: list[list[Cause]] = []
    for cause in causes:
        for group in groups:
            same = cause.remedy_label == group[0].remedy_label and cause.gain == group[0].gain
            both = cause.remedy is not None and group[0].remedy is not None
            if same and both and cause.apply(mapping) == group[0].apply(mapping):
                group.append(cause)
                break
        else:
            groups.append([cause])
    return groups


def measured(cause: Cause) -> str:
    """A cause's number against its threshold, with its unit: `38.6× · a cause from 8× on`."""
    value, threshold = (_with_unit(cause.kind, v) for v in (cause.value, cause.threshold))
    below = "below" if cause.kind == "few bits" else "from"
    return f"{value} · a cause {below} {threshold}{'' if below == 'below' else ' on'}"


def _with_unit(kind: str, value: float) -> str:
    if kind in SHARES:
        return percent(value)
    if kind == "too few samples":
        return number(value, "dB")
    if kind == "few bits":
        return f"{count(value)} bits"
    return count(value) if kind == "dead channels" else f"{number(value)}×"


def remedy_button(view: View, cause: Cause, key: str) -> None:
    """A remedy as a button that keeps it in the configuration."""
    applied = cause.apply(view.mapping) == view.mapping
    gain = _gain(cause.gain or 0).replace(" ", NO_BREAK)
    st.button(
        "Applied" if applied else f"{escape(cause.remedy_label)}: {gain}",
        key=key,
        on_click=view.workspace.remedy,
        args=(view.choice, cause),
        disabled=applied,
        wrap=True,
        width="stretch",
    )


def _gain(value: float) -> str:
    """A change in dB with its sign."""
    return f"{'+' if value > 0 else ''}{number(value, 'dB')}"


def _card(view: View, group: list[Cause], key: str) -> None:
    first = group[0]
    for cause in group:
        st.markdown(f"**{escape(cause.kind)}** · {escape(cause.tensor)}", help=define("cause"))
        st.markdown(escape(cause.sentence))
        st.caption(escape(measured(cause)), help=define("threshold"))
    if first.remedy is None:
        alone = "No setting of a layer avoids it, but a repair of the model can."
        begun = alone if fitting(group) else "No setting avoids it."
        st.caption(f"{begun} {escape(first.remedy_label)}.")
        return
    layers = changed_layers(first, view.mapping)
    if len(layers) > 1 or layers != [first.layer]:
        st.caption(f"Changes {escape(', '.join(layers))}.")
    if first.gain is not None and first.gain <= 0:
        st.caption("Measured: it does not help here.")
    remedy_button(view, first, key)


def changed_layers(cause: Cause, mapping: QConfigMapping) -> list[str]:
    """The layers for which a remedy sets something new; empty once it is applied."""
    was, now = mapping.module_name_qconfigs, cause.apply(mapping).module_name_qconfigs
    return [layer for layer in now if layer not in was or now[layer] != was[layer]]


def _applied(view: View, loaded: Loaded, name: str) -> None:
    """The last change, if it was a remedy for this layer: its gain, and a way back."""
    found = view.workspace.remedied(view.choice)
    if found is None or found.cause.layer != name:
        return
    before, after = (
        loaded.lab.what_if(name, mapping=mapping).output_sqnr
        for mapping in (found.before, found.after)
    )
    with st.container(border=True, key="gained", horizontal=True, vertical_alignment="center"):
        st.markdown(f"Applied: **{escape(found.cause.remedy_label)}**", width="content")
        gained = after - before if math.isfinite(after - before) else math.nan
        st.metric(
            "Layer output SQNR ↑",
            f"{number(before)} → {number(after, 'dB')}",
            delta=_gain(gained),
            delta_color="blue" if gained > 0 else "orange",
            help=define("output sqnr"),
            width="content",
        )
        st.button(
            "Undo",
            key="undo_remedy",
            icon=":material/undo:",
            on_click=view.workspace.undo,
            args=(view.choice,),
        )
