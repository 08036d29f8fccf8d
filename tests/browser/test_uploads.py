"""A person's own model by its file: in, calibrated, converted, out; and files that are refused."""

import pickle
import re
from pathlib import Path

import onnxruntime
import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, expect

import qlab
import sample_models
from tests.browser import harness
from tests.browser.harness import ROOT, Server, open_page, settled
from tests.upload_files import members_of, npz, pack, sample_archive, weights

MODEL = "residual"
SAMPLES = 64


def upload(page: Page, section: str, key: str, name: str, content: bytes) -> None:
    """Opens a section and gives its uploader a file."""
    chooser = page.locator(f"[class*=st-key-{key}_] input[type=file]")
    summary = page.locator("[data-testid=stExpander] summary").filter(has_text=section)
    settled(page, summary)
    if summary.locator("xpath=..").get_attribute("open") is None:
        summary.click()
    chooser.set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )
    expect(page.locator(f"[class*=st-key-{key}_]")).to_contain_text(name)


def press(page: Page, key: str) -> None:
    page.locator(f".st-key-{key} button").click()


def go_to(page: Page, title: str) -> None:
    page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()
    settled(page, page.get_by_role("heading", name=title, level=1))


def choose(page: Page, key: str, option: str) -> None:
    page.locator(f".st-key-{key} input").first.click()
    page.get_by_role("option", name=option, exact=True).click()


def model_box(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Model", exact=True)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    (x, labels), *_ = sample_models.load(MODEL).evaluation()
    return x[:SAMPLES], labels[:SAMPLES]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.pt2", "net.safetensors"])
def test_uploaded_calibrated_converted_downloaded(
    name: str, page: Page, browser: Browser, server: Server, tmp_path: Path
):
    archive = name.endswith(".pt2")
    open_page(page, "[data-testid=stExpander]", "/model?model=mlp&samples=64")
    content = sample_archive(MODEL, True) if archive else weights(sample_models.load(MODEL).model)
    upload(page, "Your own model", "model_file", name, content)
    if not archive:
        expect(page.locator(".st-key-read_model button")).to_be_disabled()
        choose(page, "architecture", MODEL)
    press(page, "read_model")
    expect(model_box(page)).to_have_value(name)
    settled(page, page.get_by_text(f"Uploaded: {name}"))  # the chart was there before

    go_to(page, "Calibrate")
    expect(page.get_by_text("They stand in until you upload data").first).to_be_visible()
    x, labels = data()
    content = npz(input=x.numpy(), labels=labels.numpy())
    upload(page, "Your own data", "sample_file", "digits.npz", content)
    press(page, "use_samples")
    expect(page.get_by_text("digits.npz: 64 samples with labels").first).to_be_visible()
    settled(page, page.locator(".st-key-seen"))

    page.reload()  # a fresh session of the same workspace
    settled(page, page.get_by_text("digits.npz: 64 samples with labels").first)
    with harness.visit(browser, server) as stranger:
        open_page(stranger.page, "[data-testid=stMetric]", f"/model?model={name}&samples=64")
        expect(model_box(stranger.page)).not_to_have_value(name)
        stranger.assert_healthy()

    go_to(page, "Overview")
    expect(page.get_by_test_id("stMetric").filter(has_text="Accuracy").first).to_contain_text("%")
    go_to(page, "Convert")
    press(page, "convert")
    settled(page, page.get_by_text("gave identical outputs on"))
    with page.expect_download() as caught:
        press(page, "download_checkpoint")
    path = tmp_path / "model.safetensors"
    caught.value.save_as(path)
    assert caught.value.suggested_filename == f"{name}-int8.safetensors"
    model = qlab.load_quantized(path)
    with torch.no_grad():
        codes = model(x)
    assert (codes.argmax(1) == labels).float().mean() > 0.9

    press(page, "make_onnx")
    expect(page.locator(".st-key-onnx_where")).to_be_visible()
    tiles = page.get_by_test_id("stMetric")
    expect(tiles.filter(has_text="Same class")).to_contain_text("100 %")
    expect(tiles.filter(has_text="Largest difference of an operator")).to_contain_text(
        re.compile("[01] step")
    )
    settled(page, page.locator(".st-key-download_onnx"))
    with page.expect_download() as caught:
        press(page, "download_onnx")
    assert caught.value.suggested_filename == f"{name}-int8.onnx"
    path = tmp_path / "model.onnx"
    caught.value.save_as(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (logits,) = session.run(None, {given.name: x.numpy()})
    assert (torch.from_numpy(logits).argmax(1) == codes.argmax(1)).all()


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin", "net.ckpt", "net.pt2"])
def test_a_pickle_is_refused_in_words(name: str, page: Page):
    open_page(page, "[data-testid=stExpander]", "/model?model=mlp&samples=8")
    upload(page, "Your own model", "model_file", name, pickle.dumps({"weight": [1.0]}))
    message = page.get_by_test_id("stAlert").filter(has_text="is a pickle")
    expect(message).to_contain_text("runs code that its author chose")
    expect(message).to_contain_text("safetensors.torch.save_file")
    expect(page.locator(".st-key-read_model")).to_have_count(0)


def test_a_hostile_archive_shows_a_message_and_the_app_lives_on(page: Page, tmp_path: Path):
    fired = tmp_path / "fired"
    content = members_of(sample_archive("mlp", False))
    (program,) = [n for n in content if n.startswith("models/")]
    content[program] = content[program].replace(b"torch.ops.aten.linear.default", b"os.system")
    open_page(page, "[data-testid=stExpander]", "/model?model=mlp&samples=8")
    upload(page, "Your own model", "model_file", "evil.pt2", pack(content))
    press(page, "read_model")
    message = page.get_by_test_id("stAlert").filter(has_text="torch.ops.aten")
    expect(message).to_contain_text("An uploaded program may call operators of torch.ops.aten only")
    expect(message).to_contain_text("os.system")
    assert not fired.exists()
    expect(model_box(page)).to_have_value("mlp")
    press(page, "forget_model")
    expect(message).to_have_count(0)
    settled(page, page.locator(".st-key-network .js-plotly-plot"))


@pytest.mark.slow
def test_a_restart_keeps_the_model_and_goes_on_with_what_was_being_read(
    browser: Browser, tmp_path: Path
):
    log, extra = tmp_path / "log", {"QLAB_GRACE_SECONDS": "2"}
    with harness.serve(ROOT / "app.py", log, extra) as first, harness.visit(browser, first) as one:
        page = one.page
        open_page(page, "[data-testid=stExpander]", "/model?model=mlp&samples=8")
        upload(page, "Your own model", "model_file", "kept.pt2", sample_archive("mlp", True))
        press(page, "read_model")
        expect(model_box(page)).to_have_value("kept.pt2")
        upload(page, "Your own model", "model_file", "later.pt2", sample_archive(MODEL, True))
        press(page, "read_model")
        expect(page.get_by_text("Reading later.pt2").first).to_be_visible()
        (id,) = re.findall(r"w=([0-9a-f]{32})", page.url)
        one.assert_healthy()
    with harness.serve(ROOT / "app.py", log, extra) as again, harness.visit(browser, again) as two:
        page = two.page
        page.goto(f"{again.url}/model?w={id}")
        expect(model_box(page)).to_have_value("later.pt2")
        settled(page, page.locator(".st-key-network .js-plotly-plot"))
        choose(page, "model", "kept.pt2")
        settled(page, page.get_by_text("Uploaded: kept.pt2"))
        two.assert_healthy()
