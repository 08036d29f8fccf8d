import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import qlab
import sample_models
from qlab.analysis.calibration import Calibration
from qlab.analysis.what_if import WhatIf
from qlab.errors import ArgumentError, DTypeError, FormatError
from qlab.io.lab_file import NoData
from qlab.io.program import decode, encode
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams

SAMPLES: dict[str, sample_models.SampleModel] = {}


def sample(name):
    if name not in SAMPLES:
        SAMPLES[name] = sample_models.load(name)
    return SAMPLES[name]


def split(path):
    """The header of a safetensors file, and what follows."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def header_of(path):
    return json.loads(split(path)[0]["__metadata__"]["qlab"])


def same(a, b) -> bool:
    """Equal to the last bit, tensors inside included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, QParams | WhatIf):
        return all(same(getattr(a, f), getattr(b, f)) for f in vars(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def lab_of(name, count=48, **arguments) -> qlab.Lab:
    s = sample(name)
    return qlab.Lab(s.model, s.example_inputs, s.calibration(count), **arguments)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The residual net, compared twice, and where it was saved."""
    lab = lab_of("residual")
    lab.compare("int8"), lab.compare("int4-weights")
    return lab, lab.save(tmp_path_factory.mktemp("labs") / "lab.safetensors")


@pytest.mark.parametrize("name", sample_models.names(trained=True))
def test_a_loaded_lab_answers_equally_without_model_or_data(name, tmp_path):
    lab = lab_of(name)
    loaded = qlab.load_lab(lab.save(tmp_path / "lab"))
    assert loaded.calibrated == lab.calibrated
    assert loaded.layers == lab.layers
    for preset in ("int8", "int4-weights", "int8-weights-only"):
        assert loaded.plan(preset) == lab.plan(preset)
        assert same(loaded.convert(preset).state_dict(), lab.convert(preset).state_dict())
    spec = qlab.TensorSpec(qlab.quint8)
    for layer in lab.layers:
        if lab.plan().step(layer.name).execution == "integer":
            assert same(loaded.what_if(layer.name), lab.what_if(layer.name))
            assert same(loaded.qparams(layer.name, spec), lab.qparams(layer.name, spec))
            assert_same_causes(loaded.causes(layer.name), lab.causes(layer.name))
    assert loaded.subject == lab.subject


def assert_same_causes(loaded, own):
    """Equal, but for the gain of what is judged on data that the file does not hold."""
    by_data = {"too few samples", "non-stationary batches"}
    assert [c for c in loaded if c.kind not in by_data] == [c for c in own if c.kind not in by_data]
    judged, there = ({c.kind: c for c in found if c.kind in by_data} for found in (loaded, own))
    assert {kind: c.value for kind, c in judged.items()} == {k: c.value for k, c in there.items()}
    assert all(c.gain is None for c in judged.values())


def test_data_given_while_loading_is_measured_on_and_runs_go_on(saved):
    lab, path = saved
    loaded = qlab.load_lab(path, sample("residual").model, sample("residual").calibration(48))
    assert list(loaded.runs) == list(lab.runs)
    report = loaded.compare("int8")
    pd_equal = report.layers.equals(lab.compare("int8").layers)
    assert pd_equal and report.output == lab.compare("int8").output
    assert len(loaded.runs) == 2
    with_evaluation = qlab.load_lab(path, evaluation=sample("residual").evaluation())
    assert with_evaluation.compare("int8").samples == 500
    assert with_evaluation.subject != lab.subject
    assert len(with_evaluation.runs) == 3


def test_without_data_measuring_says_what_is_missing(saved):
    loaded = qlab.load_lab(saved[1])
    with pytest.raises(ArgumentError, match=r"without its calibration data.*Pass calibration= or"):
        loaded.compare("int8")
    with pytest.raises(ArgumentError, match="without its test data"):
        len(NoData("test"))


def halves(name, count=48):
    images = torch.cat(list(sample(name).calibration(count)))
    return list(images[: count // 2].split(8)), list(images[count // 2 :].split(8))


@pytest.mark.parametrize("with_data", [False, True])
def test_a_loaded_lab_takes_in_more_data(tmp_path, with_data):
    first, second = halves("mlp")
    s = sample("mlp")
    whole = qlab.Lab(s.model, s.example_inputs, [*first, *second])
    lab = qlab.Lab(s.model, s.example_inputs, first)
    data = {"calibration": first} if with_data else {}
    loaded, seen = qlab.load_lab(lab.save(tmp_path / "lab"), **data), []
    loaded.add_data(second, lambda *step: seen.append(step[:2]))
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert loaded.calibrated.complete
    assert loaded.calibrated.statistics == whole.calibrate().statistics
    assert same(loaded.convert().state_dict(), whole.convert().state_dict())
    again = loaded.save(tmp_path / "again")
    assert header_of(again)["data"] == header_of(whole.save(tmp_path / "whole"))["data"]


@pytest.mark.parametrize("with_data", [False, True])
def test_data_that_was_added_before_saving_counts(tmp_path, with_data):
    first, second = halves("mlp")
    s = sample("mlp")
    lab = qlab.Lab(s.model, s.example_inputs, first)
    lab.add_data(second)
    assert lab.calibrated.seen == (3, 3)
    path = lab.save(tmp_path / "lab")
    with pytest.raises(ArgumentError, match="calibration data is not what"):
        qlab.load_lab(path, calibration=first)
    data = {"calibration": [torch.cat([*second, *first])]} if with_data else {}
    loaded = qlab.load_lab(path, **data)
    assert loaded.calibrated.statistics == lab.calibrated.statistics
    assert loaded.calibrate().batches == 6
    loaded.add_data(second)
    lab.add_data(second)
    assert loaded.calibrated.statistics == lab.calibrated.statistics
    assert loaded.calibrated.batches == 9 and loaded.calibrated.complete


def test_more_data_that_was_stopped_is_gone_on_with(tmp_path):
    first, second = halves("mlp")
    s = sample("mlp")
    lab = qlab.Lab(s.model, s.example_inputs, first)
    loaded = qlab.load_lab(lab.save(tmp_path / "lab"))
    loaded.add_data(second, should_stop=lambda: True)
    assert not loaded.calibrated.complete and loaded.calibrated.batches == 4
    loaded.calibrate()
    whole = qlab.Lab(s.model, s.example_inputs, [*first, *second]).calibrate()
    assert loaded.calibrated.statistics == whole.statistics


def test_a_loaded_lab_saves_the_same_file(saved, tmp_path):
    again = qlab.load_lab(saved[1]).save(tmp_path / "again")
    assert same(load_file(again), load_file(saved[1]))
    assert header_of(again) == header_of(saved[1])


def test_runs_are_added_to_a_store_of_choice(saved, tmp_path):
    qlab.load_lab(saved[1], runs=tmp_path / "runs.sqlite")
    qlab.load_lab(saved[1], runs=tmp_path / "runs.sqlite")
    assert [r.name for r in qlab.Runs(tmp_path / "runs.sqlite")] == ["int8", "int4-weights"]


def test_the_configuration_travels(tmp_path):
    lab, mine = lab_of("mlp"), QConfigMapping().set_module_name("fc", None)
    assert qlab.load_lab(lab.save(tmp_path / "a")).mapping == qlab.presets.get("int8").mapping()
    assert qlab.load_lab(lab.save(tmp_path / "b", mine)).mapping == mine
    lab.mapping = mine
    assert qlab.load_lab(lab.save(tmp_path / "c")).mapping == mine


class Tied(nn.Module):
    """A layer used twice, a weight of two layers, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.twice.weight
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 2.0]), persistent=False)

    def forward(self, x):
        return self.other(self.twice(torch.sigmoid(self.twice(x)))) * self.mask


