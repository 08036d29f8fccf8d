"""The browser's Back and Forward: the former page, with the workspace as it stands."""

import re

from playwright.sync_api import Page, expect

from tests.browser.harness import RETRY, open_page, repeated, settled
from tests.browser.test_workspace import change_the_selected_layer, go_to

CHOICES = ("Model", "Preset", "Calibration images")


def choices(page: Page, *values: str) -> None:
    """Waits until the sidebar says so."""
    for name, value in zip(CHOICES, values, strict=True):
        expect(page.get_by_role("combobox", name=name, exact=True)).to_have_value(value)


def choose(page: Page, name: str, value: str) -> None:
    """Picks an option in the sidebar; a list that is open while the page is redrawn closes."""
    box = page.get_by_role("combobox", name=name, exact=True)

    def picked() -> None:
        on(page, "Runs")
        box.fill(value)
        option = page.get_by_role("option", name=value, exact=True)
        expect(option).to_be_visible(timeout=RETRY)
        box.press("Enter")
        expect(box).to_have_value(value, timeout=RETRY)
        expect(option).to_have_count(0, timeout=RETRY)

    repeated(picked)


def on(page: Page, title: str) -> None:
    """Waits until a page is there and at rest."""
    settled(page, page.get_by_role("heading", name=title, level=1))


def test_back_from_a_layer_leads_to_the_overview_with_the_same_choices(page: Page):
    """An address names what is not the default; the rest must not become the first of its list."""
    chosen = ("depthwise", "int8-per-tensor", "256")
    open_page(page, ".st-key-worst_0", "/?preset=int8-per-tensor")
    page.locator(".st-key-worst_0").get_by_role("link", name="Open").click()
    settled(page, page.locator(".st-key-verdict"))
    choices(page, *chosen)
    page.go_back()
    settled(page, page.locator(".st-key-worst_0"))
    on(page, "Overview")
    choices(page, *chosen)
    page.reload()
    settled(page, page.locator(".st-key-worst_0"))
    choices(page, *chosen)
    page.go_forward()
    settled(page, page.locator(".st-key-verdict"))
    choices(page, *chosen)
    go_to(page, "Runs")
    for name in ("mlp", "int8-minmax"):
        expect(page.get_by_test_id("stMain")).not_to_contain_text(name)


def test_back_keeps_what_was_chosen_since_where_the_address_says_nothing(page: Page):
    open_page(page, "h1", "/norms")
    on(page, "Norms and fusions")
    go_to(page, "Runs")
    for name, value in (("Model", "mlp"), ("Preset", "int8-minmax")):
        choose(page, name, value)
    settled(page, page.get_by_role("heading", name="Runs", level=1))
    page.go_back()
    on(page, "Norms and fusions")
    choices(page, "mlp", "int8-minmax", "256")


def test_each_page_is_one_step_back(page: Page):
    steps = ("Runs", "Norms and fusions")
    open_page(page, "h1", "/formats?model=mlp")
    page.wait_for_url(re.compile("w="))
    entries = page.evaluate("history.length")
    for title in steps:
        go_to(page, title)
        expect(page).to_have_url(re.compile("w="))
    assert page.evaluate("history.length") == entries + len(steps)
    for title in (*reversed(steps[:-1]), "Bits and formats"):
        page.go_back()
        on(page, title)
        expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value("mlp")


def test_back_and_forward_lose_no_change_of_the_configuration(page: Page):
    open_page(page, "h1", "/norms?model=mlp")
    go_to(page, "Layer")
    change_the_selected_layer(page)
    page.go_back()
    on(page, "Norms and fusions")
    expect(page.get_by_text("Preset with 1 change of yours")).to_be_visible()
    page.go_forward()
    on(page, "Layer")
    expect(page.locator(".st-key-weight_bits")).to_contain_text("4")
    page.locator(".st-key-undo button").click()
    expect(page.locator(".st-key-undo")).to_have_count(0)
    page.go_back()
    on(page, "Norms and fusions")
    expect(page.locator(".st-key-undo")).to_have_count(0)
    choices(page, "mlp", "int8", "256")
