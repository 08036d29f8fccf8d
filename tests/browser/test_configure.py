"""Configure as people use it: by mouse and keyboard in the table, then convert and download."""

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from qlab import QConfigMapping
from tests.browser.harness import RETRY, not_cut_off, open_page, repeated, settled

#: Columns from the left: layer, pick, float, bits of the weight.
FLOAT, WEIGHT_BITS = 2, 3
ROW, HEADER = 35, 35


def cell(page: Page, row: int, column: int) -> None:
    """Selects a cell of the table by mouse and arrow keys."""
    box = page.get_by_test_id("stDataFrame").first.bounding_box()
    assert box is not None
    x, y = box["x"] + 20, box["y"] + HEADER + ROW * (row + 0.5)
    first = page.get_by_test_id("stDataFrame").first.locator(f"#glide-cell-0-{row}")

    def clicked() -> None:
        page.mouse.move(x, y, steps=8)  # the table takes no click of a mouse that jumps there
        page.wait_for_timeout(100)
        page.mouse.click(x, y)
        expect(first).to_have_attribute("aria-selected", "true", timeout=RETRY)

    repeated(clicked)
    for _ in range(column):
        page.keyboard.press("ArrowRight", delay=50)
        page.wait_for_timeout(100)


def choose(page: Page, row: int, column: int, option: str) -> None:
    """Picks an option in a cell; a table that is just being redrawn takes no keys, so again."""
    offered = page.get_by_role("option", name=option, exact=True)

    def opened() -> None:
        settled(page, story(page))
        page.keyboard.press("Escape")
        cell(page, row, column)
        page.keyboard.press("Enter")
        expect(offered).to_be_visible(timeout=RETRY)

    repeated(opened)
    offered.click()
    expect(offered).to_have_count(0)


def story(page: Page) -> Locator:
    """What the truth table says of the selected layer."""
    return page.locator(".st-key-selected")


@pytest.mark.slow
def test_from_the_table_by_the_truth_table_to_the_file(page: Page, tmp_path: Path):
    open_page(page, ".st-key-plan", "/configure?model=mlp&layer=fc1")
    settled(page, story(page))
    expect(story(page)).to_contain_text("Asked, by the rule for everything else")
    choose(page, 0, WEIGHT_BITS, "4")
    expect(story(page)).to_contain_text("weight int4 symmetric per channel")
    choose(page, 1, WEIGHT_BITS, "3")  # a second entry right after the first is not lost
    expect(page.get_by_text("Preset with 2 changes of yours")).to_be_visible()
    expect(story(page)).to_contain_text("Asked, by the rule for module name 'fc1'")

    third = page.get_by_text("Preset with 3 changes of yours")

    def ticked() -> None:
        settled(page, story(page))
        if not third.is_visible():
            cell(page, 2, FLOAT)
            page.keyboard.press("Space")
        expect(third).to_be_visible(timeout=RETRY)

    repeated(ticked)
    page.locator(".st-key-undo button").click()
    expect(page.get_by_text("Preset with 2 changes of yours")).to_be_visible()

    page.get_by_test_id("stSidebarNavLink").filter(has_text="Convert").click()
    settled(page, page.get_by_role("heading", name="Convert", level=1))
    page.locator(".st-key-convert button").click()
    settled(page, page.get_by_text("gave identical outputs"))
    with page.expect_download() as caught:
        page.locator(".st-key-download_recipe button").click()
    path = tmp_path / "recipe.json"
    caught.value.save_as(path)
    mapping = QConfigMapping.from_json(path.read_text())
    bits = {
        name: qconfig and qconfig.weight_spec.dtype.bits
        for name, qconfig in mapping.module_name_qconfigs.items()
    }
    assert bits == {"fc1": 4, "fc2": 3}


def test_a_rule_that_matches_nothing_is_flagged_and_a_broken_one_answered(page: Page):
    open_page(page, ".st-key-plan", "/configure?model=mlp")
    pattern = page.get_by_role("textbox", name="Pattern")
    pattern.fill("no_such")
    pattern.press("Enter")
    page.locator(".st-key-rule_add button").click()
    expect(page.get_by_text("matches nothing in this model")).to_be_visible()
    pattern.fill("fc[")
    pattern.press("Enter")
    page.locator(".st-key-rule_add button").click()
    expect(page.get_by_text("not a regular expression")).to_be_visible()
    expect(pattern).to_have_value("fc[")


@pytest.mark.parametrize("width", [1280, 853])
def test_what_is_asked_and_what_each_layer_gets_lie_side_by_side(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, ".st-key-plan", "/configure?model=residual")
    settled(page, story(page))
    tables = page.get_by_test_id("stDataFrame")
    asked, gets = (tables.nth(place).bounding_box() for place in (0, 1))
    assert asked is not None and gets is not None
    assert asked["y"] == pytest.approx(gets["y"], abs=2)
    assert asked["x"] + asked["width"] <= gets["x"]
    assert gets["x"] + gets["width"] <= width
    for place in (0, 1):
        not_cut_off(tables.nth(place))


@pytest.mark.parametrize("width", [1280, 853])
def test_no_column_of_convert_is_cut_off(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, ".st-key-plan", "/convert?model=residual")
    settled(page, story(page))
    not_cut_off(page.get_by_test_id("stDataFrame").first)
