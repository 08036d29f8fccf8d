"""The README's example runs as it stands and shows what the text below it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_python_example_runs_and_shows_what_the_text_says(tmp_path: Path):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
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
