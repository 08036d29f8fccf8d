"""From Overview to a changed layer and back by keyboard alone, and the focus is seen."""

from playwright.sync_api import Locator, Page, expect

from tests.browser.harness import open_page, settled

#: More controls than stand on a page before the one that is sought.
MOST = 120
FOCUSED = "element => element === document.activeElement"


def go_to(page: Page, control: Locator, key: str = "Tab") -> None:
    """Presses a key until `control` holds the focus."""
    for _ in range(MOST):
        page.keyboard.press(key)
        if control.count() and control.first.evaluate(FOCUSED):
            return
    raise AssertionError(f"{key} does not reach {control}")


def test_a_layer_is_changed_and_changed_back_by_keyboard(page: Page):
    open_page(page, ".st-key-by_layer .point", "/?model=mlp")
    link = page.get_by_role("link", name="Layer", exact=True)
    go_to(page, link)
    expect(link).to_have_css("outline-style", "solid")
    page.keyboard.press("Enter")
    layer = page.get_by_role("combobox", name="Layer", exact=True)
    settled(page, page.locator(".st-key-verdict"))
    expect(layer).to_have_value("fc3")  # the worst

    go_to(page, page.get_by_role("button", name="‹ previous"))
    page.keyboard.press("Enter")
    expect(layer).to_have_value("fc2")
    settled(page, page.locator(".st-key-verdict"))

    in_float = page.get_by_role("switch", name="Keep in float")
    go_to(page, in_float)
    page.keyboard.press("Space")
    expect(in_float).to_be_checked()
    apply = page.get_by_role("button", name="Apply to configuration")
    expect(apply).to_be_enabled()
    settled(page, apply)
    go_to(page, apply)
    page.keyboard.press("Enter")
    undo = page.get_by_role("button", name="Undo", exact=True)
    settled(page, undo)
    go_to(page, undo, "Shift+Tab")
    page.keyboard.press("Enter")
    expect(in_float).not_to_be_checked()
