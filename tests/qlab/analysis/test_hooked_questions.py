"""Every question of a Lab, asked of a model that has no graph."""

import pytest
import torch
from torch import nn

import qlab
from qlab import QConfigMapping, TensorSpec
from qlab.dtypes import integer, quint8
from qlab.errors import ArgumentError, NonFiniteError, UnknownNameError, UnsupportedError
from qlab.qconfig import qconfig_of
from qlab.ranges import MovingAverage
from tests.qlab.analysis.test_hooked import (
    BATCHES,
    Loops,
    Opaque,
    ReadsItem,
    core,
    lab_of,
    pair_of_labs,
)


@pytest.fixture(autouse=True)
def no_gradients():
    """A float of what needs a gradient makes torch warn."""
    with torch.no_grad():
        yield


def test_data_can_be_added_and_calibration_resumed():
    whole = qlab.Lab(Loops().eval(), BATCHES[0], BATCHES)
    model = whole._study.model
    lab = qlab.Lab(model, BATCHES[0], BATCHES[:2])
    lab.calibrate(should_stop=lambda: True)
    assert lab.calibrated.seen == (1,)
    lab.calibrate()
    lab.add_data(BATCHES[2:])
    assert lab.calibrated.seen == (2, 1) and lab.calibrated.complete
    assert lab.calibrated.statistics == whole.calibrate().statistics
    other = qlab.Lab(model, BATCHES[0], BATCHES[2:])
    first = qlab.Lab(model, BATCHES[0], BATCHES[:2])
    assert first.merge(other.calibrate()).statistics == whole.calibrated.statistics


def test_added_data_that_holds_nan_is_not_kept():
    lab = lab_of(ReadsItem)
    before = lab.calibrate()
    with pytest.raises(NonFiniteError, match="first layer that is given it is 'fc'"):
        lab.add_data([torch.full((2, 8), torch.nan)])
    assert lab.calibrated is before and len(lab._study.sources) == 1


def test_infinity_that_a_layer_makes_is_refused():
    model = Opaque(core())
    model.net[5].bias[0] = torch.inf
    lab = qlab.Lab(model, BATCHES[0], BATCHES)
    with pytest.raises(NonFiniteError, match=r"Infinity.*that produces it is 'net\.5'"):
        lab.calibrate()


def test_channels_are_those_of_a_traced_lab():
    traced, hooked = pair_of_labs()
    a, b = traced.channels("3", "int8"), hooked.channels("net.3", "int8")
    assert len(b) == 16 and list(a.columns) == list(b.columns)
    assert b.to_numpy() == pytest.approx(a.to_numpy())
    with pytest.raises(UnsupportedError, match="not quantized, so its channels have no error"):
        hooked.channels("net.3", QConfigMapping())
    with pytest.raises(UnknownNameError, match="Unknown layer 'net'"):
        hooked.channels("net")


def test_parts_are_those_of_a_traced_lab():
    traced, hooked = (lab.compare("int8", parts=True) for lab in pair_of_labs())
    for a, b in (
        (traced.weight_only, hooked.weight_only),
        (traced.activation_only, hooked.activation_only),
    ):
        assert b["sqnr_local"].tolist() == pytest.approx(a["sqnr_local"].tolist())


def test_a_cause_in_all_batches_is_measured_over_every_call():
    batches = [torch.randn(16, 8) * 4.0**index for index in range(8)]
    net = core()
    traced, hooked = (qlab.Lab(model, batches[0], batches) for model in (net, Opaque(net)))
    averaged = TensorSpec(quint8, policy=MovingAverage())
    mapping = QConfigMapping().set_global(qconfig_of(averaged, TensorSpec.int8_weight()))
    a, b = traced.causes("0", mapping), hooked.causes("net.0", mapping)
    assert [c.kind for c in a] == [c.kind for c in b]
    assert "non-stationary batches" in [c.kind for c in b]
    assert [c.gain for c in b] == pytest.approx([c.gain for c in a])


def test_a_saved_lab_goes_on_with_the_model_given(tmp_path):
    lab = lab_of(Loops)
    lab.compare()
    lab.add_data([torch.randn(8, 8)])
    path = lab.save(tmp_path / "lab")
    with pytest.raises(ArgumentError, match=r"does not hold the float model.*while count < 1"):
        qlab.load_lab(path)
    model = lab._study.model
    loaded = qlab.load_lab(path, model)
    assert loaded.calibrated.statistics == lab.calibrated.statistics
    assert loaded.layers == lab.layers and list(loaded.runs) == list(lab.runs)
    assert loaded.what_if("step").output_sqnr == lab.what_if("step").output_sqnr
    with pytest.raises(ArgumentError, match="saved from another model"):
        qlab.load_lab(path, Loops())


SPEC = TensorSpec(integer(4, signed=False))


def other_data(lab):
    """What a Lab of the same model saw of a batch of its own."""
    return qlab.Lab(lab._study.model, BATCHES[0], [BATCHES[0] + 1]).calibrate()


