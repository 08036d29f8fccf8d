"""Weights out of two state dicts."""

import pytest
import torch
from torch import nn

import qlab
from qlab import quantization as tq
from qlab.analysis.suite.metrics import compute_sqnr
from qlab.analysis.suite.state_dicts import compare_weights
from qlab.errors import ArgumentError
from qlab.qtensor import QTensor
from tests.golden.ns_cases import Recurrent


def quantized(model: nn.Module, x: torch.Tensor, qconfig=None) -> tuple[nn.Module, nn.Module]:
    model = nn.Sequential(tq.QuantStub(), model, tq.DeQuantStub()).eval()
    model.qconfig = qconfig or tq.get_default_qconfig("onednn")
    prepared = tq.prepare(model)
    prepared(x)
    return model, tq.convert(prepared)


def both(model: nn.Module, converted: nn.Module):
    return compare_weights(model.state_dict(), converted.state_dict())


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1), nn.ConvTranspose2d(4, 3, 1)]
)
def test_scales_lie_along_the_right_axis(layer):
    with torch.no_grad():
        layer.weight *= torch.logspace(-3, 0, 4).reshape(4, 1, 1, 1)
    model, converted = quantized(layer, torch.randn(2, 4, 5, 5))
    (found,) = both(model, converted).values()
    assert torch.equal(found["float"], layer.weight)
    weight = converted[1].weight()
    assert found["quantized"].qparams.granularity == weight.qparams.granularity
    assert torch.equal(found["quantized"].dequantize(), weight.dequantize())


def test_square_weights_with_scales_along_the_second_axis():
    weight = torch.randn(4, 4) * torch.logspace(-3, 0, 4)
    given = qlab.quantize_per_channel(
        weight, weight.abs().amax(0) / 127, torch.zeros(4, dtype=torch.int32), 1, qlab.qint8
    )
    codes = {
        "fc.weight_codes": given.codes,
        "fc.weight_scale": given.qparams.scale,
        "fc.weight_zero_point": given.qparams.zero_point,
    }
    found = compare_weights({"fc.weight": weight}, codes)["fc.weight"]["quantized"]
    assert torch.equal(found.dequantize(), given.dequantize())


def test_dynamic_recurrent_and_float16_layers():
    model = Recurrent()
    dynamic = tq.quantize_dynamic(model)
    found = both(model, dynamic)
    assert list(found) == ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc.weight"]
    assert torch.equal(found["lstm.weight_hh_l0"]["float"], model.lstm.weight_hh_l0)
    assert min(compute_sqnr(w["float"], w["quantized"]) for w in found.values()) > 40
    half = both(model, tq.quantize_dynamic(model, dtype=torch.float16))
    assert not isinstance(half["fc.weight"]["quantized"], QTensor)
    assert compute_sqnr(half["fc.weight"]["float"], half["fc.weight"]["quantized"]) > 60


def test_embeddings_and_what_stayed_float():
    model = nn.ModuleDict({"words": nn.Embedding(8, 6), "head": nn.Linear(6, 2)})
    model["words"].qconfig = tq.float_qparams_weight_only_qconfig
    found = both(model, tq.convert(tq.prepare(model)))
    assert compute_sqnr(*found["words.weight"].values()) > 40
    assert found["head.weight"]["float"] is not None
    assert torch.equal(*found["head.weight"].values())


def test_a_fused_float_model_has_its_weight_one_level_deeper():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    fused = tq.fuse_modules(model.eval(), [["0", "1"]])
    whole, converted = quantized(fused, torch.randn(2, 4))
    found = both(whole, converted)
    assert list(found) == ["1.0.weight"]
    assert torch.equal(found["1.0.weight"]["float"], model[0].weight)


def test_nothing_in_common():
    with pytest.raises(ArgumentError, match=r"no weight in common.*keys such as weight, bias"):
        compare_weights(nn.Linear(2, 2).state_dict(), {"other.scale": torch.ones(1)})
