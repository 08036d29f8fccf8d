import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

import qlab
import sample_models
from qlab.errors import ArgumentError, DTypeError, FormatError
from qlab.io.checkpoint import checkpoint_bytes, load_quantized, save_quantized

TRAINED = sample_models.names(trained=True)


def _converted(name, mapping=None):
    sample = sample_models.load(name)
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64))
    return lab.convert(mapping), torch.cat([x for x, _ in sample.evaluation()])


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("preset", qlab.presets.PRESETS)
def test_a_checkpoint_gives_bit_equal_outputs(name, preset):
    model, images = _converted(name, preset)
    assert torch.equal(load_quantized(checkpoint_bytes(model))(images), model(images))


def test_layers_kept_in_float_travel_too():
    sample = sample_models.load("conv_bn_relu")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64))
    mapping = qlab.presets.get("int8").mapping().set_module_name(lab.layers[0].name, None)
    model, images = lab.convert(mapping), torch.cat([x for x, _ in sample.evaluation()])
    assert torch.equal(load_quantized(checkpoint_bytes(model))(images), model(images))


def test_four_bit_weights_take_half_a_byte(tmp_path):
    eight, four = _converted("mlp", "int8")[0], _converted("mlp", "int4-weights")[0]
    sizes = [len(checkpoint_bytes(m)) for m in (eight, four)]
    weights = sum(
        layer.weight.numel()
        for layer in sample_models.load("mlp").model.modules()
        if isinstance(layer, torch.nn.Linear)
    )
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.1)


def test_equal_models_give_equal_bytes():
    model = _converted("mlp", "int4-weights")[0]
    assert len({checkpoint_bytes(model) for _ in range(12)}) == 1


def test_the_file_reloads_in_a_fresh_process(tmp_path):
    model, images = _converted("residual")
    path = save_quantized(model, tmp_path / "model.safetensors")
    torch.save(images, tmp_path / "images.pt")
    program = (
        "import sys, torch, qlab\n"
        "model = qlab.load_quantized(sys.argv[1])\n"
        "torch.save(model(torch.load(sys.argv[2])), sys.argv[3])\n"
    )
    output = tmp_path / "output.pt"
    arguments = [str(path), str(tmp_path / "images.pt"), str(output)]
    root = Path(qlab.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, cwd=root)
    assert torch.equal(torch.load(output), model(images))


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    model, _ = _converted("mlp")
    with pytest.raises(ArgumentError, match=r"save_quantized writes \.safetensors.*model\.pt"):
        save_quantized(model, tmp_path / "model.pt")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ArgumentError, match=r"what was there before is unchanged.*disk full"):
        save_quantized(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def _rewritten(change):
    """The bytes of a checkpoint whose header was changed."""
    content = checkpoint_bytes(_converted("mlp")[0])
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    program = json.loads(header["__metadata__"]["qlab"])
    change(program)
    header["__metadata__"]["qlab"] = json.dumps(program)
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + content[8 + size :]


def _call(target, op="call_function"):
    def change(program):
        node = next(n for n in program["nodes"] if n["op"] == "call_module")
        node["op"], node["target"] = op, target

    return change


def _rename(name):
    def change(program):
        program["nodes"][0]["name"] = name

    return change


def _reclass(name):
    def change(program):
        next(iter(program["modules"].values()))["class"] = name

    return change


def _reconfigure(**values):
    def change(program):
        entry = next(m for m in program["modules"].values() if m["class"].endswith("LinearReLU"))
        entry["config"].update(values)

    return change


def _attribute(program):
    node = next(n for n in program["nodes"] if n["op"] == "call_module")
    node["op"], node["target"] = "call_function", "builtins.getattr"
    node["args"] = {"tuple": [node["args"]["tuple"][0], "__class__"]}


HOSTILE = {
    "a function outside the registry": _call("os.system"),
    "torch.load": _call("torch.load"),
    "a method outside the registry": _call("share_memory_", "call_method"),
    "a method with code in its name": _call("add(); import os; x.add", "call_method"),
    "an unknown op": _call("x", "exec"),
    "code in a node's name": _rename("x; import os"),
    "a class outside the registry": _reclass("subprocess.Popen"),
    "an attribute": _attribute,
    "a missing node": lambda p: p["nodes"][-1].update(args={"tuple": [{"node": "nope"}]}),
    "no nodes": lambda p: p.pop("nodes"),
    "nodes of another type": lambda p: p.update(nodes=3),
    "a module path with code": lambda p: p["modules"].update({"a;b": {"class": "x"}}),
    "another version": lambda p: p.update(version=99),
    "a keyword of Python as an input": lambda p: p["nodes"][0].update(target="class"),
    "a keyword with code in it": lambda p: p["nodes"][1].update(kwargs={"a=1, b": 1}),
    "a keyword that is no name": lambda p: p["nodes"][1].update(kwargs={"a.b": 1}),
    "arguments of another type": lambda p: p["nodes"][1].update(args="os"),
    "more inputs than memory": _reconfigure(inputs=10**12),
    "a layer larger than memory": _reconfigure(
        arguments={"in_features": 10**9, "out_features": 10**9, "bias": True}
    ),
    "packed codes of a wrong shape": lambda p: p["packed"].update(
        {"x": {"dtype": "qint4", "shape": [10**9]}}
    ),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_is_refused(change):
    with pytest.raises(FormatError):
        load_quantized(_rewritten(change))


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04" + b"\0" * 100, b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"],
    ids=["empty", "a zip", "noise", "a header that claims exabytes"],
)
def test_what_is_not_a_safetensors_file_is_refused(content):
    with pytest.raises(FormatError, match=r"Not a safetensors file"):
        load_quantized(content)


