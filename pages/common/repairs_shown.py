"""Repairs on the pages: that a model was repaired, what fits a cause, and what a trial bought."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.common import engine, messages, models, repairs
from pages.common.engine import wait_for
from pages.common.format import count, duration, escape, number, size
from pages.common.glossary import define
from pages.common.recipes import Recipe, in_words
from pages.common.repairs import Consent
from pages.common.repairs_fitting import fitting

if TYPE_CHECKING:
    from pages.common.frame import View
    from pages.common.loaded import Loaded
    from pages.common.models import OwnModel
    from qlab.algorithms import RepairReport
    from qlab.analysis.causes import Cause
    from sample_models import SampleModel

EVERY = "every layer"


def banner(view: View) -> DeltaGenerator:
    """Says that the model in use is a repaired one, with the way back; returns where."""
    chain = view.workspace.chain(view.choice)
    place = st.container(border=True, key="repaired")
    with place, st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"Repaired: **{escape(in_words(chain))}**. What you see is the repaired model, "
            "compared with the original one."
        )
        st.button(
            "Undo the repair",
            key="undo_repair",
            icon=":material/undo:",
            on_click=view.workspace.undo_repair,
            args=(view.choice,),
            help="Back to the model and the configuration before it"
            + ("." if len(chain) == 1 else ", which was repaired too."),
        )
    return place


def made_again(view: View, place: DeltaGenerator) -> None:
    """Says whether the model had to be made again from its recipe, and came out the same."""
    key = repairs.repaired_key(view.choice, view.workspace.chain(view.choice), view.workspace)
    job = engine.board().find(key)
    same = repairs.again(job.result) if job is not None and job.state == "done" else None
    if same is None:
        return
    told = (
        "the very same model"
        if same
        else "another model than before, since its data or the software is another"
    )
    place.caption(f"Made again from its recipe, as the server had not kept it: {told}.")


def offer(view: View, causes: Sequence[Cause], seconds: Mapping[str, float], key: str) -> None:
    """Draws a button for each algorithm that fits some causes.

    Args:
        view: What the page was given.
        causes: What there is to help against.
        seconds: How long each takes; those that it does not name are not offered.
        key: Begins the buttons' keys.
    """
    from qlab.algorithms import ALGORITHMS

    offered = [name for name in fitting(causes) if name in seconds]
    if not offered:
        return
    with st.container(horizontal=True):
        for name in offered:
            row = ALGORITHMS[name]
            recipe = repairs.recipe_for(name, view.mapping)
            st.button(
                f"Try {escape(row.title)}: about {duration(seconds[name])}",
                key=f"{key}_{name}",
                icon=":material/build:",
                on_click=view.workspace.try_repair,
                args=(view.choice, recipe),
                disabled=recipe == view.workspace.trial(view.choice),
                help=f"It {escape(row.about)}. All layers are repaired; you see what that buys "
                f"before anything is applied. {escape(row.paper)}",
                wrap=True,
            )


def panel(view: View, loaded: Loaded, layer: str | None = None) -> None:
    """Draws the repair that is being tried: its progress, then what it bought.

    Args:
        view: What the page was given.
        loaded: The model in use.
        layer: Whose gain is shown beside the network's.
    """
    recipe = view.workspace.trial(view.choice)
    if not isinstance(recipe, Recipe):
        return
    with st.container(border=True, key="trial"):
        whole = recipe.layers is None
        where = EVERY if whole else ", ".join(map(escape, recipe.layers or ()))
        st.markdown(f"**{escape(recipe.title)}** on {where}")
        with messages.shown("trial"):
            job = repairs.repairing(loaded, recipe, view.choice, view.workspace)
            _result(view, wait_for(*job, view.workspace, part="trial"), layer)
        st.button(
            "Discard",
            key="discard_repair",
            on_click=_discard,
            args=(view, loaded, recipe),
            help="Nothing was applied: the model is as it was.",
        )


def _discard(view: View, loaded: Loaded, recipe: Recipe) -> None:
    key = repairs.repaired_key(view.choice, (*loaded.chain, recipe), view.workspace)
    engine.board().release(key, view.workspace.id)
    view.workspace.declined.discard(key)
    view.workspace.try_repair(view.choice, None)


def _result(view: View, found: Loaded, layer: str | None) -> None:
    assert found.made is not None
    report = found.made.report
    changed = len(report.layers) - len(report.refusals)
    st.caption(
        f"Changed {changed} of {count(len(report.layers))} layers in "
        f"{number(report.seconds, 's')}, from {count(report.samples)} calibration samples"
        + (f", with {size(report.peak_bytes)} of memory" if report.peak_bytes > 0 else "")
        + f". Seed {report.settings.get('seed', 0)}."
    )
    gains(report, found.sample, layer)
    for note in report.notes:
        st.warning(f"{escape(note)}.")
    _refused(report)
    if consent := repairs.held_back(report):
        _ask(view, found.chain[-1], consent)
    st.button(
        "Apply" if changed else "Nothing to apply",
        type="primary",
        key="apply_repair",
        disabled=not changed,
        on_click=repairs.apply,
        args=(found, view.choice, view.workspace),
        help="Takes the repaired model into use on all pages; the sidebar undoes it.",
    )


def gains(report: RepairReport, sample: SampleModel | OwnModel, layer: str | None = None) -> None:
    """Draws what a repair of a sample bought: the layer's number, then the network's."""
    shown = []
    if layer is not None and layer in report.layers.index:
        row = report.layers.loc[layer]
        before, after = (float(row[f"sqnr_local_{when}"]) for when in ("before", "after"))
        shown.append(("Layer, local SQNR ↑", before, after, "dB", "local"))
    trained = sample.trained and not models.noise(sample)
    if trained and "accuracy" in report.before:
        pair = report.before["accuracy"], report.after["accuracy"]
        shown.append(("Network accuracy ↑", *pair, "%", "accuracy"))
    pair = report.before["sqnr"], report.after["sqnr"]
    shown.append(("Network output SQNR ↑", *pair, "dB", "sqnr"))
    changes(shown)


def changes(shown: Sequence[tuple[str, float, float, str, str]]) -> None:
    """Draws numbers before and after a repair, higher being better.

    Args:
        shown: Title, the two values, unit, and term of the glossary of each.
    """
    for column, (title, before, after, unit, term) in zip(
        st.columns(max(len(shown), 3)), shown, strict=False
    ):
        change = after - before
        points = "points" if unit == "%" else unit
        known = math.isfinite(change)
        column.metric(
            title,
            f"{number(before)} → {number(after, unit)}",
            delta=f"{'+' if change > 0 else ''}{number(change, points)}" if known else None,
            delta_color="blue" if change > 0 else "off" if change == 0 else "orange",
            help=define(term),
        )


def _refused(report: RepairReport) -> None:
    """The layers that were left as they were, each with the reason."""
    if not report.refusals:
        return
    with st.expander(f"Left as they were: {count(len(report.refusals))}"):
        st.dataframe(
            pd.DataFrame(
                {"Why": report.refusals.values()},
                index=pd.Index(report.refusals, name="Layer"),
            ),
            key="refused_layers",
        )


def _ask(view: View, recipe: Recipe, consent: Consent) -> None:
    """Asks before the float function is changed; the box is empty at first, every time."""
    with st.container(key="consent"):
        st.caption(consent.meaning)
        agreed = st.checkbox(
            f"I agree: {consent.question}", key=f"agreed_{view.workspace.generation}"
        )
        settings = {**dict(recipe.settings), consent.setting: consent.value}
        st.button(
            f"{consent.question} and try again",
            key="agree",
            disabled=not agreed,
            on_click=view.workspace.try_repair,
            args=(view.choice, replace(recipe, settings=tuple(sorted(settings.items())))),
        )
