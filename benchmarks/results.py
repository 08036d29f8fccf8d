"""`benchmarks/RESULTS.md`: each script keeps its table there, between markers of its own."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """Processor, versions and date: what a number cannot be read without."""
    try:
        cpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        name = next(line.split(":")[1].strip() for line in cpu.splitlines() if "Model name" in line)
    except (OSError, StopIteration, subprocess.CalledProcessError):
        name = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return (
        f"{name}, {threads} thread{'s' * (threads != 1)}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, qlab {version('qlab')}, {datetime.now(UTC):%Y-%m-%d}"
    )


def load() -> str:
    """How busy the machine is at the moment."""
    average = os.getloadavg()[0]
    return f"Load of the machine when it began: {average:.1f} (0 is idle; wall time suffers above)"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, line by line."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def write(name: str, lines: Sequence[str]) -> None:
    """Puts a script's part between its markers; what else the file holds stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    part = "\n".join([begin, *lines, end])
    text = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    if begin in text:
        start, stop = text.index(begin), text.index(end) + len(end)
        text = text[:start] + part + text[stop:]
    else:
        text = text.rstrip() + "\n\n" + part + "\n"
    RESULTS.write_text(text)


def read(name: str) -> list[dict[str, str]]:
    """The rows of the tables in a script's part, by their heads; none where it was not written."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    part = text.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], cells, strict=False)) for cells in lines[2:]]
