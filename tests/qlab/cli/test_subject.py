"""Models and data are found by the words of the command line; mistakes are told apart."""

import sys
from pathlib import Path

import pytest
import torch

import qlab
from qlab.cli import load_subject
from qlab.cli.subject import OwnCodeError
from qlab.errors import ArgumentError, DTypeError, UnknownNameError

CODE = """
import torch
from torch import nn

READY = nn.Linear(4, 2)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.drop = nn.Dropout()

    def forward(self, x, y, scale=1.0):
        return self.drop(self.fc(x + y))

class Holder:
    @staticmethod
    def model():
        return nn.Sequential(nn.Linear(4, 2), nn.Dropout())

def number(): return 7
def broken(): raise RuntimeError("out of ideas")
def one(): return [torch.ones(6, 4), torch.ones(6, 4)]
def tensor(): return torch.ones(6, 4)
def stream(): return (batch for batch in one())
def pairs(): return [(torch.ones(6, 4), [0, 1, 0, 1, 0, 1])] * 2
def both(): return [(torch.ones(6, 4), torch.ones(6, 4), torch.zeros(6, dtype=torch.long))]
def named(): return [{"y": torch.ones(6, 4), "x": torch.zeros(6, 4), "label": torch.zeros(6)}]
def split(): return {"calibration": one(), "evaluation": pairs()}
def nothing(): return []
def other(): return {"training": one()}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a person's own in the present folder."""
    name = "own_model_code"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


class TestOwnModels:
    @pytest.mark.parametrize("data", ["one", "tensor", "stream", "pairs", "split"])
    @pytest.mark.parametrize("model", ["Holder.model", "READY"])
    def test_they_come_in_eval_mode_with_one_sample_as_an_example(self, own, model, data):
        subject = load_subject(f"{own}:{model}", f"{own}:{data}")
        assert not subject.model.training
        assert [tuple(x.shape) for x in subject.example_inputs] == [(1, 4)]
        assert (subject.evaluation is not None) == (data == "split")

    def test_a_lab_takes_them(self, own):
        subject = load_subject(f"{own}:Holder.model", f"{own}:stream")
        lab = qlab.Lab(subject.model, subject.example_inputs, subject.calibration)
        assert lab.calibrate().samples == 12
        assert lab.compare("int8").samples == 12

    @pytest.mark.parametrize("data", ["both", "named"])
    def test_as_many_inputs_as_forward_requires(self, own, data):
        subject = load_subject(f"{own}:Two", f"{own}:{data}")
        given = subject.example_inputs
        parts = given.values() if isinstance(given, dict) else given
        assert [tuple(x.shape) for x in parts] == [(1, 4), (1, 4)]
        if data == "named":  # in the order of forward, not of the dict
            assert list(subject.example_inputs) == ["x", "y"]

    @pytest.mark.parametrize(("samples", "sizes"), [(1, [1]), (6, [6]), (8, [6, 2]), (99, [6, 6])])
    def test_samples_limits_them(self, own, samples, sizes):
        subject = load_subject(f"{own}:READY", f"{own}:pairs", samples)
        assert [len(inputs) for inputs, _ in subject.calibration] == sizes
        assert [len(labels) for _, labels in subject.calibration] == sizes


class TestMistakes:
    @pytest.mark.parametrize(
        ("model", "data", "error", "message"),
        [
            ("{}:READY", None, ArgumentError, "comes without data"),
            ("{}:number", "{}:one", DTypeError, "number returned no model.*int"),
            ("{}:READY", "{}:number", DTypeError, "number returned no batches"),
            ("{}:READY", "{}:nothing", ArgumentError, "nothing returned no batches"),
            ("{}:READY", "{}:other", ArgumentError, "no calibration data.*training"),
            ("{}:broken", "{}:one", OwnCodeError, "raised RuntimeError: out of ideas"),
            ("{}:brokem", "{}:one", UnknownNameError, "Did you mean 'broken'"),
            ("no_such_module:x", "{}:one", OwnCodeError, "'no_such_module' cannot be imported"),
            ("{}:", "{}:one", ArgumentError, "Not the name of a function"),
        ],
    )
    def test_are_named(self, own, model, data, error, message):
        with pytest.raises(error, match=message):
            load_subject(model.format(own), data and data.format(own))

    def test_a_sample_models_name_may_be_misspelt(self):
        with pytest.raises(UnknownNameError, match=r"Did you mean 'depthwise'"):
            load_subject("deptwise")

    def test_no_samples(self):
        with pytest.raises(ArgumentError, match="Calibration needs samples"):
            load_subject("mlp", samples=0)


def test_a_sample_model_brings_its_data_and_takes_other(own):
    assert sum(len(batch) for batch in load_subject("mlp").calibration) == 256
    subject = load_subject("mlp", f"{own}:tensor")
    assert torch.equal(subject.calibration[0], torch.ones(6, 4))
