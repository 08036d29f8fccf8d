"""Starts the app on a free port, drives it in chromium and watches for what must not happen."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Error, Locator, Page, Request, expect

ROOT = Path(__file__).parent.parent.parent
REQUIRED = os.environ.get("QLAB_REQUIRE_BROWSER") == "1"

#: Fewest side effects in a container: no sandbox, no GPU, no host but this one.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
SETTLED = "[data-test-connection-state=CONNECTED][data-test-script-state=notRunning]"
#: Limits, not delays: on a machine that also runs the rest of the suite, all of it takes longer.
START_SECONDS = 120
SETTLE_SECONDS = 120
expect.set_options(timeout=SETTLE_SECONDS * 1000)
#: Milliseconds after which a key or click that showed nothing is given again.
RETRY = 5_000


def chromium() -> str | None:
    """The path of an installed chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@dataclass(frozen=True)
class Server:
    """A running app: where it is served and where its output goes."""

    url: str
    log: Path


@contextmanager
def serve(
    script: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Runs `script` under Streamlit until the block ends; its data lie beside `log`.

    Raises:
        RuntimeError: the server ended, or did not answer in time; with what it printed.
    """
    port = free_port()
    flags = {
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "streamlit", "run", str(script), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"QLAB_DATA": str(log.parent / "data")} | dict(environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", log)
            wait_until_healthy(server.url, process, log)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a Streamlit server answers.

    Raises:
        RuntimeError: It ended, or did not answer in time; with what it printed.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Streamlit ended with {process.returncode}:\n{read(log)}")
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(f"Streamlit did not answer in {START_SECONDS} s:\n{read(log)}")


def read(log: Path) -> str:
    """What a server has printed so far."""
    return log.read_text(errors="replace")


@dataclass
class Visit:
    """One page in a fresh browser context, and what went wrong on it."""

    page: Page
    script_errors: list[str] = field(default_factory=list)
    outside_requests: list[str] = field(default_factory=list)

    def assert_healthy(self) -> None:
        """Fails on a script error, a request to another host or an exception on the page."""
        assert not self.script_errors, f"the page raised {self.script_errors}"
        assert not self.outside_requests, f"the page asked for {self.outside_requests}"
        exceptions = self.page.get_by_test_id("stException")
        assert exceptions.count() == 0, f"the page shows {exceptions.all_inner_texts()}"


@contextmanager
def visit(browser: Browser, server: Server, color_scheme: str = "light") -> Iterator[Visit]:
    """A page in its own context, on no address yet, watched from its first request on."""
    context = browser.new_context(
        base_url=server.url,
        viewport={"width": 1280, "height": 900},
        color_scheme="dark" if color_scheme == "dark" else "light",
        accept_downloads=True,
    )
    context.set_default_timeout(SETTLE_SECONDS * 1000)
    watched = Visit(context.new_page())
    watched.page.on("pageerror", lambda error: watched.script_errors.append(_text(error)))

    def note(request: Request) -> None:
        if urlsplit(request.url).hostname not in (None, "127.0.0.1"):
            watched.outside_requests.append(request.url)

    watched.page.on("request", note)
    try:
        yield watched
    finally:
        context.close()


def _text(error: Error) -> str:
    return f"{error.name}: {error.message}"


def settled(page: Page, element: Locator) -> None:
    """Waits until `element` is visible and the script behind the page has come to rest.

    The element comes first: before Streamlit has drawn anything, its script looks idle too.
    """
    expect(element.first).to_be_visible()  # while it is replaced there are two
    app = page.locator(f"[data-testid=stApp]{SETTLED}")
    expect(app).to_be_visible()


def repeated(step: Callable[[], None], times: int = SETTLE_SECONDS * 1000 // RETRY) -> None:
    """Takes a step until it has worked: one that ends with an `expect` of `RETRY` milliseconds."""
    for _ in range(times - 1):
        try:
            return step()
        except AssertionError:
            continue
    return step()


def open_page(page: Page, element: str, path: str = "/") -> None:
    """Opens `path` of the served app and waits until `element`, a selector, has settled."""
    page.goto(path)
    settled(page, page.locator(element).first)


def not_cut_off(table: Locator) -> None:
    """Nothing lies to the right of what is seen, once the columns fit the width of the page.

    A table draws its columns for the width that it had, and for the new one a moment later.
    """
    scroller = table.locator(".dvn-scroller")

    def fits() -> None:
        whole, seen = scroller.evaluate("e => [e.scrollWidth, e.clientWidth]")
        if whole > seen + 1:
            table.page.wait_for_timeout(RETRY)
        assert whole <= seen + 1

    repeated(fits)
