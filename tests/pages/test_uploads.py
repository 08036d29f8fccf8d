"""Models and data that people bring: read, kept, shown on every page, and nobody else's."""

import pickle
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

import sample_models
from pages.common import collecting, uploads
from pages.common.brought import ModelFile, SampleFile
from pages.common.engine import board
from pages.common.store import Store, store
from pages.common.workspace import Choice, Workspace
from qlab.errors import ArgumentError, FormatError, QlabError
from tests.pages.harness import (
    ROOT,
    SECONDS,
    has_button,
    metrics,
    open_page,
    settle,
    workspace_of,
)
from tests.upload_files import (
    hostile_models,
    nested_archive,
    npy,
    npz,
    pack,
    png,
    sample_archive,
    small_archive,
    weights,
)

PAGES = ("overview", "model", "configure", "layer", "calibrate", "sensitivity", "convert", "runs")


def uploader(page: AppTest, label: str):
    (found,) = [each for each in page.get("file_uploader") if each.label == label]
    return found


def give_model(page: AppTest, name: str, content: bytes, architecture: str = "") -> AppTest:
    """Uploads a model on *Model* and has it read."""
    uploader(page, "Model file").set_value((name, content, "application/octet-stream")).run()
    if architecture:
        page.selectbox(key="architecture").set_value(architecture).run()
    return settle(page.button(key="read_model").click().run())


def give_data(page: AppTest, name: str, content: bytes, **widgets: object) -> AppTest:
    """Uploads data on *Calibrate* and has them used."""
    uploader(page, "Data file").set_value((name, content, "application/octet-stream")).run()
    for key, value in widgets.items():
        kind = page.selectbox if key == "image_values" else page.number_input
        kind(key=key).set_value(value).run()
    return settle(page.button(key="use_samples").click().run())


def go_on(page: AppTest, name: str, **state: object) -> AppTest:
    """Another page of the same workspace, as in a fresh browser with its address."""
    other = AppTest.from_file(ROOT / "pages" / f"{name}.py", default_timeout=SECONDS)
    other.query_params["w"] = page.query_params["w"]
    for key, value in state.items():
        other.session_state[key] = value
    return settle(other.run())


def errors(page: AppTest) -> str:
    return "\n".join(error.value for error in page.error).replace("\\", "")


def captions(page: AppTest) -> list[str]:
    return [caption.value.replace("\\", "") for caption in page.caption]


@pytest.fixture
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    (x, labels), *_ = sample_models.load("residual").evaluation()
    return x[:64], labels[:64]


def test_an_archive_is_shown_on_every_page_with_random_inputs_that_are_called_so():
    page = give_model(open_page("model", model="mlp", samples=8), "small.pt2", small_archive())
    assert not page.error
    assert page.selectbox(key="model").value == "small.pt2"
    assert metrics(page)["Layers"] == "5"
    for name in PAGES:
        other = go_on(page, name, samples=8)
        assert not other.error, (name, errors(other))
        assert other.selectbox(key="model").value == "small.pt2"
        assert any("Random noise" in caption for caption in captions(other))
    overview = go_on(page, "overview", samples=8)
    assert "Accuracy" not in " ".join(metrics(overview))
    assert any("8 random samples" in caption for caption in captions(overview))
    converted = go_on(page, "convert", samples=8)
    settle(converted.button(key="convert").click().run())
    assert not converted.error
    assert "identical outputs" in converted.success[0].value


def test_weights_and_labelled_data_give_the_accuracy_of_the_sample(digits):
    x, labels = digits
    content = weights(sample_models.load("residual").model)
    page = open_page("model", model="mlp", samples=64)
    uploader(page, "Model file").set_value(("w.safetensors", content, "")).run()
    assert page.button(key="read_model").disabled  # weights alone are no model
    page = give_model(page, "w.safetensors", content, "residual")
    assert page.selectbox(key="model").value == "w.safetensors"
    page = go_on(page, "calibrate", samples=64)
    page = give_data(page, "digits.npz", npz(images=x.numpy(), labels=labels.numpy()))
    assert not page.error
    assert metrics(page)["Images seen"] == "64"
    (found,) = [f.value for f in page.dataframe if "Takes" in f.value]
    assert list(found["Takes"]) == ["float32 (N, 1, *, *)"]
    assert list(found["Is given"]) == ["float32 (64, 1, 8, 8)"]
    assert any("64 samples with labels" in caption for caption in captions(page))
    overview = go_on(page, "overview", samples=64)
    accuracy = next(value for label, value in metrics(overview).items() if "ccuracy" in label)
    assert "%" in accuracy
    assert any("64 samples:" in caption for caption in captions(overview))
    assert not any("Random noise" in caption for caption in captions(overview))


