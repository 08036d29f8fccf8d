"""Models with embeddings, transposed convolutions and slopes: eager and graph workflows."""

import pytest
import torch
from torch import nn

import qlab.nn.quantized as nnq
from qlab.eager import convert, prepare
from qlab.graph import convert_fx, prepare_fx
from qlab.presets import get
from qlab.qconfig import (
    QConfigMapping,
    default_qconfig,
    float_qparams_weight_only_qconfig,
    get_default_qconfig,
    get_default_qconfig_mapping,
)

INDICES = torch.randint(0, 30, (4, 8))
IMAGES = torch.randn(2, 4, 5, 5)


class Words(nn.Module):
    """Two tables and a layer behind them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 6)
        self.bag = nn.EmbeddingBag(30, 6, mode="sum")
        self.out = nn.Linear(6, 3)

    def forward(self, indices):
        offsets = torch.arange(0, indices.numel(), indices.shape[1])
        bags = self.bag(indices.flatten(), offsets=offsets)
        return self.out(self.words(indices).mean(1) + bags)


class Upscale(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1)
        self.act = nn.PReLU(6)
        self.weight = nn.Parameter(torch.randn(6, 2, 3, 3))

    def forward(self, x):
        return nn.functional.conv_transpose2d(self.act(self.up(x)), self.weight, groups=2)


@torch.no_grad()
def sqnr(expected: torch.Tensor, result: torch.Tensor) -> float:
    noise = (expected - result).square().sum() / expected.square().sum()
    return -10 * noise.log10().item()


def test_tables_in_graphs():
    model = Words().eval()
    mapping = get_default_qconfig_mapping()
    mapping.set_object_type(nn.Embedding, float_qparams_weight_only_qconfig)
    mapping.set_object_type(nn.EmbeddingBag, float_qparams_weight_only_qconfig)
    prepared = prepare_fx(model, mapping, (INDICES,))
    prepared(INDICES)
    converted = convert_fx(prepared)
    kinds = {name: type(module) for name, module in converted.named_modules()}
    assert (kinds["words"], kinds["bag"]) == (nnq.Embedding, nnq.EmbeddingBag)
    assert kinds["out"] is nnq.Linear
    assert sqnr(model(INDICES), converted(INDICES)) > 30


@pytest.mark.parametrize("preset", ["int8", "int8-weights-only"])
def test_presets_leave_tables_in_float_unless_they_ask_for_weights_alone(preset):
    model = Words().eval()
    prepared = prepare_fx(model, get(preset).mapping(), (INDICES,))
    prepared(INDICES)
    converted = convert_fx(prepared)
    quantized = isinstance(converted.words, nnq.Embedding)
    assert quantized == (preset == "int8-weights-only")
    reason = converted.meta["plan"].step("words").reason
    assert ("weight-only qconfig" in reason) and sqnr(model(INDICES), converted(INDICES)) > 30


def test_tables_in_eager_models():
    model = nn.Sequential(nn.EmbeddingBag(30, 6), nn.ReLU()).eval()
    model[0].qconfig = float_qparams_weight_only_qconfig
    converted = convert(prepare(model))
    assert isinstance(converted[0], nnq.EmbeddingBag)
    assert sqnr(model(INDICES), converted(INDICES)) > 40
    model[0].qconfig = default_qconfig
    with pytest.warns(UserWarning, match=r"'0' \(EmbeddingBag\) cannot follow its qconfig"):
        prepared = prepare(model)
    prepared(INDICES)
    assert isinstance(convert(prepared)[0], nn.EmbeddingBag)  # as prepare said


@pytest.mark.parametrize(
    "mapping",
    [get("int8").mapping(), QConfigMapping().set_global(get_default_qconfig("qnnpack"))],
    ids=["per channel", "per tensor"],
)
def test_transposed_convolutions_and_slopes_in_graphs(mapping):
    model = Upscale().eval()
    prepared = prepare_fx(model, mapping, (IMAGES,))
    prepared(IMAGES)
    converted = convert_fx(prepared)
    assert isinstance(converted.up, nnq.ConvTranspose2d) and isinstance(converted.act, nnq.PReLU)
    steps = [step for step in converted.meta["plan"].steps if step.row and step.weight]
    assert {step.execution for step in steps} == {"integer"}
    assert sqnr(model(IMAGES), converted(IMAGES)) > 20


def test_slopes_stay_in_float_where_activations_do():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.PReLU(6)).eval()
    prepared = prepare_fx(model, get("int8-weights-only").mapping(), (IMAGES,))
    converted = convert_fx(prepared)
    step = converted.meta["plan"].step("1")
    assert (step.execution, step.reason) == ("float", "its qconfig leaves activations in float")
    assert sqnr(model(IMAGES), converted(IMAGES)) > 30


def test_a_bag_of_maxima_stays_in_float():
    model = nn.Sequential(nn.EmbeddingBag(30, 6, mode="max")).eval()
    mapping = QConfigMapping().set_global(float_qparams_weight_only_qconfig)
    prepared = prepare_fx(model, mapping, (INDICES,))
    converted = convert_fx(prepared)
    assert "mode 'sum' or 'mean'" in converted.meta["plan"].step("0").reason
    assert torch.equal(converted(INDICES), model(INDICES))
