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
