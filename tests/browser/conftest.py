"""Browser fixtures: one server and one browser per worker, one fresh context per test."""

from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import harness
from tests.browser.harness import ROOT, Server, Visit

FAILED = ROOT / "test-results"
REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what drives a browser; `pytest -m 'not browser'` leaves it out."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps the reports for the fixtures; where a browser is required, a skip is a failure."""
    report = yield
    item.stash.setdefault(REPORTS, {})[report.when] = report
    if report.skipped and harness.REQUIRED:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"QLAB_REQUIRE_BROWSER=1 forbids to skip a browser test. {reason}"
    return report


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium, headless."""
    path = harness.chromium()
    if path is None:
        pytest.skip("no chromium found; install it (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=list(harness.CHROMIUM_FLAGS)
        )
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app itself; whatever the tests did, it must not have printed a traceback."""
    with harness.serve(ROOT / "app.py", tmp_path_factory.mktemp("app") / "log") as running:
        yield running
    assert "Traceback" not in harness.read(running.log), harness.read(running.log)


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    """A fresh page that is watched; the test says itself what must be healthy."""
    with harness.visit(browser, server) as watched:
        yield watched


@pytest.fixture
def page(visit: Visit, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page that must be healthy when the test ends; a failure leaves a screenshot."""
    yield visit.page
    report = request.node.stash.get(REPORTS, {}).get("call")
    if report is not None and report.failed:
        FAILED.mkdir(exist_ok=True)
        name = "".join(c if c.isalnum() else "-" for c in request.node.name)
        visit.page.screenshot(path=FAILED / f"{name}.png", full_page=True)
    visit.assert_healthy()
