"""A replay script ends in the same integers, and says so where it does not."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import qlab
import sample_models
from qlab import TensorSpec
from qlab.cli import load_subject
from qlab.io.replay import Origin
from qlab.qconfig import qconfig_of

ROOT = Path(__file__).parents[3]
TRAINED = sample_models.names(trained=True)


def made(folder: Path, name: str, samples: int, origin: bool = True) -> tuple[Path, Path]:
    """A script and a checkpoint of a sample model, with a rule of a person's own."""
    subject = load_subject(name, samples=samples)
    lab = qlab.Lab(subject.model, subject.example_inputs, subject.calibration)
    mapping = qlab.presets.get("int8").mapping()
    last = lab.plan(mapping).quantized_steps[-1].name
    spec = qconfig_of(TensorSpec.uint8_activation(), TensorSpec.int8_weight().with_bits(4))
    mapping.set_module_name(last, spec)
    where = Origin(name, samples=samples) if origin else None
    script = lab.export(folder / "replay.py", mapping, origin=where)
    return script, lab.export(folder / "model.safetensors", mapping)


@pytest.mark.parametrize("name", sample_models.names())
def test_every_sample_model_comes_out_bit_equal(name, tmp_path, monkeypatch, capsys):
    script, checkpoint = made(tmp_path, name, samples=8 if name in TRAINED else 1)
    again = tmp_path / "again.safetensors"
    monkeypatch.setattr(sys, "argv", ["replay.py", "--output", str(again)])
    runpy.run_path(str(script), run_name="__main__")
    assert again.read_bytes() == checkpoint.read_bytes()
    assert "The same integers" in capsys.readouterr().out


def test_integer_biases_are_replayed(tmp_path, monkeypatch, capsys):
    subject = load_subject("mlp", samples=8)
    lab = qlab.Lab(subject.model, subject.example_inputs, subject.calibration)
    mapping = qlab.presets.get("int8").mapping().set_integer_biases()
    script = lab.export(tmp_path / "replay.py", mapping, origin=Origin("mlp", samples=8))
    monkeypatch.setattr(sys, "argv", ["replay.py", "--output", str(tmp_path / "a.safetensors")])
    runpy.run_path(str(script), run_name="__main__")
    assert "The same integers" in capsys.readouterr().out
    again = qlab.load_quantized(tmp_path / "a.safetensors")
    assert any(getattr(module, "integer_bias", False) for module in again.modules())


def test_a_repaired_model_comes_out_bit_equal(tmp_path):
    sample = sample_models.load("conv_bn_relu")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(32))
    mapping = qlab.presets.get("int4-weights").mapping()
    better = lab.apply(lab.repair_with("equalize", mapping))
    first = better.plan(mapping).quantized_steps[1].name
    better = better.apply(better.repair_with("adaround", mapping, [first], steps=50, seed=3))
    script = better.export(
        tmp_path / "replay.py", mapping, origin=Origin("conv_bn_relu", samples=32)
    )
    checkpoint = better.export(tmp_path / "model.safetensors", mapping).read_bytes()
    done = replayed(script, "--output", "again.safetensors")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint
    assert checkpoint != lab.export(tmp_path / "plain.safetensors", mapping).read_bytes()


def replayed(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a Python of its own, in its own folder."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=script.parent,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_in_a_process_of_its_own_it_comes_out_bit_equal(tmp_path):
    script, checkpoint = made(tmp_path, "mlp", samples=32)
    done = replayed(script, "--output", "again.safetensors")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv_bn_relu"], "the model is another one"),
        (["mlp", "--samples", "64"], "the calibration data differ"),
    ],
)
def test_what_is_different_is_named_and_nothing_is_written(
    arguments, message, tmp_path, monkeypatch
):
    script, _ = made(tmp_path, "mlp", samples=8)
    again = tmp_path / "again.safetensors"
    monkeypatch.setattr(sys, "argv", ["replay.py", *arguments, "--output", str(again)])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(script), run_name="__main__")
    assert not again.exists()


def test_without_an_origin_the_command_line_says_the_model(tmp_path, monkeypatch, capsys):
    script, _ = made(tmp_path, "mlp", samples=8, origin=False)
    monkeypatch.setattr(sys, "argv", ["replay.py"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 2
    assert "model" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["replay.py", "mlp", "--samples", "8"])
    runpy.run_path(str(script), run_name="__main__")
    assert "The same integers" in capsys.readouterr().out
