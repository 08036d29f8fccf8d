"""Coverage: the engine's table, searched and filtered; a row shows its documentation."""

import pytest
from streamlit.testing.v1 import AppTest

from pages.common import covered
from qlab.coverage import table
from tests.pages.harness import open_page


@pytest.fixture
def page() -> AppTest:
    return open_page("_coverage")


def shown(page: AppTest) -> list[str]:
    return list(page.dataframe[0].value["name"])


def test_it_shows_every_name(page: AppTest):
    assert shown(page) == list(table()["name"])
    assert not page.dataframe[0].value.map(str.strip).eq("").any().any()
    assert any("201 of 201 names" in caption.value for caption in page.caption)


def test_search_matches_every_word_in_name_place_or_line(page: AppTest):
    page.text_input(key="coverage_search").set_value("intrinsic convbn").run()
    assert set(shown(page)) == {f"ConvBn{r}{n}d" for r in ("", "ReLU") for n in (1, 2, 3)}
    page.text_input(key="coverage_search").set_value("moving average").run()
    assert "MovingAverageMinMaxObserver" in shown(page)


def test_kinds_filter_and_nothing_found_says_what_to_do(page: AppTest):
    page.pills[0].set_value(["data type"]).run()
    assert shown(page) == ["quint8", "qint8", "qint32"]
    page.text_input(key="coverage_search").set_value("(.*[").run()
    assert "Clear the search" in page.info[0].value
    assert not page.exception


def test_a_selected_row_shows_its_documentation(page: AppTest):
    key = covered.key("", [])
    page.session_state[key] = {"selection": {"rows": [0], "columns": [], "cells": []}}
    page.run()
    assert page.code[0].value == table()["documentation"][0]
