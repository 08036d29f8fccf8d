"""What is chosen can be read: contrast of at least 4.5 in both themes, as WCAG asks of text."""

import re

import pytest
from playwright.sync_api import Browser, Locator

from tests.browser import harness
from tests.browser.harness import Server, open_page
from tests.test_app_config import contrast

LEAST = 4.5
#: The colour of the words in an element, then every background behind them, the nearest first.
COLOURS = """element => {
  const words = [...element.querySelectorAll("*")].reverse().find(e => e.textContent.trim());
  const found = [getComputedStyle(words).color];
  for (let e = words; e; e = e.parentElement) found.push(getComputedStyle(e).backgroundColor);
  return found;
}"""


def seen(layers: list[str]) -> str:
    """The colour that translucent backgrounds, the nearest first, add up to."""
    mixed = (255.0, 255.0, 255.0)
    for layer in reversed(layers):
        red, green, blue, *alpha = (float(part) for part in re.findall(r"[\d.]+", layer))
        share = alpha[0] if alpha else 1.0
        mixed = tuple(
            share * new + (1 - share) * old
            for new, old in zip((red, green, blue), mixed, strict=True)
        )
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def told(element: Locator) -> float:
    """The contrast of an element's words with what is behind them."""
    words, *behind = element.evaluate(COLOURS)
    return contrast(seen([words]), seen(behind))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_chosen_segment_and_a_sliders_value_can_be_read(
    browser: Browser, server: Server, mode: str
):
    with harness.visit(browser, server, mode) as visit:
        open_page(visit.page, ".st-key-contest_scheme button", "/observers")
        chosen = visit.page.locator(".st-key-contest_scheme button[aria-checked=true]")
        assert told(chosen) >= LEAST
        # A slider's value stands above its thumb, on the page itself.
        value = visit.page.locator(".st-key-contest_share [data-testid=stSliderThumbValue]")
        words = value.evaluate(COLOURS)[0]
        app = visit.page.get_by_test_id("stApp")
        page = app.evaluate("element => getComputedStyle(element).backgroundColor")
        assert contrast(seen([words]), seen([page])) >= LEAST
        visit.assert_healthy()
