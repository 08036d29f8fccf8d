"""A collapsed network is repaired automatically: asked for, explained, applied, undone."""

from playwright.sync_api import Page, expect

from tests.browser.harness import open_page, settled
from tests.browser.test_main_job import metric


def test_a_collapsed_network_is_repaired_automatically_and_back(page: Page):
    open_page(page, ".st-key-automatic_offer", "/?preset=int8-per-tensor")
    accuracy = metric(page, "Accuracy").get_by_test_id("stMetricValue")
    before = accuracy.inner_text()
    page.get_by_role("button", name="Repair automatically…").click()
    seek = page.get_by_role("button", name="Look for a repair")
    settled(page, seek)
    seek.click()

    panel = page.locator(".st-key-automatic")
    apply = panel.get_by_role("button", name="Apply 1 step")
    settled(page, apply)
    expect(panel).to_contain_text("Automatic repair · Accuracy at least 97.5 %")
    expect(panel).to_contain_text("One scale per channel: accuracy 33.6 → 98 %")
    expect(panel).to_contain_text("Reached in")
    expect(accuracy).to_have_text(before)
    apply.click()

    applied = page.locator(".st-key-automatic_applied")
    expect(applied).to_contain_text("Repaired automatically in 1 step.")
    expect(accuracy).to_have_text("98.0 → 98.0 %")
    settled(page, page.locator(".st-key-worst_0"))
    page.reload()
    settled(page, page.locator(".st-key-worst_0"))
    expect(accuracy).to_have_text("98.0 → 98.0 %")
    applied.get_by_text("What was found, tried and kept").click()
    expect(applied).to_contain_text("At the start accuracy 33.6 %")

    applied.get_by_role("button", name="Undo the automatic repair").click()
    expect(applied).to_have_count(0)
    expect(accuracy).to_have_text(before)


def test_a_search_is_stopped_and_discarded(page: Page):
    open_page(page, ".st-key-automatic_offer", "/?preset=int4-weights")
    page.get_by_role("button", name="Repair automatically…").click()
    goal = page.get_by_role("spinbutton", name="At least [%]")
    expect(goal).to_be_visible()
    page.get_by_role("combobox", name="Goal").click()
    page.get_by_role("option", name="Output SQNR").click()
    goal = page.get_by_role("spinbutton", name="At least [dB]")
    goal.fill("60")
    goal.press("Enter")
    seek = page.get_by_role("button", name="Look for a repair")
    expect(page.get_by_text("Now 10.7 dB.")).to_be_visible()
    settled(page, seek)
    seek.click()
    panel = page.locator(".st-key-automatic")
    expect(panel).to_contain_text("at most")
    panel.get_by_role("button", name="Cancel").click()
    expect(panel).to_contain_text("Stopped.")
    settled(page, panel.get_by_role("button", name="Look again"))
    panel.get_by_role("button", name="Discard").click()
    expect(panel).to_have_count(0)
    settled(page, page.locator(".st-key-automatic_offer"))