WORK = {
    "calibrate": lambda lab, _: lab.calibrate().complete,
    "add_data": lambda lab, _: lab.add_data(BATCHES).samples == 96,
    "with_data": lambda lab, _: lab.with_data(BATCHES).calibrate().samples == 96,
    "merge": lambda lab, _: lab.merge(other_data(lab)).samples == 64,
    "stability": lambda lab, _: "step" in lab.stability().table.index,
    "statistics": lambda lab, _: lab.statistics("step").count > 0,
    "weight": lambda lab, _: lab.weight("step").shape == (16, 16),
    "qparams": lambda lab, _: lab.qparams("step", SPEC).quant_max == 15,
    "policies": lambda lab, _: len(lab.policies("step", SPEC)) == 5,
    "plan": lambda lab, _: lab.plan().step("step").quantized,
    "types": lambda lab, _: "type Linear" in lab.types,
    "layer": lambda lab, _: lab.layer("step").quantizable,
    "convert": lambda lab, _: lab.convert()(BATCHES[0]).shape == (16, 4),
    "compare": lambda lab, _: lab.compare(parts=True).weight_only is not None,
    "channels": lambda lab, _: len(lab.channels("step")) == 16,
    "sensitivity": lambda lab, _: lab.sensitivity(ways=("on",)).complete,
    "what_if": lambda lab, _: lab.what_if("step", activation=SPEC).output_sqnr > 0,
    "causes": lambda lab, _: isinstance(lab.causes("step"), tuple),
    "layer_inputs": lambda lab, _: lab.layer_inputs("step")[0].shape[1] == 16,
    "worked_sum": lambda lab, _: len(lab.worked_sum("step").terms.x) == 16,
    "latency": lambda lab, _: lab.latency(repeats=4).quantized.runs == 4,
    "identical": lambda lab, _: lab.identical(lab.convert(), lab.convert()),
    "layer_sizes": lambda lab, _: (
        lab.layer_sizes(lab.convert()).loc["step"].is_monotonic_decreasing
    ),
    "original": lambda lab, _: lab.original is lab,
    "runs": lambda lab, _: lab.compare() and len(lab.runs) == 1,
    "example_values": lambda lab, _: len(lab.example_values) == 1,
    "example_call": lambda lab, _: lab.example_call is lab.example_values,
    "repair_recipes": lambda lab, _: lab.repair_recipes() == [],
    "repeat_repairs": lambda lab, _: lab.repeat_repairs([]) is lab,
    "export json": lambda lab, path: lab.export(path / "m.json").exists(),
    "save": lambda lab, path: lab.save(path / "lab").exists(),
}
REFUSED = {
    "graph": lambda lab, _: lab.graph,
    "search": lambda lab, _: lab.search(0.5),
    "fidelity": lambda lab, _: lab.fidelity(),
    "estimate": lambda lab, _: lab.sensitivity(ways=("estimate",)),
    "export": lambda lab, path: lab.export(path / "m.safetensors"),
    "export onnx": lambda lab, path: lab.export(path / "m.onnx"),
    "export pt2": lambda lab, path: lab.export(path / "m.pt2"),
    "check_onnx": lambda lab, _: lab.check_onnx(b"", "int8"),
    "repair": lambda lab, _: lab.repair("int8", 90.0),
    "finetune": lambda lab, _: lab.finetune("int8", BATCHES),
    "finetune_seconds": lambda lab, _: lab.finetune_seconds("int8", BATCHES),
    "repair_with": lambda lab, _: lab.repair_with("equalize"),
    "repair_seconds": lambda lab, _: lab.repair_seconds("equalize"),
}


@pytest.mark.parametrize("ask", WORK.values(), ids=WORK)
def test_what_works_without_a_graph(ask, tmp_path):
    assert ask(lab_of(Loops), tmp_path)


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_names_module_file_and_line(ask, tmp_path):
    lab = lab_of(Loops)
    with pytest.raises(UnsupportedError) as caught:
        ask(lab, tmp_path)
    error = lab.trace_error
    assert f"test_hooked.py, line {error.line}" in str(caught.value)
    assert "Loops" in str(caught.value)
    assert not list(tmp_path.iterdir())


class _Normalizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x) if x.sum().item() < 1e9 else x


def test_a_norm_is_worked_out_without_a_graph():
    lab = qlab.Lab(_Normalizes().eval(), BATCHES[0], BATCHES)
    assert not lab.traced
    worked = lab.worked_norm("norm")
    assert worked.kind == "LayerNorm" and len(worked.x) == 8


def test_every_question_of_a_lab_is_asked_without_a_graph():
    asked = {name.split()[0] for name in (*WORK, *REFUSED)} | {"remedy", "restore", "worked_norm"}
    asked |= {"apply", "repaired"}  # take what `repair_with` makes, which is refused
    public = {name for name in dir(qlab.Lab) if not name.startswith("_")}
    assert public - {"traced", "trace_error", "calibrated", "subject", "data"} <= asked


def test_inputs_by_keyword_without_a_graph():
    class Masked(Opaque):
        def forward(self, x, *, scale=None, mask):
            y = super().forward(x if scale is None else x * scale)
            return {"mask": mask, "logits": y * mask}

    torch.manual_seed(5)
    batches = [{"mask": torch.ones(16, 1), "x": x, "other": 0} for x in BATCHES]
    lab = qlab.Lab(Masked(core()), {"x": BATCHES[0], "mask": torch.ones(16, 1)}, batches)
    assert not lab.traced
    report = lab.compare()
    assert list(report.outputs.index) == ["mask", "logits"]
    given = lab.convert()(batches[0]["x"], mask=batches[0]["mask"])["logits"]
    assert given.shape == (16, 4) and lab.latency(batch=batches[0], repeats=4).batch == 16
