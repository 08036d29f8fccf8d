"""How far a transformed float network is from what it was, on data that nobody fitted it to."""

import re

import pytest
import torch
from torch import nn

import qlab
import sample_models


def test_the_note_of_equalization_tells_the_difference_on_test_images():
    sample = sample_models.load("depthwise")
    evaluation = sample.evaluation()
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), evaluation)
    repaired = lab.repair_with("equalize", "int8-per-tensor")
    (note,) = repaired.report.notes
    x = torch.cat([images for images, _ in evaluation])
    before, after = lab.graph(x), repaired.model(x)
    off = (before - after).abs().amax(1) / before.abs().max()
    said = re.search(r"up to ([\d.e-]+) of the largest, on (\d+) of (\d+) samples", note)
    assert said is not None
    assert float(said[1]) == pytest.approx(float(off.max()), rel=0.1)
    assert int(said[2]) == pytest.approx(int((off > 1e-4).sum()), abs=2) and int(said[2]) > 0
    assert int(said[3]) == len(x)
    assert note in repaired.report.describe()


def linears(act: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 3)).eval().requires_grad_(False)
    model[0].weight *= torch.tensor([0.02, 0.1, 1.0, 1.0])[:, None]
    return model


@pytest.mark.parametrize("labelled", [True, False])
def test_clips_that_only_data_not_seen_reaches_are_told(labelled):
    model, seen = linears(nn.ReLU6()), torch.randn(64, 4)
    unseen = [(seen * 30, torch.zeros(64, dtype=torch.long))] if labelled else None
    lab = qlab.Lab(model, (seen[:1],), [seen], unseen)
    (note,) = lab.repair_with("equalize", "int8-per-tensor", absorb=False).report.notes
    assert "by ReLU6 kept:" in note
    share = float(re.search(r"up to ([\d.e-]+) of", note)[1])  # pyright: ignore[reportOptionalSubscript]
    assert ("evaluation data" in note and share > 1e-3) if labelled else share < 1e-5
    assert labelled or "calibration data" in note


def test_absorbed_biases_are_told():
    model, seen = linears(nn.ReLU()), torch.randn(64, 4)
    model[0].bias += 20
    unseen = [(seen * 300, torch.zeros(64, dtype=torch.long))]
    lab = qlab.Lab(model, (seen[:1],), [seen], unseen)
    (note,) = lab.repair_with("equalize", "int8-per-tensor").report.notes
    assert "by absorbed biases:" in note and not note.endswith("on 0 of 64 samples by more than")
    assert float(re.search(r"up to ([\d.e-]+) of", note)[1]) > 1e-3  # pyright: ignore[reportOptionalSubscript]


def test_the_same_function_everywhere_needs_no_note():
    seen = torch.randn(64, 4)
    lab = qlab.Lab(linears(nn.ReLU()), (seen[:1],), [seen])
    assert lab.repair_with("equalize", "int8-per-tensor", absorb=False).report.notes == ()
