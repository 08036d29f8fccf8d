"""The command line's own model is on offer beside the sample models, and only that one."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sample_models
from pages.common import models
from tests.pages.harness import metrics, open_page, settle
from tests.upload_files import npz, weights

CODE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

def data():
    torch.manual_seed(1)
    return [(torch.randn(16, 6), torch.arange(16) % 3)] * 2

def unlabelled():
    return {"calibration": [torch.ones(8, 6)], "evaluation": data()}
"""
NAME = "my_own_code:model"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that `qlab explore` started on a model of a person's own."""
    (tmp_path / "my_own_code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("QLAB_EXPLORE_MODEL", NAME)
    monkeypatch.setenv("QLAB_EXPLORE_DATA", "my_own_code:data")
    models._load_own.cache_clear()
    yield NAME
    models._load_own.cache_clear()
    sys.modules.pop("my_own_code", None)


def test_without_one_the_sample_models_are_on_offer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("QLAB_EXPLORE_MODEL", raising=False)
    assert tuple(models.offered()) == sample_models.names()
    assert models.greeting() == "depthwise"


def test_it_comes_first_and_greets(own: str):
    assert tuple(models.offered()) == (NAME, *sample_models.names())
    assert models.greeting() == NAME
    assert models.load(NAME) is models.load(NAME)
    assert models.load("mlp").name == "mlp"


def test_no_other_code_can_be_named(own: str):
    with pytest.raises(KeyError, match="Unknown sample model 'my_own_code:data'"):
        models.load("my_own_code:data")
    page = open_page("model", model="my_own_code:data")
    assert page.selectbox(key="model").value != "my_own_code:data"


def test_its_batches_are_those_of_the_loader(own: str, monkeypatch: pytest.MonkeyPatch):
    mine = models.load(NAME)
    assert [len(x) for x, _ in mine.calibration(20)] == [16, 4]
    assert [len(x) for x, _ in mine.calibration(20, 12)] == [12, 4, 4]
    assert [len(labels) for _, labels in mine.evaluation()] == [16, 16]
    monkeypatch.setenv("QLAB_EXPLORE_DATA", "my_own_code:unlabelled")
    models._load_own.cache_clear()
    split = models.load(NAME)
    assert torch.equal(split.calibration(4)[0], torch.ones(4, 6))
    assert len(split.evaluation()) == 2


@pytest.mark.parametrize("name", ["overview", "model", "configure", "layer", "convert"])
def test_every_page_shows_it(own: str, name: str):
    page = open_page(name, model=NAME, samples=32)
    assert page.selectbox(key="model").value == NAME
    assert not page.error
    if name == "overview":
        assert "dB" in " ".join(metrics(page).values())


def test_its_integer_model_is_converted_and_read_back(own: str):
    page = open_page("convert", model=NAME, samples=32)
    settle(page.button(key="convert").click().run())
    assert "identical outputs on 16 images" in page.success[0].value


@pytest.mark.parametrize("data", ["digits.npz", "random"])
def test_files_from_the_command_line_are_shown_too(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sample = sample_models.load("residual")
    (x, labels), *_ = sample.evaluation()
    name = f"net-{data}.safetensors"  # results are kept by name
    (tmp_path / name).write_bytes(weights(sample.model))
    (tmp_path / "digits.npz").write_bytes(npz(x=x[:40].numpy(), labels=labels[:40].numpy()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QLAB_EXPLORE_MODEL", name)
    monkeypatch.setenv("QLAB_EXPLORE_DATA", data)
    monkeypatch.setenv("QLAB_EXPLORE_OPTIONS", json.dumps({"architecture": "residual"}))
    models._load_own.cache_clear()
    page = open_page("overview", model=name, samples=32)
    assert not page.error
    shown = " ".join(caption.value for caption in page.caption)
    assert ("40 samples" in shown) == (data != "random")
    assert ("random samples" in shown) == (data == "random") == ("Random noise" in shown)
    assert ("Accuracy" in " ".join(metrics(page))) == (data != "random")
    models._load_own.cache_clear()
