"""Links, reloads, isolation and jobs, as only a browser can show them."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import harness
from tests.browser.harness import ROOT, Server, Visit, open_page, settled

BARS = ".st-key-by_layer .barlayer .point path"
JOB_APP = Path(__file__).parent / "job_app.py"
GRACE = 9.0


def workspace_in(page: Page) -> str:
    """The id in the page's address."""
    (id,) = parse_qs(urlsplit(page.url).query)["w"]
    return id


def go_to(page: Page, title: str) -> None:
    """Goes to a page by the sidebar."""
    page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()
    settled(page, page.get_by_role("heading", name=title, level=1))


def change_the_selected_layer(page: Page) -> None:
    """On *Layer*: four bits for its weight, applied."""
    for _ in range(4):
        page.locator(".st-key-weight_bits input[type=range]").press("ArrowLeft")
    expect(page.locator(".st-key-weight_bits")).to_contain_text("4")
    settled(page, page.locator(".st-key-apply button"))
    page.locator(".st-key-apply button").click()
    settled(page, page.locator(".st-key-undo button"))


def test_the_workspace_stays_in_the_address_from_page_to_page(page: Page):
    open_page(page, BARS, "/?model=mlp")
    page.wait_for_url(re.compile("w="))
    id = workspace_in(page)
    for title in ("Layer", "Convert", "Observers", "Overview"):
        go_to(page, title)
        expect(page).to_have_url(re.compile(f"w={id}"))


def test_a_link_brings_a_fresh_browser_to_the_same_model_configuration_and_layer(
    browser: Browser, server: Server, page: Page
):
    open_page(page, ".st-key-layer", "/layer?model=mlp&preset=int8-minmax&layer=fc2")
    change_the_selected_layer(page)
    bare = f"/layer?w={workspace_in(page)}"
    with harness.visit(browser, server) as other:
        open_page(other.page, ".st-key-undo button", bare)
        for name, value in (("Model", "mlp"), ("Preset", "int8-minmax"), ("Layer", "fc2")):
            box = other.page.get_by_role("combobox", name=name, exact=True)
            expect(box).to_have_value(value)
        expect(other.page.locator(".st-key-weight_bits")).to_contain_text("4")
        other.assert_healthy()


def test_two_visitors_do_not_see_each_others_work(browser: Browser, server: Server, page: Page):
    open_page(page, ".st-key-layer", "/layer?model=mlp&layer=fc1")
    change_the_selected_layer(page)
    with harness.visit(browser, server) as other:
        open_page(other.page, ".st-key-apply", "/layer?model=mlp&layer=fc1")
        expect(other.page.locator(".st-key-weight_bits")).to_contain_text("8")
        expect(other.page.locator(".st-key-undo")).to_have_count(0)
        assert workspace_in(other.page) != workspace_in(page)
        open_page(other.page, ".st-key-apply", f"/layer?model=mlp&layer=fc1&w={'0' * 32}")
        expect(other.page).not_to_have_url(re.compile("0{32}"))
        assert workspace_in(other.page) not in ("0" * 32, workspace_in(page))
        other.assert_healthy()


@pytest.fixture(scope="module")
def job_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose one page has a long job, and little patience with absent people."""
    log = tmp_path_factory.mktemp("job") / "log"
    environment = {"QLAB_GRACE_SECONDS": str(GRACE), "PYTHONPATH": str(ROOT)}
    with harness.serve(JOB_APP, log, environment) as running:
        yield running


@pytest.fixture
def job(browser: Browser, job_server: Server) -> Iterator[Visit]:
    with harness.visit(browser, job_server) as visit:
        yield visit


def counted(page: Page) -> int:
    """How far the job is."""
    progress = page.get_by_test_id("stProgress")
    expect(progress).to_contain_text(re.compile(r"\d+ of 1000"))
    found = re.search(r"(\d+) of 1000", progress.inner_text())
    assert found is not None
    return int(found[1])


def test_a_reload_and_another_browser_find_the_job_running(
    browser: Browser, job_server: Server, job: Visit
):
    job.page.goto("/")
    first = counted(job.page)
    job.page.locator(".st-key-other input[type=range]").press("ArrowRight")
    expect(job.page.locator(".st-key-other")).to_contain_text("1")
    assert counted(job.page) >= first
    job.page.wait_for_timeout(1000)
    before = counted(job.page)
    job.page.reload()
    assert counted(job.page) > before
    with harness.visit(browser, job_server) as other:
        other.page.goto(f"/?w={workspace_in(job.page)}")
        assert counted(other.page) > before
        other.assert_healthy()
    with harness.visit(browser, job_server) as stranger:
        stranger.page.goto("/")
        assert counted(stranger.page) < counted(job.page)
        stranger.assert_healthy()
    job.assert_healthy()


def test_a_cancelled_job_goes_on_from_where_it_stopped(job: Visit):
    job.page.goto("/")
    job.page.wait_for_timeout(1500)
    before = counted(job.page)
    job.page.locator(".st-key-cancel button").click()
    expect(job.page.get_by_text("Counting was cancelled")).to_be_visible()
    job.page.locator(".st-key-resume button").click()
    assert counted(job.page) >= before
    job.assert_healthy()


def test_a_job_that_nobody_looks_at_ends_after_the_time_of_grace(
    browser: Browser, job_server: Server, job: Visit
):
    job.page.goto("/")
    job.page.wait_for_timeout(1000)
    before, address = counted(job.page), f"/?w={workspace_in(job.page)}"
    job.page.goto("about:blank")
    time.sleep(GRACE / 3)  # the rest of it is for a browser that starts slowly
    with harness.visit(browser, job_server) as soon:
        soon.page.goto(address)
        assert counted(soon.page) > before  # it went on meanwhile
        last = counted(soon.page)
    time.sleep(GRACE + 4)
    with harness.visit(browser, job_server) as late:
        late.page.goto(address)
        assert counted(late.page) < last  # it began anew
        late.assert_healthy()


def test_what_an_address_asked_for_stays_on_the_next_page(page: Page):
    open_page(page, ".st-key-worst_0", "/?preset=int8-per-tensor")
    page.reload()
    settled(page, page.locator(".st-key-worst_0"))
    page.get_by_role("link", name="Layer", exact=True).click()
    settled(page, page.locator(".st-key-verdict"))
    expect(page.get_by_role("combobox", name="Preset")).to_have_value("int8-per-tensor")
