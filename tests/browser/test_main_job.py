"""The main job: find the worst layer, change it, see what that does, take the model away."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page, expect

import qlab
import sample_models
from tests.browser.harness import ROOT, open_page, settled

MODEL = "residual"
RELOAD = """
import sys
import numpy as np, torch, qlab
checkpoint, images, outputs = sys.argv[1:]
model = qlab.load_quantized(checkpoint)
np.save(outputs, model(torch.from_numpy(np.load(images))).numpy())
"""


def metric(page: Page, label: str) -> Locator:
    """A number on the page by what stands above it."""
    return page.get_by_test_id("stMetric").filter(has_text=label).first


def decibels(number: Locator) -> float:
    """The value of a metric in dB."""
    found = re.search(r"(−?[\d.]+) dB", number.inner_text())
    assert found is not None, number.inner_text()
    return float(found[1].replace("−", "-"))


def choose(page: Page, key: str, option: str) -> None:
    """Picks an option of a select box."""
    page.locator(f".st-key-{key} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def visit(page: Page, title: str, heading: str | None = None) -> None:
    """Goes to a page by the sidebar."""
    page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()
    settled(page, page.get_by_role("heading", name=heading or title, level=1))


def click(page: Page, mark: Locator) -> None:
    """Clicks a mark of a chart; plotly takes the click in a layer above it."""
    box = mark.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def download(page: Page, key: str, folder: Path) -> Path:
    """Presses a download button and keeps the file under its own name."""
    with page.expect_download() as caught:
        page.locator(f".st-key-{key} button").click()
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


@pytest.mark.slow
def test_from_the_worst_layer_to_a_file_that_reloads(page: Page, tmp_path: Path):
    open_page(page, "[data-testid=stMetric]")
    choose(page, "model", MODEL)
    settled(page, page.locator("strong", has_text=MODEL).first)
    name = page.locator(".st-key-worst_0 code").inner_text()
    page.locator(".st-key-order").get_by_text("worst first").click()
    # The script may have come to rest while plotly still shows the old order.
    chart = page.locator(".st-key-by_layer")
    expect(chart.locator(".xtick text").first).to_contain_text(name)
    click(page, chart.locator(".barlayer .point path").first)
    expect(page.locator(".st-key-selected code")).to_have_text(name)

    page.locator(".st-key-selected").get_by_role("link").click()
    sqnr = metric(page, "Layer output SQNR")
    settled(page, sqnr)
    before = decibels(sqnr)
    for _ in range(4):
        page.locator(".st-key-weight_bits input[type=range]").press("ArrowLeft")
    expect(page.locator(".st-key-weight_bits")).to_contain_text("4")
    settled(page, sqnr)
    expect(sqnr).not_to_contain_text(f"{before}")
    after = decibels(sqnr)
    assert after < before - 6
    page.locator(".st-key-apply button").click()
    settled(page, page.get_by_text("Stale:"))

    visit(page, "Convert")
    page.locator(".st-key-convert button").click()
    settled(page, page.get_by_text("gave identical outputs"))
    checkpoint = download(page, "download_checkpoint", tmp_path)
    recipe = download(page, "download_recipe", tmp_path)
    assert checkpoint.name == f"{MODEL}-int8-changed.safetensors"
    reloads(checkpoint, recipe, name, tmp_path)


def reloads(checkpoint: Path, recipe: Path, name: str, folder: Path) -> None:
    """The file gives, in another process, what the lab's own integer model gives here."""
    sample = sample_models.load(MODEL)
    images = sample.evaluation()[0][0]
    mapping = qlab.QConfigMapping.from_json(recipe.read_text())
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration())
    weight = lab.plan(mapping).step(name).weight
    assert weight is not None and weight.dtype.bits == 4
    np.save(folder / "images.npy", images.numpy())
    command = [sys.executable, "-c", RELOAD, checkpoint, folder / "images.npy", folder / "out.npy"]
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)
    with torch.no_grad():
        expected = lab.convert(mapping)(images).numpy()
    assert np.array_equal(np.load(folder / "out.npy"), expected)
