"""Tables at the widths that people have: nothing is cut off, and what they download is whole."""

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.harness import not_cut_off, open_page, settled


@pytest.mark.parametrize("width", [1280, 853])
def test_no_column_of_calibrate_is_cut_off(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, ".st-key-tensor_histogram", "/calibrate?model=residual&samples=64")
    tables = page.get_by_test_id("stDataFrame")
    expect(tables).to_have_count(2)
    for place in (0, 1):
        not_cut_off(tables.nth(place))


@pytest.mark.parametrize("width", [1280, 853])
def test_no_column_of_coverage_is_cut_off(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, "[data-testid=stDataFrame]", "/coverage")
    not_cut_off(page.get_by_test_id("stDataFrame").first)


def test_the_table_of_coverage_is_downloaded_as_it_is_filtered(page: Page, tmp_path: Path):
    open_page(page, "[data-testid=stDataFrame]", "/coverage")
    search = page.get_by_role("textbox", name="Search")
    search.fill("default_qconfig")
    search.press("Enter")
    settled(page, page.get_by_text("1 of 201 names", exact=True))
    with page.expect_download() as caught:
        page.locator(".st-key-coverage_download button").click()
    assert caught.value.suggested_filename == "qlab-coverage.csv"
    path = tmp_path / "table.csv"
    caught.value.save_as(path)
    (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    assert (row["name"], row["kind"]) == ("default_qconfig", "qconfig")
    assert {"does", "data types", "devices", "place", "documentation"} <= set(row)
