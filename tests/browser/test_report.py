"""The HTML report opens from a folder, with the network off."""

from pathlib import Path

from playwright.sync_api import Browser, Request, expect

import qlab
import sample_models
from tests.browser.harness import SETTLE_SECONDS


def test_the_report_opens_offline(browser: Browser, tmp_path: Path):
    sample = sample_models.load("mlp")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(32))
    path = lab.export(tmp_path / "report.html", "int8")
    context = browser.new_context(offline=True)
    try:
        context.set_default_timeout(SETTLE_SECONDS * 1000)
        page, asked, errors = context.new_page(), [], []

        def note(request: Request) -> None:
            asked.append(request.url)

        page.on("request", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
        for step in lab.plan("int8").steps:
            expect(page.get_by_text(step.name, exact=True).first).to_be_attached()
        assert page.locator(".js-plotly-plot").count() > 1
        assert asked == [path.as_uri()]
        assert not errors
    finally:
        context.close()
