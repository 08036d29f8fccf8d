"""Takes a picture of every page, light and dark: `python -m docs.screenshots` from the root.

Writes `docs/images/<page>-<theme>.png`, and `docs/images/overview.png` for the README.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser import harness
from tests.browser.harness import ROOT, settled

IMAGES = ROOT / "docs" / "images"
WIDTH = 1280
WORST = "block2.dw.conv"
#: Page, its address, and what is there once it is complete.
PAGES = (
    ("overview", "/", ".st-key-by_layer .point"),
    ("overview-per-tensor", "/?preset=int8-per-tensor", ".st-key-by_layer .point"),
    ("calibrate", "/calibrate?model=residual&samples=64", ".st-key-range_curve"),
    ("layer", f"/layer?preset=int8-per-tensor&layer={WORST}", ".st-key-apply_cause_0"),
    ("convert", "/convert", ".st-key-plan"),
    ("model", "/model?model=residual", ".st-key-network .point"),
    ("configure", "/configure", ".st-key-plan"),
    ("sensitivity", "/sensitivity", "[data-testid=stMetric], .stPlotlyChart"),
    ("runs", "/?preset=int8-per-tensor", ".st-key-by_layer .point"),
    ("learn", "/learn", ".st-key-error_curve"),
    ("observers", "/observers", ".stPlotlyChart"),
    ("formats", "/formats", ".stPlotlyChart"),
    ("norms", "/norms", ".stPlotlyChart"),
    ("repairs", "/repairs", ".st-key-versus_equalize .point"),
    ("automatic", "/?preset=int8-per-tensor", ".st-key-automatic_offer"),
    ("coverage", "/coverage", "[data-testid=stDataFrame]"),
)


def prepare(page: Page, name: str) -> None:
    """What a person does before the picture: *automatic* shows what was found, *runs* two runs."""
    if name == "runs":
        workspace = parse_qs(urlsplit(page.url).query)["w"][0]
        page.goto(f"/?preset=int8&w={workspace}")
        settled(page, page.locator(".st-key-by_layer .point").first)
        page.get_by_test_id("stSidebarNavLink").filter(has_text="Runs").click()
        settled(page, page.get_by_role("heading", name="Runs", level=1))
        table = page.get_by_test_id("stDataFrame").first.bounding_box()
        assert table is not None
        for row, which in enumerate("AB"):
            page.mouse.click(table["x"] + 15, table["y"] + 35 * (row + 1.5))
            settled(page, page.locator(f".st-key-run_{which}"))
    if name == "automatic":
        page.get_by_role("button", name="Repair automatically…").click()
        page.get_by_role("button", name="Look for a repair").click()
        settled(page, page.get_by_role("button", name="Apply 1 step"))


def take(page: Page, path: Path) -> None:
    """One picture of the whole page, however long, once every part of it is drawn."""
    page.wait_for_load_state("networkidle")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=30_000)
    content = "document.querySelector('[data-testid=stMain]').scrollHeight"
    page.set_viewport_size({"width": WIDTH, "height": max(800, int(page.evaluate(content)))})
    page.wait_for_timeout(800)  # charts redraw after a resize
    page.screenshot(path=path)


def main() -> int:
    """Starts the app and walks it in both themes."""
    chromium = harness.chromium()
    if chromium is None:
        print("No chromium found; install it (Debian: apt-get install chromium).")
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        harness.serve(ROOT / "app.py", Path(folder) / "log") as server,
        sync_playwright() as playwright,
    ):
        flags = list(harness.CHROMIUM_FLAGS)
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for theme in ("light", "dark"):
            for name, address, element in PAGES:
                with harness.visit(browser, server, theme) as visit:
                    visit.page.goto(address)
                    settled(visit.page, visit.page.locator(element).first)
                    prepare(visit.page, name)
                    take(visit.page, IMAGES / f"{name}-{theme}.png")
                    visit.assert_healthy()
        browser.close()
    shutil.copyfile(IMAGES / "overview-per-tensor-light.png", IMAGES / "overview.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