def test_a_truncated_checkpoint_is_refused():
    content = checkpoint_bytes(_converted("mlp")[0])
    with pytest.raises(FormatError, match="not readable"):
        load_quantized(content[:-10])


def test_plain_weights_are_not_a_quantized_model():
    with pytest.raises(FormatError, match=r"not a quantized model of qlab"):
        load_quantized(save({"x": torch.zeros(1)}))


@pytest.mark.parametrize(
    "layer",
    [
        nn.SiLU(),
        nn.PReLU(4),
        nn.Softplus(2.0),
        nn.RMSNorm(8),
        nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1, groups=2, bias=False),
        nn.PixelShuffle(2),
        nn.LogSoftmax(1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_has_no_integer_form_travels_in_float(layer):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer), torch.randn(2, 3, 8, 8)
    converted = qlab.Lab(model, x, [x]).convert()
    assert torch.equal(load_quantized(checkpoint_bytes(converted))(x), converted(x))


def test_an_embedding_travels_in_float():
    model, x = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 2)), torch.randint(0, 9, (4, 5))
    converted = qlab.Lab(model, x, [x]).convert()
    assert torch.equal(load_quantized(checkpoint_bytes(converted))(x), converted(x))


@pytest.mark.parametrize(("source", "error"), [("missing", ArgumentError), (None, DTypeError)])
def test_what_is_no_file_is_refused(tmp_path, source, error):
    with pytest.raises(error):
        load_quantized(tmp_path / source if source else source)


def test_bytes_of_any_kind_are_read_and_the_device_is_checked():
    content = checkpoint_bytes(_converted("mlp")[0])
    assert load_quantized(bytearray(content)).training is False
    with pytest.raises(ArgumentError, match="no such device"):
        load_quantized(content, device="nowhere")


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    model = _converted("mlp")[0]
    with pytest.raises(ArgumentError, match="No file can be written there"):
        save_quantized(model, tmp_path / "missing" / "model.safetensors")


def test_memory_formats_are_written(tmp_path):
    class Laid(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = self.conv(x).contiguous(memory_format=torch.channels_last)
            return torch.clone(y, memory_format=torch.contiguous_format)

    x = torch.randn(2, 3, 8, 8)
    lab = qlab.Lab(Laid(), x, [x])
    loaded = qlab.load_quantized(lab.export(tmp_path / "model.safetensors"))
    assert lab.identical(lab.convert(), loaded)
