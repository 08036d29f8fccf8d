"""Labs of models that have no graph: the same answers, layer by layer, through hooks."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab import QConfigMapping, TensorSpec, presets
from qlab.analysis.hooked import ModuleStudy, QuantizedOnItsOwn
from qlab.dtypes import integer, qint8
from qlab.errors import (
    ArgumentError,
    NonFiniteError,
    UncalibratedError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.qconfig import default_dynamic_qconfig
from tests.qlab.analysis.test_sensitivity import measuring

torch.manual_seed(0)
BATCHES = [torch.randn(16, 8) for _ in range(3)]


@pytest.fixture(autouse=True)
def no_gradients():
    """A float of what needs a gradient makes torch warn."""
    with torch.no_grad():
        yield


def layers(*sizes: int) -> list[nn.Module]:
    return [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]


class Branches(nn.Module):
    """A data-dependent if."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = layers(8, 16)[0], nn.Linear(16, 4), nn.Linear(16, 4)
        self.never = nn.Linear(2, 2)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        if float(x[0, 0]) > 5.0:
            return self.right(x)
        return self.left(x)


class Loops(nn.Module):
    """A while loop over what it computes, and one ReLU for all, in place."""

    def __init__(self):
        super().__init__()
        self.enter, self.step, self.leave = layers(8, 16, 16, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.enter(x))
        count = 0
        while count < 1 or (float(x.abs().mean()) > 1e-3 and count < 3):
            x = self.act(self.step(x))
            count += 1
        return self.leave(x)