def test_what_is_shared_stays_shared(tmp_path):
    torch.manual_seed(0)
    lab = qlab.Lab(Tied(), torch.randn(2, 4), [torch.randn(8, 4)])
    loaded = qlab.load_lab(lab.save(tmp_path / "lab"))
    for graph in (lab.graph, loaded.graph):
        calls = [str(n.target) for n in graph.graph.nodes if n.op == "call_module"]
        linears = [m for m in map(graph.get_submodule, calls) if isinstance(m, nn.Linear)]
        assert len({id(m) for m in linears}) == 2 and len({id(m.weight) for m in linears}) == 1
    x = torch.randn(3, 4)
    assert torch.equal(loaded.graph(x), lab.graph(x))
    assert torch.equal(loaded.convert()(x), lab.convert()(x))
    assert loaded.subject == lab.subject


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(6, 4)

    def forward(self, a, unused=None, b=None, times=1.0):
        return self.first(a) * times + self.second(b)


def test_inputs_by_keyword_are_kept_by_keyword(tmp_path):
    model, batches = Keywords(), [{"a": torch.randn(8, 4), "b": torch.randn(8, 6)}]
    lab = qlab.Lab(model, {"b": torch.randn(2, 6), "times": 2.0, "a": torch.randn(2, 4)}, batches)
    report, path = lab.compare(), lab.save(tmp_path / "lab")
    for given in ({}, {"model": model}):
        loaded = qlab.load_lab(path, calibration=batches, **given)
        assert loaded.compare().output == report.output
        loaded.add_data([{"b": torch.randn(3, 6), "a": torch.randn(3, 4)}])
        assert loaded.calibrated.samples == 11
    positional = qlab.Lab(
        model, (batches[0]["a"], None, batches[0]["b"]), [(*batches[0].values(),)]
    )
    path = positional.save(tmp_path / "positional")
    for given in ({}, {"model": model}):
        assert qlab.load_lab(path, **given).calibrated == positional.calibrated


