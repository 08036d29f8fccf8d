"""Ordinary archives load and give what the model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import qlab
import sample_models
from qlab.errors import FormatError, ShapeError, UnsupportedError
from qlab.graph import trace
from qlab.io.uploads import Limits, UploadedInput, UploadedModel
from qlab.io.uploads.models import assemble, unpack
from tests.upload_files import (
    export,
    nested_archive,
    nested_model,
    sample_archive,
    small_archive,
)

LIMITS = Limits()


def read_here(content: bytes) -> UploadedModel:
    """As `uploads.read`, without a process of its own."""
    return assemble(*unpack(content, LIMITS), LIMITS)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", sample_models.names())
def test_sample_models_give_the_same_numbers(name: str, dynamic: bool) -> None:
    sample = sample_models.load(name)
    read = read_here(sample_archive(name, dynamic))
    x = torch.cat(sample.calibration(3, 3))[: 3 if dynamic else 1, :, :64, :64]
    with torch.no_grad():
        assert torch.equal(read.model(x), sample.model(x))
    assert read.inputs == (
        UploadedInput(read.inputs[0].name, (None if dynamic else 1, *x.shape[1:]), x.dtype),
    )


@pytest.mark.parametrize("name", ["residual", "vit", "norms", "mobilenet_v2"])
def test_layers_come_back_under_their_names(name: str) -> None:
    sample = sample_models.load(name)
    example = (sample.example_inputs[0][..., :64, :64],)
    own = trace(sample.model, example)
    read = trace(read_here(sample_archive(name, True)).model, example)

    def layers(graph: Any) -> dict[str, type]:
        calls = [n for n in graph.graph.nodes if n.op == "call_module"]
        return {n.meta["name"]: type(graph.get_submodule(n.target)) for n in calls}

    assert layers(read) == layers(own)


def test_a_lab_of_an_upload_says_what_that_of_the_model_says() -> None:
    sample = sample_models.load("residual")
    data = sample.calibration(32, 16)
    reports = [
        qlab.Lab(model, sample.example_inputs, data).compare()
        for model in (sample.model, read_here(sample_archive("residual", True)).model)
    ]
    assert reports[0].output == reports[1].output
    assert list(reports[0].layers.index) == list(reports[1].layers.index)


def test_nested_inputs_and_outputs_sizes_and_masks() -> None:
    read = read_here(nested_archive())
    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [0, 1, 2]])
    mask = torch.tensor([[True, True, False]] * 3)
    expected, received = nested_model()(ids, mask=mask), read.model(ids, mask)
    torch.testing.assert_close(received, expected, rtol=0, atol=1e-6)
    assert [i.name for i in read.inputs] == ["ids", "mask"]
    linears = [k for k, m in read.model.named_modules() if isinstance(m, nn.Linear)]
    assert linears == ["attention.out_proj", "head"]
    names = [n.meta["name"] for n in trace(read.model, read.example_inputs).graph.nodes]
    assert "attention.in_proj" in names


def test_the_sizes_that_a_program_was_made_for_are_checked() -> None:
    read = read_here(small_archive())
    with pytest.raises(ShapeError, match=r"Expected shape \(any, 1, 6, 6\)"):
        read.model(torch.zeros(2, 1, 7, 7))


def test_a_bound_of_a_dynamic_axis_is_kept() -> None:
    shapes = ({0: Dim("batch", min=3, max=5)},)
    content = export(nn.Linear(2, 2).eval(), (torch.zeros(4, 2),), dynamic_shapes=shapes)
    graph = read_here(content).model
    assert graph(torch.zeros(5, 2)).shape == (5, 2)
    with pytest.raises(ShapeError, match=r"Expected shape \(3 to 5, 2\)"):
        graph(torch.zeros(6, 2))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Any) -> Any:
        return self.b(self.a(x).relu_())


def test_tied_weights_and_writing_in_place() -> None:
    model = _Tied().eval()
    read = read_here(export(model, (torch.zeros(2, 3),)))
    x = torch.randn(2, 3)
    assert torch.equal(read.model(x), model(x))
    assert x.isfinite().all() and not [n for n in read.model.graph.nodes if "_." in str(n.target)]


class _Alias(nn.Module):
    def forward(self, x: Any) -> Any:
        y = x + 0
        view = y.view(-1)
        y.relu_()
        return view * 2


def test_writing_through_a_view_is_refused() -> None:
    with pytest.raises(FormatError, match="overwrites a tensor that it reads again by another"):
        read_here(export(_Alias().eval(), (torch.randn(2, 3) - 1,)))


def test_a_model_in_training_mode_is_refused() -> None:
    content = export(nn.BatchNorm1d(3).train(), (torch.randn(4, 3),))
    with pytest.raises((FormatError, UnsupportedError), match=r"Call model\.eval\(\) before"):
        read_here(content)


@pytest.mark.parametrize("preset", ["int8", "int4-weights"])
def test_what_an_upload_becomes_can_be_saved_and_read_back(preset: str, tmp_path: Path) -> None:
    read = read_here(nested_archive())
    ids = torch.randint(0, 7, (8, 5), generator=torch.Generator().manual_seed(0))
    batch = {"ids": ids, "mask": ids > 1}
    lab = qlab.Lab(read.model, read.example_inputs, [batch])
    path = lab.export(tmp_path / "model.safetensors", preset)
    assert lab.identical(lab.convert(preset), qlab.load_quantized(path), batch)
    assert not lab.identical(lab.convert(preset), lab.convert(qlab.QConfigMapping()), batch)
    again = qlab.load_lab(lab.save(tmp_path / "lab.qlab"), calibration=[batch])
    mine, other = (each.compare(preset).output["sqnr"] for each in (lab, again))
    assert other == pytest.approx(mine, abs=1e-4)