class ReadsItem(nn.Module):
    """Loops as often as a tensor says."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = layers(8, 8, 4)

    def forward(self, x):
        for _ in range(int((x > -100).any().item()) + 1):
            x = self.fc(x)
        return self.head(x)


class ThroughNumpy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = layers(8, 8, 4)

    def forward(self, x):
        x = torch.from_numpy(np.tanh(self.fc(x).detach().numpy()))
        return self.head(x)


class Rounds(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.round(x.detach().numpy(), 2))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class OwnGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = layers(8, 8, 4)

    def forward(self, x):
        return self.head(Rounds.apply(self.fc(x)))


UNTRACEABLE = [Branches, Loops, ReadsItem, ThroughNumpy, OwnGradient]


def core() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(8, 16),
        nn.GELU(),
        nn.LayerNorm(16),
        nn.Linear(16, 16),
        nn.ELU(),
        nn.Linear(16, 4),
    )


class Opaque(nn.Module):
    """The layers of `core`, called one by one, in a way that has no graph."""

    def __init__(self, net: nn.Sequential):
        super().__init__()
        self.net = net

    def forward(self, x):
        for layer in self.net:
            x = layer(x)
            if math.isnan(float(x.sum())):
                raise ValueError("NaN")
        return x


def pair_of_labs(**options) -> tuple[qlab.Lab, qlab.Lab]:
    traced = qlab.Lab(core(), BATCHES[0], BATCHES, **options)
    hooked = qlab.Lab(Opaque(core()), BATCHES[0], BATCHES, **options)
    assert traced.traced and not hooked.traced
    return traced, hooked


def lab_of(kind: type[nn.Module]) -> qlab.Lab:
    torch.manual_seed(2)
    return qlab.Lab(kind(), BATCHES[0], BATCHES)


@pytest.mark.parametrize("kind", UNTRACEABLE)
def test_a_model_without_a_graph_is_worked_on_layer_by_layer(kind):
    lab = lab_of(kind)
    assert not lab.traced
    error = lab.trace_error
    assert error is not None and error.line is not None and error.file is not None
    assert error.file == __file__
    code, first = inspect.getsourcelines(Rounds if kind is OwnGradient else kind)
    assert first < error.line < first + len(code)
    report = lab.compare("int8")
    linear = [layer.name for layer in lab.layers if layer.quantizable]
    assert set(report.layers.index) <= set(linear)
    assert (report.layers.execution == "integer").all()
    assert report.layers.sqnr_local.min() > 30.0
    assert report.layers.sqnr_accumulated.min() > 20.0
    assert report.output["sqnr"] > 20.0
    assert report.samples == 48 and report.complete
    assert report.size.ratio > 1.3


@pytest.mark.parametrize("kind", UNTRACEABLE)
@pytest.mark.parametrize("preset", ["int8", "int8-weights-only", "int4-weights", "float8"])
def test_the_converted_model_gives_the_output_that_was_compared(kind, preset):
    lab, x = lab_of(kind), BATCHES[0]
    lab = qlab.Lab(lab._study.model, x, [x]) if isinstance(lab._study, ModuleStudy) else lab
    report, converted = lab.compare(preset), lab.convert(preset)
    expected, given = lab._study.model(x), converted(x)
    noise = ((expected - given) ** 2).sum()
    measured = 10 * torch.log10((expected**2).sum() / noise)
    assert measured.item() == pytest.approx(report.output["sqnr"], abs=1e-3)


@pytest.mark.parametrize("preset", ["int8", "int8-per-tensor", "int8-weights-only", "float8"])
def test_errors_are_those_of_a_traced_lab(preset):
    traced, hooked = (lab.compare(preset) for lab in pair_of_labs())
    hooked.layers.index = hooked.layers.index.str.removeprefix("net.")
    common = list(traced.layers.columns)
    assert list(hooked.layers.index) == list(traced.layers.index)
    assert list(hooked.layers.columns) == [*common, "calls", "calls_apart"]
    assert hooked.outputs.equals(traced.outputs)
    columns = [
        c for c in common if c.endswith(("_local", "_accumulated", "_ideal", "_bytes", "_share"))
    ]
    for column in columns:
        assert hooked.layers[column].tolist() == pytest.approx(
            traced.layers[column].tolist(), nan_ok=True
        ), column
    assert hooked.output == pytest.approx(traced.output)
    assert hooked.layers.execution.tolist() == traced.layers.execution.tolist()
    assert hooked.coverage == traced.coverage
    assert hooked.size.float_bytes == traced.size.float_bytes
    scales = traced.size.quantized_bytes - hooked.size.quantized_bytes  # at the graph's entry
    assert 0 <= scales <= 32


def test_statistics_scales_and_policies_are_those_of_a_traced_lab():
    traced, hooked = pair_of_labs()
    spec = TensorSpec(integer(4, signed=False))
    for name in ("0", "1", "2", "3"):
        for kind in ("activation", "input"):
            a, b = (lab.statistics(n, kind) for lab, n in ((traced, name), (hooked, f"net.{name}")))
            assert (a.min_val, a.max_val, a.count) == (b.min_val, b.max_val, b.count)
            scales = traced.qparams(name, spec, kind), hooked.qparams(f"net.{name}", spec, kind)
            assert repr(scales[0]) == repr(scales[1])
        assert traced.policies(name, spec) == hooked.policies(f"net.{name}", spec)
    assert torch.equal(traced.weight("3"), hooked.weight("net.3"))
    weight = TensorSpec(qint8, symmetric=True)
    scales = traced.qparams("3", weight, "weight"), hooked.qparams("net.3", weight, "weight")
    assert torch.equal(scales[0].scale, scales[1].scale)


def test_what_if_is_that_of_a_traced_lab():
    traced, hooked = pair_of_labs()
    coarse = TensorSpec(integer(4, signed=True), symmetric=True)
    for options in ({}, {"weight": coarse}):
        a, b = traced.what_if("3", **options), hooked.what_if("net.3", **options)
        assert a.output_sqnr == pytest.approx(b.output_sqnr)
        assert (a.weight_error, a.activation_error) == (b.weight_error, b.activation_error)
        assert (a.samples, a.execution) == (b.samples, b.execution)


def test_a_layer_called_several_times_has_one_set_of_statistics():
    lab = lab_of(Loops)
    lab.calibrate()
    stats = lab.statistics("step")
    assert stats.count == 3 * 3 * 16 * 16  # batches, calls, samples, features
    assert stats.batch_index.tolist() == [0, 1, 2]
    report = lab.compare("int8")
    assert report.layers.loc["step", "calls"] == 9
    assert report.layers.loc["step", "calls_apart"] == 0


def test_layers_say_what_is_not_traced_and_what_is_never_called():
    lab = lab_of(Branches)
    reasons = {layer.name: (layer.type, layer.quantizable, layer.reason) for layer in lab.layers}
    assert reasons["first"] == ("Linear", True, "uint8 × int8 → uint8")
    assert reasons["never"][1:] == (False, "never called for the example inputs")
    assert reasons["right"][1:] == (False, "never called for the example inputs")
    kind, quantizable, reason = reasons["forward"]
    assert (kind, quantizable) == ("Branches", False)
    assert "stays in float" in reason
    assert lab.layer("left").input_shape == (16, 16)


def test_what_calibration_never_calls_stays_in_float():
    torch.manual_seed(3)
    model = Branches()

    class Switches(Branches):
        def forward(self, x):
            y = torch.tanh(self.first(x))
            return self.right(y) if float(x[0, 0]) > 5.0 else self.left(y)

    model.__class__ = Switches
    example = torch.full((16, 8), 6.0)
    lab = qlab.Lab(model, example, BATCHES)
    assert lab.layer("right").quantizable
    lab.calibrate()
    assert lab.plan().step("right").reason == "never called by the calibration data"
    assert lab.plan().step("right").execution == "float"
    assert "right" not in lab.compare().layers.index
    assert isinstance(lab.convert().right, nn.Linear)
    with pytest.raises(UncalibratedError, match="no floating-point tensor"):
        lab.statistics("right")


def test_a_quantized_network_that_goes_another_way_is_said_to():
    class Repeats(nn.Module):
        """Calls a layer again while a sum lies above a bound that rounding moves it over."""

        def __init__(self):
            super().__init__()
            self.fc, self.head = layers(8, 8, 4)

        def forward(self, x):
            y = self.fc(x)
            if float(y.sum()) == float(self.bound):
                y = self.fc(y)
            return self.head(y)

    torch.manual_seed(4)
    model, x = Repeats(), BATCHES[0]
    model.bound = model.fc(x).sum().item()
    lab = qlab.Lab(model, x, [x])
    report = lab.compare("int8")
    assert report.layers.loc["fc", "calls"] == 1  # the float network calls it twice
    model = Repeats()
    model.bound = torch.nan
    quantized = qlab.Lab(model, x, [x])._study.network(presets.get("int8").mapping())
    model.bound = quantized.fc(x).sum().item()
    report = qlab.Lab(model, x, [x]).compare("int8")
    assert report.layers.loc["fc", "calls"] == 2
    assert report.layers.loc["fc", "calls_apart"] == 1


def test_one_layer_at_a_time():
    lab = lab_of(ReadsItem)
    mapping = presets.get("int8").mapping()
    found = lab.sensitivity({"int8": mapping}, ways=("on", "off"))
    table = found.table
    assert list(table.index) == [("fc", "int8"), ("head", "int8")]
    assert (found.metric, found.samples, found.complete) == ("sqnr", 48, True)
    only = QConfigMapping().set_global(None)
    only.set_module_name("fc", mapping.global_qconfig)
    alone = lab.compare(only).output
    assert table.loc[("fc", "int8"), "sqnr_on"] == pytest.approx(alone["sqnr"])
    assert table.loc[("head", "int8"), "sqnr_off"] == pytest.approx(alone["sqnr"])
    assert list(table.columns) == ["noise_on", "sqnr_on", "noise_off", "sqnr_off"]
    assert found.whole.loc["int8", "sqnr"] == pytest.approx(lab.compare("int8").output["sqnr"])
    default = lab.sensitivity({"int8": mapping})
    assert default.table.equals(table)
    assert default.rank_correlation is None and default.float_accuracy is None


def test_sensitivity_by_accuracy_where_there_are_labels():
    model = Opaque(core())
    labelled = [(x, model(x).argmax(-1)) for x in BATCHES]
    lab = qlab.Lab(model, BATCHES[0], BATCHES, labelled)
    found = lab.sensitivity({"int8": presets.get("int8").mapping()}, ways=("on",))
    assert found.metric == "accuracy"
    assert found.table["accuracy_on"].between(80, 100).all()
    assert found.float_accuracy == 100.0
    assert found.whole.empty
    assert "sqnr_off" not in found.table


def test_sensitivity_reports_progress_and_stops():
    lab, seen = lab_of(ReadsItem), []
    lab.calibrate()
    mapping = presets.get("int8").mapping()
    found = lab.sensitivity(
        {"int8": mapping},
        ways=("on", "off"),
        on_progress=measuring(seen),
        should_stop=lambda: len(seen) == 3,
    )
    assert [step[:2] for step in seen][-1] == (3, 15)
    assert not found.complete
    assert found.whole["sqnr"].notna().all()
    assert found.table["sqnr_on"].notna().all()
    assert found.table["sqnr_off"].isna().all()


def test_sensitivity_refuses_what_it_cannot_answer():
    lab, mapping = lab_of(ReadsItem), presets.get("int8").mapping()
    with pytest.raises(UnsupportedError, match="The gradient estimate of sensitivity needs"):
        lab.sensitivity({"int8": mapping}, ways=("estimate",))
    with pytest.raises(UnknownNameError, match="Unknown way to measure sensitivity 'up'"):
        lab.sensitivity({"int8": mapping}, ways=("up",))
    with pytest.raises(ArgumentError, match="nothing to measure"):
        lab.sensitivity({})


def test_a_configuration_that_quantizes_nothing_costs_nothing():
    traced, hooked = (
        lab.sensitivity(QConfigMapping(), ways=("on", "off")) for lab in pair_of_labs()
    )
    assert hooked.table.empty and list(hooked.table.columns) == list(traced.table.columns)
    assert hooked.whole.equals(traced.whole) and hooked.whole.loc["config 1", "noise"] == 0.0


def test_sensitivity_is_that_of_a_traced_lab():
    traced, hooked = pair_of_labs()
    a, b = (lab.sensitivity("int8", ways=("on", "off")) for lab in (traced, hooked))
    assert [name for name, _ in b.table.index] == [f"net.{name}" for name, _ in a.table.index]
    assert b.table.to_numpy() == pytest.approx(a.table.to_numpy())
    assert b.whole.to_numpy() == pytest.approx(a.whole.to_numpy())
    assert (a.metric, a.samples, a.complete) == (b.metric, b.samples, b.complete)


def test_what_needs_a_graph_says_so_with_the_reason(tmp_path):
    lab = lab_of(Loops)
    for ask in (lambda: lab.graph, lambda: lab.export(tmp_path / "m.safetensors")):
        with pytest.raises(UnsupportedError) as caught:
            ask()
        message = str(caught.value)
        assert "as one graph, and it has none" in message
        assert "while count < 1" in message and "test_hooked.py, line" in message
    assert not list(tmp_path.iterdir())
    assert lab.export(tmp_path / "m.json").exists()


def test_a_nan_names_the_layer_that_produces_it_first():
    model = Opaque(core())
    model.net[3].weight[0, 0] = torch.nan

    class Quiet(Opaque):
        def forward(self, x):
            for layer in self.net:
                x = layer(x)
                float(x.sum()) > 0 and None
            return x

    lab = qlab.Lab(Quiet(model.net), BATCHES[0], BATCHES)
    with pytest.raises(NonFiniteError, match=r"first layer that produces it is 'net\.3'"):
        lab.calibrate()


def test_calibration_reports_progress_and_stops():
    lab, seen = lab_of(Loops), []
    found = lab.calibrate(lambda *step: seen.append(step), lambda: len(seen) == 2)
    assert seen == [(1, 3, "calibrating"), (2, 3, "calibrating")]
    assert (found.batches, found.samples, found.complete) == (2, 32, False)
    assert lab.calibrate().complete


def test_comparison_stops_after_a_batch():
    lab = lab_of(Loops)
    lab.calibrate()
    report = lab.compare(should_stop=lambda: True)
    assert (report.samples, report.complete) == (16, False)


def test_causes_are_found_layer_by_layer():
    net = core()
    net[3].weight *= torch.logspace(0, 2, 16)[:, None]
    traced, hooked = (qlab.Lab(model, BATCHES[0], BATCHES) for model in (net, Opaque(net)))
    a, b = traced.causes("3", "int8-per-tensor"), hooked.causes("net.3", "int8-per-tensor")
    a, b = ({(c.kind, c.tensor): c for c in found} for found in (a, b))
    assert {key: c.value for key, c in b.items()} == {key: c.value for key, c in a.items()}
    assert any(tensor == "weight" for _, tensor in a)
    for (_, tensor), cause in a.items():
        gain = b[cause.kind, tensor].gain
        if tensor == "weight":
            assert gain == pytest.approx(cause.gain, rel=1e-5)
        else:  # a rule of a layer on its own decides about its input, too
            assert gain > cause.gain - 0.02
    spread = b["channel spread", "weight"]
    assert "net.3" in hooked.remedy(spread, "int8-per-tensor").module_name_qconfigs


def test_the_model_stays_as_it_is():
    model = Loops().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lab = qlab.Lab(model, BATCHES[0], BATCHES)
    lab.compare()
    lab.convert()
    assert model.training and model.act.inplace
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    held = lab._study.model.modules()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in held)


def test_the_converted_model_shows_what_was_replaced():
    converted = lab_of(Loops).convert()
    assert isinstance(converted.step, QuantizedOnItsOwn)
    assert "instead of Linear, real numbers in and out" in repr(converted)
    assert isinstance(converted.act, nn.ReLU)


def test_a_module_that_stands_in_two_places_is_replaced_in_both():
    class Shares(Opaque):
        def __init__(self):
            net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
            net[2] = net[0]
            super().__init__(net)

    lab = qlab.Lab(Shares(), BATCHES[0], BATCHES)
    converted = lab.convert()
    assert converted.net[0] is converted.net[2]
    assert isinstance(converted.net[0], QuantizedOnItsOwn)
    assert lab.statistics("net.0").count == 2 * 48 * 8


def test_keyword_arguments_several_operands_and_recurrent_layers():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.rnn, self.head = nn.Linear(8, 8), nn.LSTM(8, 8), nn.Linear(8, 4)
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = self.fc(input=x)
            states = (torch.zeros(1, 8), torch.zeros(1, 8))
            z, _ = self.rnn(y, states)
            w, _ = self.attn(z[None], z[None], value=z[None], need_weights=False)
            return self.head(w[0]) * float(w.std())

    lab = qlab.Lab(Mixed(), BATCHES[0], BATCHES)
    plan = lab.plan("int8")
    assert plan.step("fc").execution == plan.step("head").execution == "integer"
    assert plan.step("rnn").execution == plan.step("attn").execution == "float"
    assert lab.compare("int8").output["sqnr"] > 20.0
    x = BATCHES[0]
    assert lab.convert("int8")(x).shape == (16, 4)
    dynamic = QConfigMapping().set_global(default_dynamic_qconfig)
    assert lab.plan(dynamic).step("rnn").execution == "dynamic"
    report = lab.compare(dynamic)
    assert {"fc", "rnn", "head"} <= set(report.layers.index)
    assert report.layers.sqnr_local.min() > 25.0
    assert lab.convert(dynamic)(x).shape == (16, 4)


def test_convolutions_and_norms_keep_their_channels():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.act, self.head = nn.Hardswish(), nn.Linear(4, 2)

        def forward(self, x):
            y = self.act(self.norm(self.conv(x)))
            return self.head(y.mean((2, 3))) + 0 * float(y.sum())

    images = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    lab = qlab.Lab(Images().eval(), images[0], images)
    report = lab.compare()
    assert set(report.layers.index) == {"conv", "norm", "act", "head"}
    assert lab.statistics("conv").channel_min.numel() == 4
    assert report.output["sqnr"] > 20.0


def test_inputs_that_a_layer_refuses_name_it():
    lab = lab_of(Loops)
    lab._study.sources[0]._source = [torch.randn(4, 7)]
    with pytest.raises(ArgumentError, match=r"layer 'enter' \(Linear\) refused its input"):
        lab.calibrate()


def test_a_model_that_calls_no_layer():
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ArgumentError, match="calls no layer that could be quantized"):
        qlab.Lab(Nothing(), BATCHES[0], BATCHES)


def test_a_traced_lab_has_no_trace_error():
    lab = qlab.Lab(core(), BATCHES[0], BATCHES)
    assert lab.traced and lab.trace_error is None
    assert lab.graph is lab._study.graph
