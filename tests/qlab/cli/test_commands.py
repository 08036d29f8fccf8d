"""The command as a job runs it: what it prints where, and with what code it ends."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import qlab
import sample_models
from qlab.cli import main

ROOT = Path(__file__).parents[3]
FAST = ("mlp", "--samples", "16")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What ``--json`` printed; all of stdout is one document."""
        return json.loads(self.out)


@pytest.fixture
def qlab_command(capsys, monkeypatch, tmp_path):
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        printed = capsys.readouterr()
        return Ended(int(end.value.code or 0), printed.out, printed.err)

    return run


class TestAnalyze:
    def test_the_document_holds_what_the_engine_measured(self, qlab_command):
        done = qlab_command("analyze", *FAST, "--preset", "int4-weights", "--json", "--worst", "1")
        sample = sample_models.load("mlp")
        lab = qlab.Lab(
            sample.model, sample.example_inputs, sample.calibration(16), sample.evaluation()
        )
        report = lab.compare("int4-weights")
        document = done.document
        assert done.code == 0
        assert document["metrics"]["sqnr"] == pytest.approx(report.output["sqnr"])
        assert document["metrics"]["accuracy"] == pytest.approx(report.output["accuracy"] / 100)
        assert [row["layer"] for row in document["layers"]] == list(report.layers.index)
        assert document["calibration_samples"] == 16
        assert document["worst"][0]["layer"] == report.worst(1).index[0]
        assert document["run"] is None

    def test_progress_goes_to_stderr_and_the_result_to_stdout(self, qlab_command):
        done = qlab_command("analyze", *FAST)
        assert "Comparing" in done.err
        assert "Comparing" not in done.out
        assert "accumulated dB" in done.out

    def test_a_met_threshold_ends_with_0_and_a_missed_one_with_1(self, qlab_command):
        met = qlab_command("analyze", *FAST, "--json", "--fail-under", "accuracy=0.9")
        assert met.code == 0
        assert met.document["gates"][0]["passed"] is True
        missed = qlab_command(
            "analyze", *FAST, "--fail-under", "accuracy=0.9", "--fail-under", "sqnr=99"
        )
        assert missed.code == 1
        assert "under 99" in missed.err
        assert "accuracy" not in missed.err
        assert qlab_command("analyze", *FAST, "--fail-over", "nmse=0").code == 1

    def test_a_recipe_takes_the_place_of_a_preset(self, qlab_command, tmp_path):
        mapping = qlab.QConfigMapping()  # everything stays in float
        (tmp_path / "recipe.json").write_text(mapping.to_json())
        done = qlab_command("analyze", *FAST, "--mapping", "recipe.json", "--json")
        assert done.document["configuration"] == "recipe.json"
        assert done.document["metrics"]["sqnr"] == "inf"
        assert done.document["layers"] == []

    def test_rules_that_matched_nothing_are_told(self, qlab_command, tmp_path):
        mapping = qlab.presets.get("int8").mapping().set_module_name("nowhere", None)
        (tmp_path / "recipe.json").write_text(mapping.to_json())
        done = qlab_command("analyze", *FAST, "--mapping", "recipe.json")
        assert "matched nothing" in done.err
        assert "nowhere" in done.err


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["analyze", "nope"], "a sample model (mlp,"),
            (["analyze", "model.pt2"], "'model.pt2' comes without data"),
            (["analyze", "model.pt2", "--data", "random"], "The file cannot be read"),
            (["analyze", "mlp", "--architecture", "mlp"], "is for weights in safetensors"),
            (["analyze", "mlp", "--image-mean", "grey"], "is no list of numbers"),
            (["analyze", "mlp", "--image-size", "8x8x8"], "is no size such as 224"),
            (["explore", "mlp"], "Sample models are chosen in the app"),
            (["analyze", "mlp", "--samples", "99999"], "has fewer images"),
            (["analyze", "mlp", "--preset", "int9"], "'int9' is not one of"),
            (["analyze", "mlp", "--mapping", "none.json"], "does not exist"),
            (["analyze", "mlp", "--fail-under", "speed=1"], "Unknown metric 'speed'"),
            (["analyze", "mlp", "--device", "abacus"], "abacus"),
            (["quantize", "mlp", "-o", "model.onnx"], "a .safetensors file"),
            (["export", "mlp", "-o", "model.txt"], "qlab writes no .txt"),
            (["export", "mlp", "-o", "none/model.json"], "There is no such folder"),
            (["explore", "nowhere_at_all:model", "--data", "x:y"], "cannot be imported"),
            (["nonsense"], "No such command"),
        ],
    )
    def test_a_message_and_no_traceback(self, arguments, message, qlab_command):
        done = qlab_command(*arguments)
        assert done.code == 2
        assert message in " ".join(done.err.split())
        assert "Traceback" not in done.err
        assert done.out == ""

    def test_a_recipe_that_is_none(self, qlab_command, tmp_path):
        (tmp_path / "recipe.json").write_text("{}")
        done = qlab_command("analyze", "mlp", "--mapping", "recipe.json")
        assert done.code == 2
        assert "Not the JSON of a QConfigMapping" in done.err

    def test_a_preset_and_a_recipe_exclude_each_other(self, qlab_command, tmp_path):
        (tmp_path / "recipe.json").write_text("{}")
        done = qlab_command("analyze", "mlp", "--mapping", "recipe.json", "--preset", "int8")
        assert done.code == 2
        assert "exclude each other" in done.err

    def test_debug_shows_where(self, qlab_command):
        assert "Traceback" in qlab_command("--debug", "analyze", "nope").err

    def test_a_metric_that_needs_labels(self, qlab_command, tmp_path, monkeypatch):
        (tmp_path / "unlabelled.py").write_text(
            "import torch\ndef batches(): return [torch.zeros(4, 1, 8, 8)]\n"
        )
        done = qlab_command(
            "analyze", "mlp", "--data", "unlabelled:batches", "--fail-under", "accuracy=0.5"
        )
        assert done.code == 2
        assert "accuracy was not measured (it needs labels)" in done.err

    def test_interrupted(self, qlab_command, monkeypatch):
        def interrupt(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("qlab.cli.commands.load_subject", interrupt)
        done = qlab_command("analyze", "mlp")
        assert (done.code, done.err.strip()) == (130, "Interrupted.")


class TestFiles:
    def test_quantize_writes_a_model_that_loads(self, qlab_command, tmp_path):
        done = qlab_command("quantize", *FAST, "-o", "model.safetensors", "--json")
        assert done.code == 0
        (file,) = done.document["files"]
        assert file["bytes"] == (tmp_path / "model.safetensors").stat().st_size
        model = qlab.load_quantized(tmp_path / "model.safetensors")
        assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)

    def test_a_missed_threshold_writes_nothing(self, qlab_command, tmp_path):
        done = qlab_command(
            "quantize", *FAST, "-o", "model.safetensors", "--fail-under", "sqnr=99", "--json"
        )
        assert done.code == 1
        assert done.document["files"] == []
        assert [*tmp_path.iterdir()] == []

    def test_export_of_onnx_prints_what_onnxruntime_made_of_it(self, qlab_command, tmp_path):
        done = qlab_command("export", *FAST, "-o", str(tmp_path / "model.onnx"))
        assert done.code == 0, done.err
        assert "every operator at most" in done.out
        assert "Each operator alone: of" in done.out
        assert "The whole network: of" in done.out

    def test_onnx_beside_the_integers_as_deployed_and_as_measured_is_in_the_json(
        self, qlab_command, tmp_path
    ):
        done = qlab_command("export", *FAST, "-o", "model.onnx", "--json")
        (file,) = done.document["files"]
        sample = sample_models.load("mlp")
        lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(16))
        check = lab.check_onnx(tmp_path / "model.onnx", "int8")
        assert file["check"]["measured"] == {
            name: value if math.isfinite(value) else str(value)
            for name, value in check.measured.items()
        }
        assert file["check"]["measured"].keys() >= {"sqnr", "top1_agreement"}
        assert file["check"]["output"]["exact"] == 1.0
        assert file["check"]["local"]["codes"] == check.totals("local")["codes"] > 0

    def test_export_writes_every_file_and_the_script_knows_the_model(self, qlab_command, tmp_path):
        names = ["m.safetensors", "m.json", "m.py", "m.html"]
        outputs = [part for name in names for part in ("-o", name)]
        done = qlab_command("export", *FAST, *outputs)
        assert done.code == 0
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
        assert "model = 'mlp'" in (tmp_path / "m.py").read_text()
        assert "<h1>mlp:" in (tmp_path / "m.html").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two runs of one model."""
    path = tmp_path_factory.mktemp("runs") / "runs.sqlite"
    for preset in ("int8", "int4-weights"):
        with pytest.raises(SystemExit):
            main(["analyze", *FAST, "--preset", preset, "--runs", str(path), "--worst", "0"])
    return path


class TestCompare:
    def test_numbers_and_layers_second_minus_first(self, runs, qlab_command):
        document = qlab_command("compare", "1", "int4-weights", "--runs", runs, "--json").document
        a, b = (run["metrics"] for run in document["runs"])
        assert document["same_subject"] is True
        assert document["change"]["sqnr"] == pytest.approx(b["sqnr"] - a["sqnr"])
        assert document["change"]["sqnr"] < -3
        assert document["layers"][0]["sqnr_local_change"] < 0

    def test_thresholds_are_on_the_change(self, runs, qlab_command):
        worse = qlab_command("compare", "1", "2", "--runs", runs, "--fail-under", "sqnr=-1")
        assert worse.code == 1
        assert "int4-weights" in worse.out
        better = qlab_command("compare", "2", "1", "--runs", runs, "--fail-under", "sqnr=-1")
        assert better.code == 0

    def test_an_unknown_run_is_named(self, runs, qlab_command):
        done = qlab_command("compare", "1", "int8 again", "--runs", runs)
        assert done.code == 2
        assert "Unknown run 'int8 again'" in done.err
        assert qlab_command("compare", "1", "9", "--runs", runs).code == 2


def test_an_error_is_json_where_json_was_asked_for(qlab_command):
    ended = qlab_command("analyze", "nonesuch", "--json")
    assert ended[0] == 2
    assert "Unknown model 'nonesuch'" in json.loads(ended[1])["error"]
    assert "Unknown model 'nonesuch'" in ended[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "mlp", "--bits", "4"], "No such option"),
        (["analyze", "mlp", "--mapping", "none.json"], "'none.json' does not exist"),
        (["compare", "1", "2", "--runs", "none.sqlite"], "'none.sqlite' does not exist"),
        (["analyze"], "Missing argument 'MODEL'"),
        (["quantize", "mlp", "-o", "model.onnx"], "a .safetensors file"),
        (["analyze", "mlp", "--samples", "none"], "'none' is not a valid integer"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_is_json_too(arguments, message, qlab_command):
    done = qlab_command(*arguments, "--json")
    assert done.code == 2
    assert list(done.document) == ["error"] and message in done.document["error"]
    assert message in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (ZeroDivisionError("in the model"), 2, "ZeroDivisionError: in the model"),
    ],
)
def test_so_are_an_interrupt_and_an_error_of_the_models_own(
    raised, code, told, qlab_command, monkeypatch
):
    def ends(*_, **__):
        raise raised

    monkeypatch.setattr("qlab.cli.commands.load_subject", ends)
    done = qlab_command("analyze", "mlp", "--json")
    assert (done.code, done.document) == (code, {"error": told})


def test_less_than_no_layer_is_refused(qlab_command):
    ended = qlab_command("analyze", "mlp", "--worst", "-3")
    assert ended[0] == 2 and "--worst" in ended[2] and "-3" in ended[2]


def test_the_sample_models_are_listed(qlab_command):
    assert tuple(qlab_command("models", "--json").document) == sample_models.names()


@pytest.mark.parametrize("command", ["analyze", "quantize", "export", "compare", "explore"])
def test_help_says_what_and_how(command, qlab_command):
    done = qlab_command(command, "--help")
    assert done.code == 0
    assert "Options:" in done.out
    missing = [line for line in done.out.splitlines() if len(line) > 100]
    assert not missing


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "qlab.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for words in ("analyze", "compare", "Exit codes:", "a threshold is not met"):
        assert words in done.stdout