def test_images_are_prepared_as_the_person_says(digits):
    x, labels = digits
    big = {
        f"{label}/{index}.png": png((image[0] * 255).byte().numpy().repeat(2, 0).repeat(2, 1))
        for index, (image, label) in enumerate(zip(x[:20], labels[:20].tolist(), strict=True))
    }
    page = open_page("model", model="mlp", samples=8)
    page = give_model(page, "net.pt2", sample_archive("residual", True))
    page = go_on(page, "calibrate", samples=8)
    uploader(page, "Data file").set_value(("images.zip", pack(big, ""), "")).run()
    height = page.number_input(key="image_height")
    assert (height.value, page.number_input(key="image_width").value) == (8, 8)
    page = give_data(page, "images.zip", pack(big, ""), image_values="−1 to 1")
    assert not page.error
    (told,) = [c for c in captions(page) if c.startswith("images.zip:")]
    assert "scaled and cropped to 8 × 8 pixels; grey" in told and "minus 0.5" in told
    kept = workspace_of(page).samples["net.pt2"]
    assert (kept.height, kept.width, kept.mean, kept.std) == (8, 8, (0.5,), (0.5,))


def test_mean_and_std_of_images_may_be_any_numbers(digits):
    x, _ = digits
    images = {f"{i}.png": png((image[0] * 255).byte().numpy()) for i, image in enumerate(x[:16])}
    page = open_page("model", model="mlp", samples=8)
    page = give_model(page, "net.pt2", sample_archive("residual", True))
    page = go_on(page, "calibrate", samples=8)
    uploader(page, "Data file").set_value(("images.zip", pack(images, ""), "")).run()
    (section,) = [each for each in page.expander if each.label == "Your own data"]
    assert section.proto.expanded  # it does not close over a file that was just given
    page.selectbox(key="image_values").set_value("other numbers").run()
    assert page.text_input(key="image_mean").value == "0.5, 0.5, 0.5"
    page.text_input(key="image_mean").set_value("a tenth").run()
    assert "This is no mean of images" in errors(page)
    assert "one number, or three with commas between them" in errors(page)
    assert not has_button(page, "use_samples")
    page.text_input(key="image_mean").set_value("0.25").run()
    page.text_input(key="image_std").set_value("0").run()
    page.button(key="use_samples").click().run()
    assert "std" in errors(page) and not workspace_of(page).reading_samples
    page.text_input(key="image_std").set_value("0.125").run()
    settle(page.button(key="use_samples").click().run())
    assert not page.error, errors(page)
    kept = workspace_of(page).samples["net.pt2"]
    assert (kept.mean, kept.std) == ((0.25,), (0.125,))
    job = board().find(collecting.loaded_key(Choice("net.pt2", "int8", 8), workspace_of(page)))
    assert job is not None
    (seen,) = job.result.sample.calibration(8)
    (seen,) = seen if isinstance(seen, tuple) else (seen,)
    wanted = ((x[:8] * 255).byte() / 255 - 0.25) / 0.125
    assert torch.allclose(seen[0], wanted[0], atol=1e-5)  # 0.png is the first by name


def test_data_that_are_refused_go_when_they_are_forgotten(digits):
    x, _ = digits
    page = open_page("model", model="mlp", samples=8)
    page = give_model(page, "net.pt2", sample_archive("residual", True))
    page = give_data(go_on(page, "calibrate", samples=8), "x.npz", npz(x=x.numpy()[:, :, 0]))
    space = workspace_of(page)
    assert errors(page) and space.reading_samples
    files = list(store().folder.glob(f"{space.id}.{'[0-9a-f]' * 32}"))
    assert len(files) == 2
    settle(page.button(key="forget_samples").click().run())
    assert not page.error and not space.reading_samples and not space.samples
    (left,) = store().folder.glob(f"{space.id}.{'[0-9a-f]' * 32}")
    assert left in files and left.name.endswith(space.models["net.pt2"].file)
    assert metrics(page)["Images seen"]


