"""Sensitivity and Runs in the browser: cancel and go on, a click on a cell, a point, a run."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.harness import open_page, settled

HEAT_MAP, PARETO = ".st-key-heat_map", ".st-key-pareto"


def click_cell(page: Page, column: int, row: int) -> None:
    """Clicks a cell of the heat map, at the corner that is farthest from its mark."""
    boxes = page.locator(f"{HEAT_MAP} .hm image").first.bounding_box()
    ticks = page.locator(f"{HEAT_MAP} .ytick text").count()
    columns = page.locator(f"{HEAT_MAP} .xtick text").count()
    assert boxes is not None
    width, height = boxes["width"] / columns, boxes["height"] / ticks
    page.mouse.click(boxes["x"] + width * (column + 0.9), boxes["y"] + height * (row + 0.7))


def counted(page: Page) -> int:
    """How many steps of the measurement are done."""
    progress = page.get_by_test_id("stProgress").filter(has_text="Measuring sensitivities")
    expect(progress).to_contain_text(re.compile(r"\d+ of \d+"))
    found = re.search(r"(\d+) of", progress.inner_text())
    assert found is not None
    return int(found[1])


@pytest.mark.slow
def test_a_long_measurement_outlives_a_reload_is_cancelled_and_goes_on(page: Page):
    open_page(page, ".st-key-sensitivity_bits", "/sensitivity?model=vit")
    page.locator(".st-key-sensitivity_bits").get_by_text("6", exact=True).click()
    expect(page.get_by_text(re.compile(r"at most about \d+"))).to_be_visible()
    page.locator(".st-key-measure button").click()
    reached = counted(page)
    expect(page.locator(HEAT_MAP)).to_be_visible()  # the estimate stands there meanwhile
    page.reload()
    kept = counted(page)
    assert kept >= reached  # the same job goes on
    expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value("vit")
    page.locator(".st-key-cancel button").click()
    expect(page.get_by_text("It goes on from where it was")).to_be_visible()
    settled(page, page.get_by_text("Stopped early"))
    page.locator(".st-key-resume button").click()
    assert counted(page) >= reached
    page.locator(".st-key-cancel button").click()
    settled(page, page.get_by_text("It goes on from where it was"))


@pytest.mark.slow
def test_a_click_on_a_cell_selects_it_and_its_configuration_is_used_and_undone(page: Page):
    open_page(page, ".st-key-measure", "/sensitivity?model=conv_bn_relu")
    page.locator(".st-key-measure button").click()
    settled(page, page.locator(".st-key-agreement"))
    for column, row in ((0, 1), (1, 2)):
        click_cell(page, column, row)
        layer = page.locator(f"{HEAT_MAP} .ytick text").nth(row).text_content()
        expect(page.locator(".st-key-selected code")).to_have_text((layer or "").strip("▸ "))
        config = page.locator(f"{HEAT_MAP} .xtick text").nth(column).text_content()
        expect(page.locator(".st-key-selected")).to_contain_text(f"as {(config or '').strip('▸ ')}")
        settled(page, page.locator(".st-key-agreement"))
    page.locator(".st-key-use button").first.click()
    settled(page, page.get_by_text("Preset with 1 change of yours"))
    expect(page.locator(".st-key-use button").first).to_be_disabled()
    page.locator(".st-key-undo button").click()
    settled(page, page.locator(".st-key-use button:enabled").first)


@pytest.mark.slow
def test_a_click_on_a_point_makes_it_the_configuration_and_runs_lead_back(page: Page):
    open_page(page, HEAT_MAP, "/sensitivity?model=mlp")
    page.locator(".st-key-sensitivity_section").get_by_text("mixed precision").click()
    page.locator(".st-key-search button").click()
    settled(page, page.locator(f"{PARETO} .scatterlayer .point").first)
    for position, changes in ((3, "1 change"), (8, "2 changes")):
        box = page.locator(f"{PARETO} .scatterlayer .point").nth(position).bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        settled(page, page.get_by_text(f"Preset with {changes} of yours"))
        expect(page.get_by_role("combobox", name="Point")).to_have_value(str(position))
    expect(page.locator(".st-key-take button").first).to_have_text("In force")
    page.locator(".st-key-undo button").click()
    settled(page, page.get_by_text("Preset with 1 change of yours"))
    page.locator(".st-key-verify button").click()
    settled(page, page.get_by_text("5 points measured"))

    page.get_by_test_id("stSidebarNavLink").filter(has_text="Runs").click()
    settled(page, page.get_by_role("heading", name="Runs", level=1))
    table = page.get_by_test_id("stDataFrame").first.bounding_box()
    assert table is not None
    for row in (0, 5):
        page.mouse.click(table["x"] + 15, table["y"] + 35 + 35 * (row + 0.5))
        settled(page, page.locator(f".st-key-run_{'A' if row == 0 else 'B'}"))
    expect(page.locator(".st-key-versus")).to_be_visible()
    expect(page.get_by_text(re.compile("^weight int8 symmetric per channel")).first).to_be_visible()
    name = page.locator(".st-key-run_B input")
    name.fill("smallest")
    name.press("Enter")
    settled(page, page.get_by_text("B: smallest"))
    page.locator(".st-key-run_A button", has_text="Go back").first.click()
    settled(page, page.locator(".st-key-run_A button", has_text="In force").first)
    expect(page.get_by_text("Preset with 2 changes of yours")).to_be_visible()
