"""What only a browser can tell of the app: addresses, themes, a server that has just started."""

from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from pages.common.navigation import PAGES
from pages.common.theme import LOCAL, resolve
from tests.browser import harness
from tests.browser.harness import ROOT, Server, open_page, settled

BARS = ".st-key-by_layer .barlayer .point path"


def rgb(colour: str) -> str:
    """`#rrggbb` as browsers write it."""
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody has visited."""
    with harness.serve(ROOT / "app.py", tmp_path_factory.mktemp("fresh") / "log") as running:
        yield running


@pytest.mark.slow
def test_any_page_may_be_the_first_that_a_server_shows(browser: Browser, fresh: Server):
    with harness.visit(browser, fresh) as visit:
        open_page(visit.page, ".st-key-error_curve", "/learn?model=mlp")
        links = visit.page.get_by_test_id("stSidebarNavLink")
        assert links.all_inner_texts() == [title for _, title in PAGES.values()]
        expect(visit.page.get_by_role("combobox", name="Model")).to_have_value("mlp")
        visit.assert_healthy()


def test_an_address_brings_back_model_preset_and_layer(page: Page):
    open_page(page, ".st-key-layer", "/layer?model=mlp&preset=int8-per-tensor&samples=64&layer=fc2")
    for name, value in (
        ("Model", "mlp"),
        ("Preset", "int8-per-tensor"),
        ("Calibration images", "64"),
        ("Layer", "fc2"),
    ):
        expect(page.get_by_role("combobox", name=name, exact=True)).to_have_value(value)


def test_nonsense_in_the_address_is_ignored(page: Page):
    open_page(page, BARS, "/?model=none&preset=<b>&samples=9999")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("depthwise")


def test_a_page_that_does_not_exist_leads_to_the_first(page: Page):
    open_page(page, BARS, "/nothing-here")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_take_the_colours_of_the_theme(
    browser: Browser, server: Server, theme: Literal["light", "dark"]
):
    with harness.visit(browser, server, theme) as visit:
        open_page(visit.page, BARS, "/?model=mlp")
        bar = visit.page.locator(BARS).first
        expect(bar).to_have_css("fill", rgb(resolve(LOCAL, theme)))
        visit.assert_healthy()


def test_the_theme_can_be_chosen_in_the_menu(page: Page):
    open_page(page, BARS, "/?model=mlp")
    label = page.locator(".st-key-by_layer .ytitle")
    light = label.evaluate("element => getComputedStyle(element).fill")
    page.get_by_test_id("stMainMenu").click()
    page.get_by_role("menuitemradio", name="Dark").click()
    expect(label).not_to_have_css("fill", light)
    page.keyboard.press("Escape")
    page.locator(".st-key-order").get_by_text("worst first").click()
    expect(page.locator(BARS).first).to_have_css("fill", rgb(resolve(LOCAL, "dark")))
    settled(page, page.locator(BARS).first)
