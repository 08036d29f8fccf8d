"""Every file of `examples/` runs as it stands, and prints accuracies that are worth showing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "digits")


def run(path: Path, folder: Path) -> str:
    """What an example prints; run elsewhere, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", path],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_loses_little(path: Path, tmp_path: Path):
    found = re.findall(r"^(.*?) +([0-9.]+) %", run(path, tmp_path), re.MULTILINE)
    accuracies = [float(value) for _, value in found]
    assert len(accuracies) >= 2, "an example prints the float accuracy first, the quantized last"
    assert accuracies[0] > 80
    assert accuracies[-1] > accuracies[0] - 6


def test_training_wins_accuracy_back(tmp_path: Path):
    printed = run(ROOT / "examples" / "qat_fx.py", tmp_path)
    rounded, trained = (float(v) for v in re.findall(r"(?:rounded|trained) ([0-9.]+) %", printed))
    assert trained > rounded + 3


def test_a_cluster_sees_what_one_process_sees(tmp_path: Path):
    printed = run(ROOT / "examples" / "calibrate_on_dask.py", tmp_path)
    assert "256 images" in printed
    assert "identical to one process: True" in printed


def test_the_list_of_examples_is_complete():
    listed = (ROOT / "examples" / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.py\)", listed)) == {path.stem for path in EXAMPLES}
