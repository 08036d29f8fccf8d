"""Dynamic qconfigs in the graph workflow: the same integers as `quantize_dynamic` gives."""

import copy

import pytest
import torch
from torch import nn

import qlab
from qlab.eager import quantize_dynamic
from qlab.errors import UnsupportedError
from qlab.graph import convert_fx, prepare_fx
from qlab.io.checkpoint import load_quantized, save_quantized
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic.quantized.dynamic import LinearReLU
from qlab.nn.quantized import dynamic as nnqd
from qlab.qconfig import (
    QConfig,
    QConfigMapping,
    default_dynamic_qconfig,
    default_qconfig,
    float16_dynamic_qconfig,
    per_channel_dynamic_qconfig,
)

QCONFIGS = [default_dynamic_qconfig, per_channel_dynamic_qconfig, float16_dynamic_qconfig]


class Tagger(nn.Module):
    """Features to tags, with states handed in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 8, num_layers=2)
        self.gru = nn.GRU(8, 8, bidirectional=True)
        self.hidden = nn.Linear(16, 8)
        self.relu = nn.ReLU()
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, (_, c) = self.rnn(x, hx=(h, h))
        y, _ = self.gru(y)
        return self.out(self.relu(self.hidden(y))), c


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, 3, 6), torch.randn(2, 3, 8)


@pytest.mark.parametrize("qconfig", QCONFIGS, ids=["per_tensor", "per_channel", "float16"])
def test_the_graph_gives_what_quantize_dynamic_gives(qconfig):
    model = Tagger().eval()
    before = copy.deepcopy(model.state_dict())
    mapping = QConfigMapping().set_global(qconfig)
    converted = convert_fx(prepare_fx(model, mapping, inputs()))
    eager = quantize_dynamic(model, {"": qconfig})
    for x in (inputs(), inputs()):
        for got, want in zip(converted(*x), eager(*x), strict=True):
            assert torch.equal(got, want)
    kinds = [type(converted.get_submodule(name)) for name in ("rnn", "gru", "hidden", "out")]
    assert kinds == [nnqd.LSTM, nnqd.GRU, LinearReLU, nnqd.Linear]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("qconfig", "weight", "reason"),
    [
        (default_dynamic_qconfig, "int8", "int8 weight, input quantized in every call"),
        (float16_dynamic_qconfig, "float", "float16 weight, float arithmetic"),
    ],
)
def test_the_plan_tells(qconfig, weight, reason):
    plan = prepare_fx(Tagger(), QConfigMapping().set_global(qconfig), inputs()).meta["plan"]
    frame = plan.to_frame()
    for name in ("rnn", "gru", "hidden", "out"):
        assert frame.loc[name, "execution"] == "dynamic"
        assert reason in frame.loc[name, "reason"] and plan.step(name).output is None
    assert frame.loc["out", "weight"].startswith(weight)
    assert plan.values == ()


def test_static_and_dynamic_layers_in_one_graph():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    mapping = QConfigMapping().set_global(default_qconfig)
    mapping = mapping.set_module_name("2", default_dynamic_qconfig)
    prepared = prepare_fx(model, mapping, torch.randn(4, 6))
    x = torch.randn(64, 6)
    prepared(x)
    converted = convert_fx(prepared)
    kinds = {type(module) for module in converted.modules()}
    assert {nnqd.Linear, nnq.Linear} <= kinds
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0.1)


def test_what_has_no_dynamic_form_stays_in_float_and_says_so():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 2))
    mapping = QConfigMapping().set_global(default_dynamic_qconfig)
    converted = convert_fx(prepare_fx(model, mapping, torch.randn(1, 1, 2, 2)))
    plan = converted.meta["plan"]
    assert plan.step("0").execution == "float" and "dynamic qconfig" in plan.step("0").reason
    assert type(converted.get_submodule("2")) is nnqd.Linear


def test_a_qconfig_without_weights_leaves_the_layer_in_float():
    mapping = QConfigMapping().set_global(QConfig(default_dynamic_qconfig.activation, nn.Identity))
    converted = convert_fx(prepare_fx(nn.Sequential(nn.Linear(4, 2)), mapping, torch.ones(1, 4)))
    step = converted.meta["plan"].steps[0]
    assert (step.execution, step.reason) == ("float", "its qconfig leaves the weight in float")


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_layer_that_cannot_be_converted_is_named():
    model = nn.Sequential(nn.LSTM(4, 6, proj_size=2))
    mapping = QConfigMapping().set_global(default_dynamic_qconfig)
    prepared = prepare_fx(model, mapping, torch.ones(3, 1, 4))
    with pytest.raises(UnsupportedError, match=r"layer '0' \(LSTM\).*projections"):
        convert_fx(prepared)


@pytest.mark.parametrize("qconfig", QCONFIGS[::2], ids=["int8", "float16"])
def test_dynamic_linear_layers_are_saved_and_loaded(tmp_path, qconfig):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    mapping = QConfigMapping().set_global(qconfig)
    converted = convert_fx(prepare_fx(model, mapping, torch.randn(2, 6)))
    save_quantized(converted, tmp_path / "model.safetensors")
    x = torch.randn(5, 6)
    assert torch.equal(load_quantized(tmp_path / "model.safetensors")(x), converted(x))


def test_lab_measures_a_dynamic_mapping():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    data = [torch.randn(16, 6) for _ in range(2)]
    lab = qlab.Lab(model, data[0], data, evaluation=data)
    lab.calibrate()
    report = lab.compare(QConfigMapping().set_global(default_dynamic_qconfig))
    assert report.output["sqnr"] > 25 and report.integer_share > 0
    half = lab.compare(QConfigMapping().set_global(float16_dynamic_qconfig))
    assert half.output["sqnr"] > 60 and half.integer_share == 0