def test_tokens_a_mask_and_a_dict_of_results_on_every_page():
    ids = np.random.default_rng(0).integers(0, 7, (40, 6))
    page = open_page("model", model="mlp", samples=8)
    page = give_model(page, "nested.pt2", nested_archive())
    page = go_on(page, "calibrate", samples=8)
    page = give_data(page, "tokens.npz", npz(ids=ids, mask=ids > 1))
    assert not page.error, errors(page)
    for name in PAGES:
        other = go_on(page, name, samples=8)
        assert not other.error, (name, errors(other))
    converted = go_on(page, "convert", samples=8)
    settle(converted.button(key="convert").click().run())
    assert not converted.error, errors(converted)
    assert "identical outputs" in converted.success[0].value


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.pt", b"\x80\x04N.", "is a pickle"),
        ("net.bin", b"PK\x03\x04", "safetensors.torch.save_file"),
        ("net.ckpt", b"", "is a pickle"),
        ("net.pt2", b"", "no kind that qlab reads, or truncated"),
        ("net.txt", b"hello world", "no kind that qlab reads"),
        ("x.npy", npy(np.zeros((2, 2), "f4")), "is data, not a model"),
    ],
)
def test_what_is_no_model_is_refused_at_once(name, content, message):
    page = open_page("model", model="mlp", samples=8)
    uploader(page, "Model file").set_value((name, content, "")).run()
    assert message in errors(page)
    assert not has_button(page, "read_model")
    assert not workspace_of(page).models
    assert metrics(page)["Layers"]  # the rest of the page lives on


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (small_archive()[:500], "truncated or damaged"),
        (pack({"x.npy": npy(np.zeros(2))}, ""), "none of torch"),
        (pack({"data.pkl": pickle.dumps(1)}, "archive"), "is a pickle"),
    ],
)
def test_a_hostile_archive_shows_a_message_that_goes_away_when_it_is_forgotten(content, message):
    page = give_model(open_page("model", model="mlp", samples=8), "bad.pt2", content)
    assert message in errors(page)
    assert page.selectbox(key="model").value == "mlp"
    space = workspace_of(page)
    assert space.reading_model is not None and not space.models
    settle(page.button(key="forget_model").click().run())
    assert not page.error and space.reading_model is None
    assert not list(store().folder.glob(f"{space.id}.{'[0-9a-f]' * 32}"))


class Silent:
    """A job that nobody watches."""

    partial = None
    timed = False
    part = (0, (1.0,))

    def report(self, done: int, total: int, label: str) -> None:
        """Told how far it is."""

    def should_stop(self) -> bool:
        return False


@pytest.mark.parametrize("name", hostile_models())
def test_hostile_files_are_refused_on_the_way_that_the_app_reads_them(name: str):
    title, content = hostile_models()[name]
    space = store().new()
    architecture = "mlp" if title.endswith("safetensors") else ""
    chosen = ModelFile(uploads.keep(space, content), title, architecture, len(content))
    with pytest.raises(QlabError):
        uploads.read_model(space, chosen, Silent())
    uploads.tidy(space)
    assert not list(store().folder.glob(f"{space.id}.*"))


def test_several_uploads_at_once_take_turns():
    space, reading, most = store().new(), [], []
    chosen = ModelFile(uploads.keep(space, small_archive()), "small.pt2")

    class Watched(Silent):
        def report(self, done: int, total: int, label: str) -> None:
            if label.startswith("reading"):
                reading.append(1)
                most.append(len(reading))
            elif done == 1:
                reading.pop()

    def read() -> None:
        uploads._RECENT.clear()
        found.append(uploads.read_model(space, chosen, Watched()))

    found: list[object] = []
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and max(most) <= 2


