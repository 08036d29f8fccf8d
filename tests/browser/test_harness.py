"""The harness itself: it drives a script, and it sees each thing that must not happen."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import harness
from tests.browser.harness import Server, Visit, open_page, settled

APP = Path(__file__).parent / "harness_app.py"
TITLE = "h1:has-text('Harness')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with harness.serve(APP, tmp_path_factory.mktemp("harness") / "log") as running:
        yield running


def test_a_slider_changes_what_the_page_says(page: Page):
    open_page(page, TITLE)
    expect(page.get_by_text("levels: 256")).to_be_visible()
    page.locator(".st-key-bits input[type=range]").press("ArrowLeft")
    settled(page, page.get_by_text("levels: 128"))


def test_each_visit_starts_afresh(page: Page):
    open_page(page, TITLE)
    expect(page.get_by_text("levels: 256")).to_be_visible()


def test_an_exception_on_the_page_is_seen_and_its_detail_is_not_shown(visit: Visit):
    open_page(visit.page, TITLE)
    visit.assert_healthy()
    visit.page.get_by_role("button", name="raise").click()
    settled(visit.page, visit.page.get_by_test_id("stException"))
    with pytest.raises(AssertionError, match="the page shows"):
        visit.assert_healthy()
    assert "nobody may see" not in visit.page.content()


def test_a_script_error_is_seen(visit: Visit):
    open_page(visit.page, TITLE)
    with visit.page.expect_event("pageerror"):
        visit.page.evaluate("setTimeout(() => { throw new TypeError('broken') })")
    with pytest.raises(AssertionError, match="TypeError: broken"):
        visit.assert_healthy()


def test_a_request_to_another_host_is_seen(visit: Visit):
    open_page(visit.page, TITLE)
    with visit.page.expect_event("requestfailed"):
        visit.page.get_by_role("button", name="fetch").click()
    with pytest.raises(AssertionError, match=r"outside\.invalid"):
        visit.assert_healthy()


def test_a_server_that_cannot_start_says_why(tmp_path: Path):
    with (
        pytest.raises(RuntimeError, match=r"(?s)Streamlit ended with 2.*missing\.py"),
        harness.serve(tmp_path / "missing.py", tmp_path / "log"),
    ):
        pass


@pytest.mark.parametrize(
    ("required", "outcome"),
    [("0", "1 skipped"), ("1", "1 error")],
    ids=["skips where optional", "fails where required"],
)
def test_without_chromium_a_browser_test(required: str, outcome: str):
    test = f"{__file__}::test_each_visit_starts_afresh"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test],
        cwd=harness.ROOT,
        env=os.environ | {"PATH": "", "QLAB_REQUIRE_BROWSER": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "no chromium found; install it" in done.stdout