class Own(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_a_model_that_cannot_be_written_is_asked_for(tmp_path):
    model, data = nn.Sequential(nn.Linear(4, 4), Own()), [torch.randn(8, 4)]
    lab = qlab.Lab(model, torch.randn(2, 4), data)
    path = lab.save(tmp_path / "lab")
    with pytest.raises(ArgumentError, match=r"does not hold the float model.*cannot be saved"):
        qlab.load_lab(path)
    assert same(qlab.load_lab(path, model).what_if("0"), lab.what_if("0"))


def test_another_model_is_refused_with_the_first_difference(saved):
    other = sample_models.load("residual").model
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    with pytest.raises(ArgumentError, match=r"another model.*the values of tensor .* differ"):
        qlab.load_lab(saved[1], other)
    deeper = nn.Sequential(other, nn.Sigmoid())
    with pytest.raises(ArgumentError, match=r"another model.*differs: node"):
        qlab.load_lab(saved[1], deeper)


def test_other_calibration_data_is_refused(saved):
    with pytest.raises(
        ArgumentError, match=r"calibration data is not what.*Leave calibration= out"
    ):
        qlab.load_lab(saved[1], calibration=sample("residual").calibration(47))
    images = torch.cat(list(sample("residual").calibration(48)))
    qlab.load_lab(saved[1], calibration=[images.flip(0)])


def test_a_stopped_calibration_is_not_saved_as_a_whole(tmp_path):
    lab = lab_of("mlp")
    lab.calibrate(should_stop=lambda: True)
    lab.save(tmp_path / "lab")
    assert qlab.load_lab(tmp_path / "lab").calibrated.complete


def test_calibrations_hold_statistics_and_what_json_can_say():
    plain = {f.name: getattr(Calibration(), f.name) for f in dataclasses.fields(Calibration)}
    assert plain.pop("statistics") == {}
    assert {name: decode(encode(value), {}) for name, value in plain.items()} == plain


# Files that are none


def test_every_truncation_is_noticed(saved, tmp_path):
    content = saved[1].read_bytes()
    for length in np.linspace(0, len(content) - 1, 40, dtype=int):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(FormatError):
            qlab.load_lab(tmp_path / "cut")


def test_every_changed_byte_is_noticed(saved, tmp_path):
    content = saved[1].read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    for place in np.random.default_rng(0).integers(8 + size, len(content), 20):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(FormatError, match="The file is damaged"):
            qlab.load_lab(tmp_path / "changed")
    for place in np.random.default_rng(0).integers(0, 8 + size, 60):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        if said(changed) == said(content):
            continue  # the seventeenth digit of a number need not make another one
        with pytest.raises(FormatError):
            qlab.load_lab(tmp_path / "changed")


def said(content: bytes) -> object:
    """What the header of a file says, numbers as they are read; the header itself if unreadable."""
    header = content[: 8 + struct.unpack("<Q", content[:8])[0]]
    try:
        parts = json.loads(header[8:])
        parts["__metadata__"]["qlab"] = json.loads(parts["__metadata__"]["qlab"])
        return header[:8], parts
    except (ValueError, TypeError, KeyError, AttributeError):
        return header


def test_foreign_files(saved, tmp_path):
    lab, path = saved
    quantized = lab.export(tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"A file of qlab, but not a Lab.*qlab.load_quantized"):
        qlab.load_lab(quantized)
    with pytest.raises(FormatError, match=r"but not a quantized model of qlab.*qlab.load_lab"):
        qlab.load_quantized(path)
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(FormatError, match="Not a safetensors file"):
        qlab.load_lab(tmp_path / "text")
    with pytest.raises(ArgumentError, match="The file cannot be read"):
        qlab.load_lab(tmp_path / "nowhere")
    with pytest.raises(DTypeError, match="load_lab reads a file"):
        qlab.load_lab(3)


def test_another_version(saved, tmp_path):
    head, rest = split(saved[1])
    inner = json.loads(head["__metadata__"]["qlab"])
    head["__metadata__"]["qlab"] = json.dumps(inner | {"version": 99})
    text = json.dumps(head).encode()
    (tmp_path / "new").write_bytes(struct.pack("<Q", len(text)) + text + rest)
    with pytest.raises(FormatError, match=r"another version.*version 1.*version 99"):
        qlab.load_lab(tmp_path / "new")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    lab = lab_of("mlp")
    path = lab.save(tmp_path / "lab")
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(ArgumentError, match=r"is unchanged.*full"):
        lab.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ArgumentError, match="No file can be written there"):
        lab.save(tmp_path / "nowhere" / "lab")
