"""The README's examples run as they stand and show what the text says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qlab
import sample_models
from qlab.cli import main
from tests.upload_files import Small, npz, small_archive

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
MINE = """
import torch
from tests.upload_files import Small

def model():
    torch.manual_seed(0)
    return Small()

def batches():
    return [(torch.randn(16, 1, 6, 6), torch.arange(16) % 3)] * 2
"""


def sections() -> dict[str, str]:
    """The README's sections by their titles, in order."""
    _, *parts = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def code(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", sections()[section], re.DOTALL)


def test_the_second_section_shows_a_model_of_your_own_in_three_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert list(sections())[1] == "Your own model"
    (example,) = code("Your own model", "python")
    assert len(example.strip().splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, batches = Small().eval(), [torch.randn(16, 1, 6, 6)]
    exec(example, {"qlab": qlab, "model": model, "inputs": batches[0][:1], "batches": batches})
    shown = capsys.readouterr().out
    numbers = [float(x) for x in re.findall(r"^\w+ +([0-9.]+)$", shown, re.MULTILINE)]
    assert numbers and numbers == sorted(numbers)
    loaded = qlab.load_quantized("model.safetensors")(batches[0])
    assert (loaded - model(batches[0])).abs().max() < 0.1


def test_the_python_example_runs_and_shows_what_the_text_says(tmp_path: Path):
    (example,) = code("From Python", "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    accuracies = dict(re.findall(r"^(int8\S*): ([0-9.]+) %", done.stdout, re.MULTILINE))
    assert 25 < float(accuracies["int8-per-tensor"]) < 45
    assert float(accuracies["int8"]) >= 97.5


def words(line: str) -> str:
    return re.sub(r"-?[0-9.]+", "", line)


def test_the_repairs_reach_what_the_text_shows(capsys: pytest.CaptureFixture[str]):
    section = "Winning accuracy back"
    (searching, training), shown = code(section, "python"), code(section, "text")
    sample = sample_models.load("depthwise")
    data = sample.calibration(), sample.evaluation()
    names = {"lab": qlab.Lab(sample.model, sample.example_inputs, *data)}
    exec(searching, names)
    printed, expected = capsys.readouterr().out.splitlines(), shown[0].splitlines()
    # What comes between depends on which of two remedies of a moment this machine thinks quicker.
    assert [words(printed[i]) for i in (0, -1)] == [words(expected[i]) for i in (0, -1)]
    assert names["better"].compare(names["better"].mapping).output["accuracy"] >= 97
    assert len(names["lab"].runs) > 1 and names["lab"].before is None
    exec(training, names)
    assert words(capsys.readouterr().out) == words(shown[1])
    before, after = map(float, re.findall(r"accuracy ([0-9.]+) → ([0-9.]+) %", shown[1])[0])
    report = names["trained"].report
    assert report.before["accuracy"] == pytest.approx(before, abs=0.4)
    assert report.after["accuracy"] == pytest.approx(after, abs=1.5)  # of another CPU's sums
    assert names["model"](sample.example_inputs[0]).shape == (1, 10)


def measured() -> dict[str, dict[str, str]]:
    """CPU times in benchmarks/RESULTS.md, by what ran and with what."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    part = text[text.index("<!-- inference: begin") : text.index("<!-- inference: end")]
    found: dict[str, dict[str, str]] = {}
    what = ""
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 9:
            what = cells[0] or what
            found.setdefault(what, {})[cells[1]] = cells[4]
    return found


def test_the_performance_section_quotes_what_was_measured():
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Performance") : text.index("## More")]
    rows = [[c.strip() for c in r.strip("|").split("|")] for r in section.splitlines() if "|" in r]
    (_, *heads), _, *quoted = rows
    names = {"ResNet-18": "ResNet", "dynamic LSTM": "dynamic LSTM", "MobileNetV2": "MobileNetV2"}
    names["linear 4096×4096"] = "linear 4096×4096"
    assert len(quoted) == len(names)
    for title, *times in quoted:
        found = measured()[names[title.split(",")[0]]]
        assert times == [found.get(head, "") for head in heads], title


def commands() -> list[str]:
    blocks = [*code("Your own model", "sh"), *code("From the command line", "sh")]
    return [line for block in blocks for line in block.splitlines() if line.startswith("qlab ")]


@pytest.mark.parametrize("line", commands())
def test_every_command_runs_as_it_stands(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "model.pt2").write_bytes(small_archive())
    x = torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    (tmp_path / "data.npz").write_bytes(npz(x=x.numpy()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    served: list[object] = []
    monkeypatch.setattr("qlab.cli.commands.serve", lambda *given: served.append(given))
    arguments = shlex.split(line, comments=True)[1:]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    # The random model misses --fail-under accuracy=0.95, which is what 1 says.
    assert end.value.code == (1 if "accuracy=0.95" in line else 0)
    assert bool(served) == (arguments[0] == "explore")
