"""How long the app takes to answer, in a browser: python -m benchmarks.app

Run on an otherwise idle machine that has chromium. It writes its table between the markers of
benchmarks/RESULTS.md.

Times are taken inside the page: from the key press or click itself until the text that it changes
is another one. The first page is timed from the server's first healthy answer until its chart is
drawn and the script behind it rests, each time with a server of its own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks import results
from tests.browser import harness
from tests.browser.harness import ROOT, Server, open_page, settled

TIMES = int(os.environ.get("TIMES", "16"))
LAYER = "/layer?layer=block2.dw.conv"
BAR = ".st-key-by_layer .barlayer .trace:first-child .point path"
#: Resolves with the milliseconds from the next key press or click until an element's text changes.
WATCH = """([selector, event]) => {
  const text = () => document.querySelector(selector)?.innerText;
  const before = text();
  let start = null;
  window.addEventListener(event, () => { start ??= performance.now(); }, {capture: true});
  window.answered = new Promise(resolve => {
    const look = () => {
      const now = text();
      if (start !== null && now !== undefined && now !== before) resolve(performance.now() - start);
      else requestAnimationFrame(look);
    };
    look();
  });
}"""


def answer(page: Page, text: str, event: str, act: Callable[[], None]) -> float:
    """Milliseconds from an event until the text of an element is another one."""
    page.evaluate(WATCH, [text, event])
    act()
    return float(page.evaluate("window.answered"))


def knob(page: Page, kind: str) -> list[float]:
    """The bits of a tensor on *Layer*, down to 2 and up again, a press at a time."""
    open_page(page, ".st-key-apply_cause_0", LAYER)
    slider = page.locator(f".st-key-{kind}_bits input[type=range]")
    number = ".st-key-verdict [data-testid=stMetricValue]"
    keys = ["ArrowLeft"] * 6 + ["ArrowRight"] * 6
    found = []
    for position in range(TIMES):
        key = keys[position % len(keys)]
        found.append(answer(page, number, "keydown", lambda key=key: slider.press(key)))
        settled(page, page.locator(".st-key-verdict"))
    return found


def bars(page: Page) -> list[float]:
    """Clicks on bars of *Overview*, another one each time."""
    open_page(page, BAR, "/")
    count = page.locator(BAR).count()
    found = []
    for position in range(TIMES):
        box = page.locator(BAR).nth((2 + 3 * position) % count).bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        click = lambda x=x, y=y: page.mouse.click(x, y)  # noqa: E731
        found.append(answer(page, ".st-key-selected code", "mousedown", click))
        settled(page, page.locator(".st-key-selected"))
        page.wait_for_timeout(400)  # two quick clicks would count as a double one
    return found


def cells(page: Page) -> list[float]:
    """Clicks on cells of *Sensitivity*, another one each time."""
    open_page(page, ".st-key-measure", "/sensitivity")
    page.locator(".st-key-measure button").click()
    settled(page, page.locator(".st-key-agreement"))
    rows = page.locator(".st-key-heat_map .ytick").count()
    found = []
    for position in range(TIMES):
        box = page.locator(".st-key-heat_map .hm image").first.bounding_box()
        assert box is not None
        row = (2 + 3 * position) % rows
        x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] * (row + 0.5) / rows
        click = lambda x=x, y=y: page.mouse.click(x, y)  # noqa: E731
        found.append(answer(page, ".st-key-selected code", "mousedown", click))
        settled(page, page.locator(".st-key-selected"))
        page.wait_for_timeout(400)
    return found


@contextmanager
def served() -> Iterator[Server]:
    """A server of its own, with a folder of its own for its data."""
    with (
        tempfile.TemporaryDirectory() as folder,
        harness.serve(ROOT / "app.py", Path(folder) / "log") as server,
    ):
        yield server


def first_page(browser: Browser) -> list[float]:
    """A new server's first visitor."""
    found = []
    for _ in range(TIMES):
        with served() as server:
            start = time.perf_counter()
            with harness.visit(browser, server) as visit:
                open_page(visit.page, BAR, "/")
                found.append(1000 * (time.perf_counter() - start))
                visit.assert_healthy()
    return found


def row(name: str, found: list[float], target: float) -> list[str]:
    """One line of the table; times in milliseconds."""
    ninth = statistics.quantiles(found, n=10, method="inclusive")[-1]
    numbers = (statistics.median(found), ninth, max(found))
    line = [name, str(len(found)), *(f"{n:.0f} ms" for n in numbers), f"≤ {target:.0f} ms"]
    print(" | ".join(line), flush=True)
    return line


def main() -> None:
    chromium = harness.chromium()
    if chromium is None:
        raise SystemExit("No chromium found; install it (Debian: apt-get install chromium).")
    load = results.load()
    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        flags = list(harness.CHROMIUM_FLAGS)
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        stack.callback(browser.close)
        rows = [row("first page, after the server answers", first_page(browser), 3000)]
        server = stack.enter_context(served())
        for name, target, measure in (
            ("Layer: a knob of the weight → new number", 400, lambda page: knob(page, "weight")),
            ("Layer: a knob of the output → new number", 400, lambda p: knob(p, "activation")),
            ("Overview: a click on a bar → selected layer", 250, bars),
            ("Sensitivity: a click on a cell → selected layer", 250, cells),
        ):
            with harness.visit(browser, server) as visit:
                rows.append(row(name, measure(visit.page), target))
                visit.assert_healthy()
    about = f"{results.machine()}, chromium {browser.version}. {load}."
    heads = ["interaction", "times", "median", "9 of 10 within", "longest", "to reach (median)"]
    results.write(
        "app",
        [
            "## The app in a browser",
            "",
            "Depthwise sample model, 256 calibration images; server and browser on one machine. "
            "`python -m benchmarks.app`.",
            "",
            about,
            "",
            *results.table(heads, rows),
        ],
    )
    print(about)


if __name__ == "__main__":
    main()