def test_data_that_do_not_fit_change_nothing_and_the_next_ones_do(digits):
    page = open_page("calibrate", model="residual", samples=8)
    page = give_data(page, "wrong.npz", npz(x=np.zeros((4, 3, 8, 8), "f4")))
    assert "does not have the shape" in errors(page)
    assert metrics(page)["Images seen"] == "8"
    page = give_data(page, "right.npz", npz(x=digits[0].numpy()))
    assert not page.error
    space = workspace_of(page)
    assert space.samples["residual"].title == "right.npz" and not space.reading_samples
    page = go_on(page, "calibrate", samples=64)
    assert any(caption.startswith("right.npz: 64") for caption in captions(page))
    settle(page.button(key="remove_samples").click().run())
    assert not workspace_of(page).samples
    assert not list(store().folder.glob(f"{space.id}.{'[0-9a-f]' * 32}"))


def test_a_restart_keeps_them_and_takes_up_what_was_being_read(tmp_path: Path):
    one = Store(tmp_path)
    space = one.new()
    space.set_model("a.pt2", ModelFile("0" * 32, "a.pt2", "", 7))
    space.set_samples("a.pt2", SampleFile("1" * 32, "x.zip", 8, 9, (0.5,), (0.25, 0.5, 1.0)))
    space.read_model(ModelFile("2" * 32, "b.safetensors", "mlp", 9))
    space.read_samples("mlp", SampleFile("3" * 32, "y.npz"))
    one.save(space)
    again = Store(tmp_path).find(space.id)
    assert again is not None
    for name in ("models", "samples", "reading_model", "reading_samples"):
        assert getattr(again, name) == getattr(space, name)
    text = (tmp_path / f"{space.id}.json").read_text()
    (tmp_path / f"{space.id}.json").write_text(text.replace("0" * 32, "../../../etc/passwd"))
    assert Store(tmp_path).find(space.id) is None  # a path is no file of a workspace


def test_two_workspaces_do_not_see_each_others_uploads():
    mine = give_model(open_page("model", model="mlp", samples=8), "mine.pt2", small_archive())
    other = open_page("model", model="mine.pt2", samples=8)
    assert "mine.pt2" not in other.selectbox(key="model").options
    assert other.selectbox(key="model").value != "mine.pt2"
    assert "mine.pt2" in mine.selectbox(key="model").options


def test_one_name_twice_and_one_file_twice():
    page = give_model(open_page("model", model="mlp", samples=8), "net.pt2", small_archive())
    page = give_model(page, "net.pt2", small_archive())
    assert list(workspace_of(page).models) == ["net.pt2"]
    page = give_model(page, "net.pt2", sample_archive("mlp", True))
    assert list(workspace_of(page).models) == ["net.pt2", "net.pt2 (2)"]
    assert page.selectbox(key="model").value == "net.pt2 (2)"
    settle(page.button(key="remove_model").click().run())
    space = workspace_of(page)
    assert list(space.models) == ["net.pt2"]
    assert page.selectbox(key="model").value == "depthwise"
    assert len(list(store().folder.glob(f"{space.id}.{'[0-9a-f]' * 32}"))) == 1


def test_reading_is_a_job_that_can_be_cancelled_and_taken_up(monkeypatch: pytest.MonkeyPatch):
    waits = uploads.content

    def slow(space: Workspace, file: str, title: str) -> bytes:
        time.sleep(1.5)
        return waits(space, file, title)

    monkeypatch.setattr(uploads, "content", slow)
    uploads._RECENT.clear()
    page = open_page("model", model="mlp", samples=8)
    uploader(page, "Model file").set_value(("net.pt2", sample_archive("mlp", False), "")).run()
    page.button(key="read_model").click().run()
    assert has_button(page, "cancel_model_file")
    page.button(key="cancel_model_file").click().run()
    assert any("was cancelled" in info.value for info in page.info)
    assert not workspace_of(page).models
    again = go_on(page, "model", samples=8)  # a reload finds it as it was left
    settle(again.button(key="resume_model_file").click().run())
    assert list(workspace_of(again).models) == ["net.pt2"]


