"""Weights in safetensors go into the architecture that they belong to."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from safetensors.torch import save
from torch import nn

import qlab
import sample_models
from qlab.errors import ArgumentError, FormatError, UnknownNameError
from qlab.io.uploads import architecture_names, open_model
from tests.upload_files import Small, weights


@pytest.mark.parametrize("name", sample_models.names(trained=True))
def test_sample_models_by_name(name: str) -> None:
    sample = sample_models.load(name)
    content = weights(sample.model)
    model = qlab.load_model(content, name)
    x = torch.cat(sample.calibration(2, 2))
    assert torch.equal(model(x), sample.model(x))


def test_a_module_or_a_function_as_architecture() -> None:
    source = Small()
    nn.init.constant_(source.fc.bias, 7)
    for architecture in (Small(), Small, lambda: Small()):
        model = qlab.load_model(weights(source), architecture)
        assert isinstance(model, Small) and not model.training
        assert model.fc.bias.tolist() == [7, 7, 7] and not model.fc.bias.requires_grad
    with pytest.raises(ArgumentError, match="The architecture is no model"):
        qlab.load_model(weights(source), lambda: 3)  # type: ignore[arg-type,return-value]


def test_libraries_are_asked_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get_model(name: str, weights: object) -> nn.Module:
        asked.append((name, weights))
        return Small()

    def create_model(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        made = Small()
        made.default_cfg = {"input_size": (1, 9, 7)}  # type: ignore[assignment]
        return made

    listed: list[object] = []

    def list_models(module: object) -> list[str]:
        listed.append(module)
        return ["net_a"]

    transforms = types.SimpleNamespace(crop_size=[6])
    weights_of = types.SimpleNamespace(DEFAULT=types.SimpleNamespace(transforms=lambda: transforms))
    models = types.SimpleNamespace(
        list_models=list_models, get_model=get_model, get_model_weights=lambda _: weights_of
    )
    vision = types.ModuleType("torchvision")
    vision.models = models  # type: ignore[attr-defined]
    timm = types.ModuleType("timm")
    timm.list_models = lambda: ["net_b"]  # type: ignore[attr-defined]
    timm.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    monkeypatch.setitem(sys.modules, "timm", timm)
    opened = open_model(weights(Small()), "net_a")
    assert opened.example_inputs[0].shape == (1, 3, 6, 6)
    assert [str(each) for each in opened.inputs] == ["x float32 (N, 3, *, *)"]
    opened = open_model(weights(Small()), "net_b")
    assert opened.example_inputs[0].shape == (1, 1, 9, 7)
    assert asked == [("net_a", None), ("net_b", False)]
    assert architecture_names()["torchvision"] == ("net_a",)
    # Its other modules fetch weights, or take lists of images.
    assert all(module is models for module in listed)
    with pytest.raises(UnknownNameError, match=r"net_a, net_b\. Did you mean 'net_b'"):
        qlab.load_model(weights(Small()), "netb")


def test_other_weights_are_told_apart() -> None:
    tensors = {"fc.weight": torch.zeros(3, 3), "head.bias": torch.zeros(1)}
    import safetensors.torch

    with pytest.raises(FormatError, match=r"not those of Small.*missing.*head\.bias.*\(3, 3\) ins"):
        qlab.load_model(safetensors.torch.save(tensors), Small)


def test_weights_need_an_architecture() -> None:
    with pytest.raises(ArgumentError, match="Weights alone are no model"):
        qlab.load_model(weights(Small()))


def test_a_number_is_no_architecture():
    with pytest.raises(ArgumentError, match=r"no model.*a name.*int"):
        qlab.load_model(save({"x": torch.zeros(1)}), architecture=0)


def test_integers_in_place_of_floats_are_no_weights() -> None:
    codes = {k: v.long() if k == "fc.weight" else v for k, v in Small().state_dict().items()}
    message = r"1 of another dtype \(\['fc.weight: int64 instead of float32'\]\).*save them as"
    with pytest.raises(FormatError, match=message):
        qlab.load_model(save(codes), Small)


def test_floats_of_another_width_are_weights() -> None:
    source = Small()
    doubled = {
        k: v.double() if v.is_floating_point() else v for k, v in source.state_dict().items()
    }
    model = qlab.load_model(save(doubled), Small)
    assert torch.equal(model.fc.weight, source.fc.weight) and model.fc.weight.dtype == torch.float32
