"""Simulation and integers side by side: what is counted is true, and ties are told apart."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qlab
import sample_models
from qlab import QConfigMapping, TensorSpec
from qlab.analysis.fidelity import TIE, Agreement
from qlab.dtypes import float8_e4m3fn, integer, quint8
from qlab.granularity import PerTensor
from qlab.nn.quantized.holder import OUTPUT
from qlab.qconfig import qconfig_of
from qlab.qparams import QParams, dequantize, quantize, quantize_round_first

COUNTED = ("off_by_1", "off_by_2", "off_by_more")


def qparams_of(scale: float, zero_point: int = 0, dtype: qlab.QDType = quint8) -> QParams:
    low, high = dtype.quant_min, dtype.quant_max
    return QParams(
        torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), dtype, PerTensor(), low,
        high,
    )  # fmt: skip


def lab_of(name: str) -> qlab.Lab:
    sample = sample_models.load(name)
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())


def test_steps_are_counted_by_their_size_and_ties_among_them():
    counts, scale = Agreement(), qparams_of(1.0)
    real = torch.tensor([10.0, 10.49, 2.5, 7.0, 9.0, 3.0])
    codes = torch.tensor([10, 11, 3, 9, 4, 3], dtype=torch.uint8)  # 10.49 → 10, 2.5 → 2 by rint
    counts.update(real, codes, scale)
    assert (counts.codes, counts.off_by_1, counts.off_by_2, counts.off_by_more) == (6, 2, 1, 1)
    assert counts.max_steps == 5
    assert counts.ties == 1
    assert counts.exact == pytest.approx(2 / 6)
    assert math.isnan(Agreement().exact)


def test_steps_of_float8_are_neighbours_among_its_values():
    counts, scale = Agreement(), qparams_of(1.0, 0, float8_e4m3fn)
    real = torch.tensor([1.0, -1.0, 0.0, 448.0])
    other = torch.tensor([1.125, -0.9375, -0.0, 416.0]).to(torch.float8_e4m3fn)
    counts.update(real, other, scale)
    assert (counts.off_by_1, counts.max_steps, counts.ties) == (3, 1, 0)


@given(
    st.lists(st.floats(-50, 300, width=32), min_size=1, max_size=50),
    st.floats(0.015625, 3.0, width=32),
    st.integers(0, 255),
)
@settings(max_examples=200)
def test_the_two_orders_of_rounding_differ_by_one_step_and_on_ties_only(values, scale, zero):
    real, counts = torch.tensor(values), Agreement()
    qparams = qparams_of(scale, zero)
    counts.update(real, quantize(real, qparams), qparams)
    assert counts.max_steps <= 1
    assert counts.ties == counts.off_by_1


@pytest.mark.parametrize("name", ["mlp", "depthwise", "residual", "norms", "vit"])
def test_local_integers_are_at_most_one_step_away_and_rarely(name):
    fidelity = lab_of(name).fidelity()
    table = fidelity.table
    for where in ("local", "accumulated"):
        differing = table[[f"{column}_{where}" for column in COUNTED]].sum(axis=1)
        codes = table[f"codes_{where}"]
        assert (codes > 0).all()
        assert (1 - differing / codes).tolist() == pytest.approx(table[f"exact_{where}"].tolist())
        assert (table[f"ties_{where}"] <= differing).all()
    assert (table["max_steps_local"] <= 1).all()
    weighted = table[table["type"].str.contains("Conv|Linear")]
    away = (weighted["off_by_1_local"] - weighted["ties_local"]).sum()
    assert away <= 20e-6 * weighted["codes_local"].sum()
    assert fidelity.complete and fidelity.samples == 500


def exact_codes(layer: nn.Module, x: Tensor, weight: Tensor, output: QParams) -> Tensor:
    """``clamp(rint(y/s + z))`` in float64, and how far y/s is from the middle of two codes."""
    made = type(layer)(layer.in_features, layer.out_features).double()
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(layer.bias)
        return made(x.double()) / output.scale.double()


def test_a_layer_s_integers_follow_the_exact_formula_away_from_ties():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 256)).eval()
    data = [torch.randn(512, 64) for _ in range(8)]
    lab = qlab.Lab(model, data[0][:1], data)
    converted = lab.convert("int8")
    module = converted.get_submodule("0")
    (read,), output = module.input_qparams, module.get_qparams(OUTPUT)
    differing = total = 0
    for x in data:
        codes = quantize(x, read)
        exact = exact_codes(
            model[0], dequantize(codes, read), module.quantized_weight.dequantize(), output
        )
        formula = (exact + output.zero_point).round().clamp(0, 255)
        tied = (exact - exact.floor() - 0.5).abs() <= TIE
        differing += int(((formula != module(codes)) & ~tied).sum())
        total += codes.shape[0] * 256
    assert total > 1_000_000
    assert differing <= 20e-6 * total


def test_the_integer_side_is_the_network_that_convert_returns():
    lab = lab_of("residual")
    fidelity, report = lab.fidelity("int8"), lab.compare("int8")
    assert set(report.layers.index) <= set(fidelity.table.index)
    for where in ("local", "accumulated"):
        ours = fidelity.table.loc[report.layers.index, f"sqnr_float_integer_{where}"]
        assert ours.tolist() == pytest.approx(report.layers[f"sqnr_{where}"].tolist(), rel=1e-6)
    assert fidelity.output["sqnr_float_integer"] == pytest.approx(report.output["sqnr"])
    assert fidelity.output["accuracy_integer"] == pytest.approx(report.output["accuracy"])
    assert fidelity.output["accuracy_float"] == pytest.approx(report.output["float_accuracy"])
    assert fidelity.output["top1_float_integer"] == report.output["top1_agreement"]


class Branches(nn.Module):
    """A quantized input that a float layer reads too, a constant operand, a module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.kept = nn.Linear(8, 8)
        self.shift = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x)) + self.shift + self.kept(x)