class TestDisk:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        made = Store(tmp_path)
        monkeypatch.setattr(uploads, "store", lambda: made)
        yield made

    def test_a_file_is_kept_once_and_for_its_owner_alone(self, folder: Store):
        space = folder.new()
        assert uploads.keep(space, b"abc") == uploads.keep(space, b"abc")
        (path,) = folder.folder.iterdir()
        assert path.name.startswith(space.id) and not path.stat().st_mode & 0o077
        assert uploads.content(space, uploads.keep(space, b"abc"), "x") == b"abc"
        other = folder.new()
        with pytest.raises(ArgumentError, match=r"x\.pt2 is not on this server.*Upload it again"):
            uploads.content(other, uploads.keep(space, b"abc"), "x.pt2")

    def test_a_workspace_and_the_server_have_bounds(self, folder: Store, monkeypatch):
        monkeypatch.setattr(uploads, "IN_WORKSPACE", 10)
        monkeypatch.setattr(uploads, "IN_ALL", 14)
        first, second = folder.new(), folder.new()
        old = uploads.keep(first, b"12345678")
        with pytest.raises(FormatError, match=r"no room.*at most 10 bytes.*8 bytes and 3 more"):
            uploads.keep(first, b"123")
        new = uploads.keep(second, b"87654321")
        assert uploads.content(second, new, "n") == b"87654321"
        with pytest.raises(ArgumentError, match="not on this server any more"):
            uploads.content(first, old, "o")

    def test_files_that_nothing_names_go(self, folder: Store):
        space = folder.new()
        named, other = uploads.keep(space, b"1"), uploads.keep(space, b"2")
        space.set_model("m", ModelFile(named, "m"))
        uploads.tidy(space)
        assert uploads.content(space, named, "m") == b"1"
        with pytest.raises(ArgumentError, match="not on this server"):
            uploads.content(space, other, "o")

    def test_they_go_with_their_workspace(self, folder: Store):
        space = folder.new()
        space.set("x", 1)
        uploads.keep(space, b"1")
        folder.save(space)
        assert len(list(folder.folder.iterdir())) == 2
        Store(folder.folder, on_disk=0)
        assert not list(folder.folder.iterdir())

    def test_a_file_as_large_as_streamlit_takes_and_no_larger(self, folder: Store, monkeypatch):
        monkeypatch.setenv("QLAB_UPLOAD_FILE_BYTES", "5")
        with pytest.raises(FormatError, match=r"too large.*at most 5 bytes.*6 bytes"):
            uploads.keep(folder.new(), b"123456")


def test_the_limit_is_that_of_streamlit_or_less(monkeypatch: pytest.MonkeyPatch):
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    most = config["server"]["maxUploadSize"] * 2**20
    monkeypatch.setattr("streamlit.get_option", lambda name: config["server"][name.split(".")[1]])
    assert uploads.limits().file_bytes == most
    monkeypatch.setenv("QLAB_UPLOAD_FILE_BYTES", str(most * 2))
    assert uploads.limits().file_bytes == most
    monkeypatch.setenv("QLAB_UPLOAD_FILE_BYTES", "1000")
    assert uploads.limits().file_bytes == 1000


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a.pt2", "a.pt2"),
        ("C:\\x\\net.pt2", "net.pt2"),
        ("../../etc/passwd", "passwd"),
        ("\x00\n", "upload"),
        ("x" * 300 + ".safetensors", "x" * 48 + ".safetensors"),
        ("x" * 300, "x" * 60),
    ],
)
def test_titles_are_short_and_printable(given, shown):
    assert uploads.title_of(given) == shown


def test_identities_differ_by_everything_that_changes_numbers():
    space = Workspace("w")
    seen = {uploads.identity(space, "net"), uploads.identity(None, "net")}
    assert seen == {"net"}
    for file in ("0" * 32, "1" * 32):
        for architecture in ("", "mlp"):
            space.set_model("net", ModelFile(file, "net", architecture))
            seen.add(uploads.identity(space, "net"))
            for data in (SampleFile("2" * 32, "a"), SampleFile("2" * 32, "a", 8, 8)):
                space.set_samples("net", data)
                seen.add(uploads.identity(space, "net"))
            space.set_samples("net", None)
    assert len(seen) == 1 + 4 * 3
    board().abandon("w")
