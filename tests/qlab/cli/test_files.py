"""Model files and data files from the command line: found, matched, exported, replayed."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import qlab
import sample_models
from qlab.cli import load_subject, main
from qlab.cli.explore import DATA, MODEL, OPTIONS
from qlab.cli.files import NOTHING_REAL
from qlab.errors import ArgumentError, QlabError, ShapeError, UnsupportedError
from tests.upload_files import (
    Small,
    export,
    hostile_models,
    nested_archive,
    npz,
    pack,
    png,
    sample_archive,
    small_archive,
    weights,
)

OWN = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, *, scale=None):
        x = self.embed(input_ids)
        if token_type_ids is not None:
            x = x + token_type_ids[..., None]
        x = self.head(x.mean(1))
        return {"logits": x if scale is None else x * scale[:, None]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with files as people have them."""
    sample = sample_models.load("residual")
    (x, labels), *_ = sample.evaluation()
    (tmp_path / "net.pt2").write_bytes(sample_archive("residual", True))
    (tmp_path / "net.safetensors").write_bytes(weights(sample.model))
    (tmp_path / "data.npz").write_bytes(npz(x=x[:70].numpy(), labels=labels[:70].numpy()))
    (tmp_path / "plain.npz").write_bytes(npz(x=x[:70].numpy()))
    images = {
        f"{label}/{index}.png": png((image[0] * 255).round().to(torch.uint8).numpy().repeat(2, 0))
        for index, (image, label) in enumerate(zip(x[:70], labels[:70].tolist(), strict=True))
    }
    (tmp_path / "images.zip").write_bytes(pack(images, ""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lab_of(subject) -> qlab.Lab:
    data = (subject.calibration, subject.evaluation)
    return qlab.Lab(subject.model, subject.example_inputs, *data)


class TestSubjects:
    @pytest.mark.parametrize(
        ("model", "options"), [("net.pt2", {}), ("net.safetensors", {"architecture": "residual"})]
    )
    def test_a_model_of_a_file_measures_as_the_model_does(self, folder, model, options):
        subject = load_subject(model, "data.npz", **options)
        report = lab_of(subject).compare()
        sample = sample_models.load("residual")
        (x, labels), *_ = sample.evaluation()
        own = qlab.Lab(
            sample.model, sample.example_inputs, list(x[:70].split(32)), [(x[:70], labels[:70])]
        ).compare()
        assert report.output["accuracy"] == own.output["accuracy"] > 90
        assert report.output["sqnr"] == pytest.approx(own.output["sqnr"], abs=0.05)
        assert subject.about == "data.npz: 70 samples with labels, " + (
            "input float32 (1, 8, 8)" if options else "x float32 (1, 8, 8)"
        ).replace("x float", "input float")

    def test_without_labels_there_is_no_accuracy(self, folder):
        subject = load_subject("net.pt2", "plain.npz", 40)
        assert subject.evaluation is None
        assert [len(x) for x in subject.calibration] == [32, 8]
        assert "accuracy" not in lab_of(subject).compare().output

    def test_images_become_what_the_model_takes(self, folder):
        subject = load_subject("net.pt2", "images.zip", images={"size": [8, 8], "mean": [0.5]})
        assert subject.calibration[0].shape == (32, 1, 8, 8)
        assert subject.evaluation is not None
        assert "scaled and cropped to 8 × 8 pixels; grey; values from 0 to 1; minus 0.5" in (
            subject.about
        )
        with pytest.raises(QlabError, match=r"does not have the shape|does not run on this data"):
            load_subject("net.pt2", "images.zip")  # they are 16 × 8

    def test_random_inputs_are_called_so(self, folder):
        subject = load_subject("net.pt2", "random", 9)
        assert subject.made_up and subject.about == NOTHING_REAL
        assert [len(x) for x in subject.calibration] == [9]
        assert not load_subject("net.pt2", "data.npz").made_up

    def test_tokens_and_masks(self, folder):
        (folder / "nested.pt2").write_bytes(nested_archive())
        ids = np.random.default_rng(0).integers(0, 7, (40, 6))
        (folder / "tokens.npz").write_bytes(npz(mask=ids > 1, ids=ids))
        subject = load_subject("nested.pt2", "tokens.npz")
        assert list(subject.calibration[0]) == ["ids", "mask"]
        assert np.isfinite(lab_of(subject).compare().output["sqnr"])
        (folder / "tokens.npz").write_bytes(npz(mask=ids > 1, ids=ids + 1))
        with pytest.raises(UnsupportedError, match=r"ids has numbers.*0 to 6.*1 to 7"):
            load_subject("nested.pt2", "tokens.npz")

    def test_a_model_of_one_batch_size_gets_it(self, folder):
        torch.manual_seed(0)
        content = export(Small().eval(), (torch.randn(4, 1, 6, 6),))
        (folder / "four.pt2").write_bytes(content)
        (folder / "x.npz").write_bytes(npz(q=np.zeros((11, 1, 6, 6), "f4")))
        subject = load_subject("four.pt2", "x.npz", 5)
        assert subject.batch == 4 and [len(x) for x in subject.calibration] == [4, 4]
        assert lab_of(subject).compare().samples == 8

    def test_data_that_the_model_cannot_run_on_are_told_of(self, folder):
        sample = sample_models.load("mlp")
        (folder / "mlp.safetensors").write_bytes(weights(sample.model))
        (folder / "x.npz").write_bytes(npz(x=np.zeros((3, 1, 9, 9), "f4")))
        with pytest.raises(ArgumentError, match=r"does not run on this data.*\(3, 1, 9, 9\)"):
            load_subject("mlp.safetensors", "x.npz", architecture="mlp")

    def test_a_sample_model_takes_a_file(self, folder):
        subject = load_subject("residual", "data.npz")
        assert subject.evaluation is not None and len(subject.calibration) == 3

    def test_a_model_of_your_own_takes_a_file_by_the_names_of_its_arguments(
        self, folder, monkeypatch
    ):
        (folder / "own_encoder.py").write_text(OWN)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, "own_encoder", raising=False)
        ids = np.random.default_rng(0).integers(0, 7, (8, 5))
        kinds, scale = ids % 2, np.ones(8, "f4")
        (folder / "tokens.npz").write_bytes(npz(input_ids=ids, token_type_ids=kinds, scale=scale))
        subject = load_subject("own_encoder:Encoder", "tokens.npz")
        assert list(subject.example_inputs) == ["input_ids", "token_type_ids", "scale"]
        lab = lab_of(subject)
        with torch.no_grad():  # the gap before token_type_ids stays one
            expected = subject.model(**subject.calibration[0])["logits"]
            given = lab.convert(qlab.QConfigMapping())(*subject.calibration[0].values())["logits"]
        torch.testing.assert_close(given, expected)
        (folder / "other.npz").write_bytes(npz(a=ids, b=ids))
        with pytest.raises(ArgumentError, match=r"none of the model's arguments.*input_ids"):
            load_subject("own_encoder:Encoder", "other.npz")
        with pytest.raises(ArgumentError, match="no inputs can be made up"):
            load_subject("own_encoder:Encoder", "random")


class TestMistakes:
    @pytest.mark.parametrize(
        ("model", "data", "kind", "message"),
        [
            ("net.pt2", None, ArgumentError, r"comes without data.*--data random"),
            ("none.pt2", "data.npz", ArgumentError, "cannot be read.*No such file"),
            ("folder/none", "data.npz", ArgumentError, "cannot be read"),
            ("net.safetensors", "data.npz", ArgumentError, r"no model.*--architecture resnet18"),
            ("net.onnx", "data.npz", UnsupportedError, r"no ONNX models.*torch\.export\.save"),
            ("net.pth", "data.npz", UnsupportedError, r"is a pickle.*safetensors"),
            ("net.pt2", "data.pkl", UnsupportedError, "is a pickle"),
            ("net.pt2", "none.npz", ArgumentError, "cannot be read"),
            ("net.pt2", "net.safetensors", QlabError, "The data holds no samples"),
            ("net.pt2", "empty.npz", QlabError, "no kind that qlab reads"),
        ],
    )
    def test_are_sentences(self, folder, model, data, kind, message):
        for name in ("net.onnx", "net.pth", "data.pkl"):
            (folder / name).write_bytes(b"\x80\x04.")
        (folder / "empty.npz").write_bytes(b"")
        with pytest.raises(kind, match=message):
            load_subject(model, data)

    def test_other_weights(self, folder):
        with pytest.raises(QlabError, match="not those of mlp"):
            load_subject("net.safetensors", "data.npz", architecture="mlp")
        with pytest.raises(QlabError, match="which holds its own architecture"):
            load_subject("net.pt2", "data.npz", architecture="mlp")

    def test_limits_are_those_of_the_environment(self, folder, monkeypatch):
        monkeypatch.setenv("QLAB_UPLOAD_FILE_BYTES", "1000")
        with pytest.raises(QlabError, match=r"too large.*at most 1000 bytes.*QLAB_UPLOAD_FILE"):
            load_subject("net.pt2", "data.npz")

    def test_images_of_many_sizes(self, folder):
        images = {f"{n}.png": png(np.zeros((n, n), "u1")) for n in (8, 9)}
        (folder / "images.zip").write_bytes(pack(images, ""))
        with pytest.raises(ShapeError, match=r"different sizes.*Name the size"):
            load_subject("net.pt2", "images.zip")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


class TestCommands:
    def test_analyze_a_file(self, folder, capsys):
        code = run(
            "analyze", "net.pt2", "--data", "data.npz", "--json", "--worst", "0",
            "--fail-under", "accuracy=0.9",
        )  # fmt: skip
        document = json.loads(capsys.readouterr().out)
        assert code == 0 and document["evaluation_samples"] == 70
        assert document["data"].startswith("data.npz: 70 samples with labels")
        assert run("analyze", "net.pt2", "--data", "random", "--worst", "0") == 0
        assert NOTHING_REAL in capsys.readouterr().out

    def test_export_of_weights_and_images_is_replayed_to_the_same_integers(
        self, folder, monkeypatch, capsys
    ):
        code = run(
            "export", "net.safetensors", "--architecture", "residual", "--data", "images.zip",
            "--image-size", "8", "--image-mean", "0.25", "--image-std", "0.5", "--samples", "40",
            "-o", "out.safetensors", "-o", "out.py",
        )  # fmt: skip
        assert code == 0
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["out.py", "--output", "again.safetensors"])
        runpy.run_path("out.py", run_name="__main__")
        assert "The same integers" in capsys.readouterr().out
        assert Path("again.safetensors").read_bytes() == Path("out.safetensors").read_bytes()

    def test_explore_hands_files_to_the_server(self, folder, monkeypatch):
        (folder / "small.pt2").write_bytes(small_archive())
        served: list[dict[str, str]] = []
        monkeypatch.setattr(
            "qlab.cli.commands.serve", lambda _, environment: served.append(environment)
        )
        monkeypatch.setenv(DATA, "left over")
        assert run("explore", "small.pt2", "--data", "random") == 0
        assert run("explore", "net.safetensors", "--architecture", "residual", "--data",
                   "images.zip", "--image-size", "8x8") == 0  # fmt: skip
        assert [(e[MODEL], e[DATA]) for e in served] == [
            ("small.pt2", "random"),
            ("net.safetensors", "images.zip"),
        ]
        assert json.loads(served[1][OPTIONS]) == {
            "architecture": "residual",
            "images": {"size": [8, 8]},
        }

    @pytest.mark.parametrize("command", ["analyze", "export", "quantize"])
    def test_a_pickle_is_refused_in_words(self, folder, command, capsys):
        (folder / "net.pt").write_bytes(b"\x80\x04.")
        output = () if command == "analyze" else ("-o", "out.safetensors")
        assert run(command, "net.pt", "--data", "data.npz", *output) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "is a pickle" in told and "safetensors.torch.save_file" in told
        assert "Traceback" not in told


@pytest.mark.parametrize("name", hostile_models())
def test_hostile_files_end_with_a_message(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file, content = hostile_models()[name]
    Path(file).write_bytes(content)
    architecture = ("--architecture", "mlp") if file.endswith("safetensors") else ()
    assert run("analyze", file, "--data", "random", *architecture) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and not printed.out
    assert printed.err.startswith("qlab: ") and len(printed.err) < 9000
    assert [path.name for path in tmp_path.iterdir()] == [file]