def by_hand(model: Branches, lab: qlab.Lab, mapping: QConfigMapping, x: Tensor) -> Tensor:
    """The simulation, written out."""
    converted = lab.convert(mapping)
    scales = {n.meta["source"]: n.meta["qparams"] for n in converted.graph.nodes
              if "qparams" in n.meta}  # fmt: skip
    nodes = {n.meta["name"]: n.name for n in lab.graph.graph.nodes}

    def rounded(value: Tensor, node: str) -> Tensor:
        return dequantize(quantize_round_first(value, scales[node]), scales[node])

    weight = TensorSpec.int8_weight().qparams_of(model.fc.weight)
    fc = dequantize(quantize_round_first(model.fc.weight.detach(), weight), weight)
    layers = [layer.name for layer in lab.layers]
    first, second, add, kept, add_1 = (nodes[name] for name in layers)
    entry, constant = (
        next(node.name for node in lab.graph.graph.nodes if node.op == op)
        for op in ("placeholder", "get_attr")
    )
    y = rounded(nn.functional.linear(rounded(x, entry), fc, model.fc.bias), first)
    y = rounded(nn.functional.linear(y, fc, model.fc.bias), second)
    y = rounded(y + rounded(model.shift, constant), add)
    return rounded(y + rounded(model.kept(x), kept), add_1)


def test_the_simulation_rounds_where_the_quantized_network_has_codes():
    model = Branches().eval()
    data = [torch.randn(32, 8) for _ in range(4)]
    lab = qlab.Lab(model, data[0][:1], data)
    spec = TensorSpec.uint8_activation()
    mapping = QConfigMapping().set_global(qconfig_of(spec, TensorSpec.int8_weight()))
    mapping.set_module_name("kept", None)
    fidelity = lab.fidelity(mapping)
    assert "kept" not in fidelity.table.index
    noise = signal = 0.0
    with torch.no_grad():
        for x in data:
            y = model(x)
            noise += float((y - by_hand(model, lab, mapping, x)).double().square().sum())
            signal += float(y.double().square().sum())
    expected = 10 * math.log10(signal / noise)
    assert fidelity.output["sqnr_float_fake"] == pytest.approx(expected, abs=1e-3)


def test_layers_that_give_real_numbers_have_no_codes():
    fidelity = lab_of("mlp").fidelity("int8-weights-only")
    assert (fidelity.table["codes_local"] == 0).all()
    assert fidelity.table["exact_local"].isna().all()
    assert (fidelity.table["sqnr_float_integer_local"] > 20).all()


@pytest.mark.parametrize("preset", ["float8", "int16-activations", "int4-weights"])
def test_every_kind_of_code_is_compared(preset):
    table = lab_of("conv_bn_relu").fidelity(preset).table
    assert (table["exact_local"].drop("pool") > 0.999).all()
    assert (table["max_steps_local"] <= 1).all()


@pytest.mark.parametrize("preset", ["int8", "int16-activations"])
def test_where_pooling_and_its_simulation_disagree_it_is_a_tie(preset):
    pool = lab_of("conv_bn_relu").fidelity(preset).table.loc["pool"]
    assert pool["off_by_1_local"] > 0  # the mean of four codes is often in the middle of two
    assert pool["ties_local"] == pool["off_by_1_local"]


def test_an_activation_only_qconfig_is_simulated_and_agrees():
    lab = lab_of("mlp")
    mapping = QConfigMapping().set_global(qconfig_of(TensorSpec.uint8_activation(), None))
    table = lab.fidelity(mapping).table
    assert (table["execution"] == "simulated").all()
    assert (table["exact_local"] > 0.999).all()


def test_it_reports_progress_and_stops_within_one_batch():
    lab, seen = lab_of("mlp"), []
    lab.calibrate()
    fidelity = lab.fidelity(
        on_progress=lambda *step: seen.append(step), should_stop=lambda: len(seen) == 2
    )
    assert not fidelity.complete
    assert [step[0] for step in seen] == [1, 2]
    assert seen[0][2] == "comparing simulation and integers"
    assert fidelity.samples == 256


def test_four_bits_lie_far_from_float_and_simulation_and_integers_beside_each_other():
    four = QConfigMapping().set_global(
        qconfig_of(TensorSpec(integer(4, signed=False)), TensorSpec.int8_weight())
    )
    table = lab_of("mlp").fidelity(four).table
    assert (table["sqnr_fake_integer_local"] > table["sqnr_float_integer_local"] + 20).all()


class Halves(nn.Module):
    """Splits codes and adds the halves: one step gives several tensors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        first, second = self.fc(x).chunk(2, dim=-1)
        return first + second


def test_a_step_that_gives_several_tensors_is_simulated():
    data = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    fidelity = qlab.Lab(Halves().eval(), data[:1], [data]).fidelity("int8")
    assert list(fidelity.table.index) == ["fc", "add"]
    assert fidelity.output["sqnr_fake_integer"] > fidelity.output["sqnr_float_fake"]
