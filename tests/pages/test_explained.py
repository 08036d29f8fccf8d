"""Every number is explained on hover: each metric, and each column that is no name or sentence."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from pages.common.navigation import PAGES
from tests.pages.harness import ROOT, SECONDS, open_page, settle

#: Columns that say what a row is, or a sentence about it.
NAMES = {
    "Input", "Kind", "Kept", "Layer", "Measured", "Model", "Name", "Remedy", "Takes", "Type",
    "What", "after", "does", "is given", "kind", "layer", "name", "norm", "type", "why",
}  # fmt: skip


def unexplained(page: AppTest) -> list[str]:
    """Labels of the metrics and columns on a page that have no help."""
    found = [metric.label for metric in page.metric if not metric.proto.help]
    for frame in page.dataframe:
        columns = json.loads(frame.proto.columns or "{}")
        found += [
            f"{frame.proto.id}: {name}"
            for name in frame.proto.column_order or frame.value.columns
            if name not in NAMES and not columns.get(name, {}).get("help")
        ]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_number_of_a_page_is_explained(name: str):
    page = open_page(name, model="mlp", samples=64)
    assert not unexplained(page)


@pytest.mark.parametrize("name", ["learn", "formats", "norms"])
def test_every_number_of_a_lesson_is_explained(name: str):
    page = open_page(name, model="mlp", samples=64)
    key = f"{name}_lesson"
    for lesson in page.segmented_control(key=key).options:
        settle(page.segmented_control(key=key).set_value(lesson).run())
        assert not unexplained(page), lesson


def test_every_number_of_two_runs_is_explained():
    page = open_page("overview", model="mlp", samples=64)
    page.selectbox(key="preset").set_value("int8-per-tensor").run()
    settle(page)
    runs = AppTest.from_file(ROOT / "pages" / "runs.py", default_timeout=SECONDS)
    runs.query_params["w"] = page.query_params["w"]
    settle(runs.run())
    runs.session_state["runs"] = {"selection": {"rows": [0, 1], "columns": [], "cells": []}}
    settle(runs.run())
    assert len(runs.dataframe) == 3
    assert not unexplained(runs)


def test_every_number_of_mixed_precision_is_explained():
    page = open_page("sensitivity", model="mlp", samples=64, sensitivity_section="mixed precision")
    settle(page.button(key="search").click().run())
    assert len(page.dataframe) == 1
    assert not unexplained(page)
