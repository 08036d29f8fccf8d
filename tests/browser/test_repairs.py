"""A repair from its cause to the repaired model: tried, applied, there after a reload, undone."""

import re

from playwright.sync_api import Page, expect

from tests.browser.harness import open_page, settled
from tests.browser.test_main_job import metric


def test_a_repair_is_tried_applied_kept_and_undone(page: Page):
    open_page(page, ".st-key-repair_0_equalize", "/?preset=int8-per-tensor")
    accuracy = metric(page, "Accuracy").get_by_test_id("stMetricValue")
    before = accuracy.inner_text()
    offer = page.get_by_role("button", name="Try Cross-layer equalization")
    expect(offer).to_have_count(1)
    offer.click()
    apply = page.get_by_role("button", name="Apply", exact=True)
    settled(page, apply)
    trial = page.locator(".st-key-trial")
    expect(trial).to_contain_text("Changed 10 of 10 layers")
    expect(trial).to_contain_text("Network accuracy")
    expect(accuracy).to_have_text(before)
    agree = page.get_by_role("button", name="Replace ReLU6 by ReLU and try again")
    expect(agree).to_be_disabled()

    expect(apply).to_have_count(1)
    apply.click()
    banner = page.locator(".st-key-repaired")
    expect(banner).to_contain_text("Repaired: Cross-layer equalization")
    expect(trial).to_have_count(0)
    expect(accuracy).not_to_have_text(before)
    settled(page, page.locator(".st-key-worst_0"))
    repaired = accuracy.inner_text()

    page.reload()
    settled(page, page.locator(".st-key-worst_0"))
    expect(banner).to_contain_text("Repaired: Cross-layer equalization")
    expect(accuracy).to_have_text(repaired)

    page.get_by_role("link", name="Layer", exact=True).click()
    settled(page, page.locator(".st-key-verdict"))
    expect(banner).to_contain_text("Repaired: Cross-layer equalization")
    banner.get_by_role("button", name="Undo the repair").click()
    expect(banner).to_have_count(0)
    page.get_by_role("link", name="Overview", exact=True).click()
    settled(page, page.locator(".st-key-worst_0"))
    expect(accuracy).to_have_text(before)


def test_the_page_repairs_shows_an_algorithm_at_work(page: Page):
    open_page(page, ".st-key-versus_equalize .point", "/repairs")
    expect(page.get_by_text("computed by this server")).to_be_visible()
    page.get_by_role("radio", name="Sensitive layers in float").click()
    settled(page, page.locator(".st-key-noise_share .point"))
    expect(page).to_have_url(re.compile("lesson=Sensitive"))
