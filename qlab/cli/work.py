"""What the commands compute, as documents: plain data that is printed as JSON or as tables."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from qlab import presets
from qlab.analysis.report import Report
from qlab.cli import console
from qlab.cli.gates import named_metrics, report_metrics
from qlab.cli.subject import Subject
from qlab.errors import ArgumentError, UnknownNameError
from qlab.io.exports import WRITERS
from qlab.io.onnx_check import WHERE
from qlab.io.replay import Origin
from qlab.lab import Lab
from qlab.qconfig import QConfigMapping
from qlab.runs import Run, Runs

#: Columns of `Report.layers` that the documents hold.
_COLUMNS = ("type", "execution", "sqnr_local", "sqnr_accumulated", "sqnr_ideal", "clipped_share")


def qlab_version() -> str:
    """The installed version; ``"unknown"`` where qlab was only put on Python's path."""
    try:
        return version("qlab")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Work:
    """A Lab of what the command line named, and the configuration.

    Attributes:
        subject: Model and data.
        origin: How they were named.
        lab: Not calibrated yet.
        mapping: The configuration.
        configuration: What it is called: a preset's name or the recipe's path.
        keeps: Whether runs outlive the command.
    """

    subject: Subject
    origin: Origin
    lab: Lab
    mapping: QConfigMapping
    configuration: str
    keeps: bool

    @classmethod
    def of(
        cls,
        subject: Subject,
        origin: Origin,
        preset: str | None,
        recipe: Path | None,
        *,
        device: str | None = None,
        runs: Path | None = None,
    ) -> Work:
        """Builds the Lab.

        Raises:
            QlabError: The model cannot be traced, or the recipe is none.
        """
        name = str(recipe) if recipe else preset or "int8"
        mapping = _recipe(recipe) if recipe else presets.get(name).mapping()
        data = (subject.calibration, subject.evaluation)
        lab = Lab(subject.model, subject.example_inputs, *data, device, runs=runs)
        return cls(subject, origin, lab, mapping, name, runs is not None)

    def heading(self, command: str) -> dict[str, Any]:
        """What every document begins with."""
        return {
            "qlab": qlab_version(),
            "command": command,
            "model": self.subject.name,
            "configuration": self.configuration,
        }

    def report(self) -> Report:
        """Calibrates and compares, with bars on stderr."""
        with console.progress("Calibrating") as bar:
            self.lab.calibrate(bar)
        with console.progress("Comparing") as bar:
            return self.lab.compare(self.mapping, on_progress=bar)

    def metrics(self) -> dict[str, float]:
        """What thresholds are held against."""
        return report_metrics(self.report())

    def check(self, outputs: tuple[Path, ...]) -> None:
        """Complains about files that cannot be written before anything is computed.

        Raises:
            ArgumentError: An unknown suffix, or no such folder.
        """
        for path in outputs:
            if path.suffix not in WRITERS:
                raise ArgumentError(
                    f"qlab writes no {path.suffix or 'files without suffix'}",
                    expected="one of: " + ", ".join(WRITERS),
                    received=str(path),
                )
            if not path.parent.is_dir():
                raise ArgumentError("There is no such folder", received=str(path.parent))

    def write(self, path: Path) -> dict[str, Any]:
        """Exports one file, with bars on stderr."""
        if self.lab.calibrated is None:
            with console.progress("Calibrating") as bar:
                self.lab.calibrate(bar)
        with console.progress(f"Writing {path.name}") as bar:
            self.lab.export(path, self.mapping, origin=self.origin)
            bar(1, 1, "")
        written: dict[str, Any] = {"path": str(path), "bytes": path.stat().st_size}
        return written | ({"check": self._check(path)} if path.suffix == ".onnx" else {})

    def _check(self, path: Path) -> dict[str, Any]:
        """What onnxruntime makes of a file, in counts and in words."""
        with console.progress("Running it in onnxruntime") as bar:
            check = self.lab.check_onnx(path, self.mapping, on_progress=bar)
        tensors = check.table.reset_index().to_dict("records")
        totals = {where: check.totals(where) for where in WHERE}
        return {
            "words": check.describe(), "output": check.output, "measured": check.measured,
            **totals, "tensors": tensors,
        }  # fmt: skip


def _recipe(path: Path) -> QConfigMapping:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} cannot be read: {error}") from error
    return QConfigMapping.from_json(text)


def analysis(work: Work, worst: int) -> dict[str, Any]:
    """Everything `qlab analyze` says.

    Args:
        work: The model and its configuration.
        worst: For how many layers causes are looked for.
    """
    report = work.report()
    names = [str(name) for name in report.worst(worst).index] if worst else []
    causes = {}
    with console.progress("Looking for causes") as bar:
        for done, name in enumerate(names):
            bar(done, len(names), name)
            causes[name] = work.lab.causes(name, work.mapping)
        bar(len(names), len(names), "")
    calibration, run = work.lab.calibrate(), work.lab.runs.latest(work.lab.subject)
    return work.heading("analyze") | {
        "subject": work.lab.subject,
        "data": work.subject.about or work.origin.data,
        "calibration_samples": calibration.samples,
        "evaluation_samples": report.samples,
        "metrics": report_metrics(report),
        "operators": vars(report.coverage),
        "layers": _rows(report.layers.filter(list(_COLUMNS))),
        "worst": [
            {
                "layer": name,
                "causes": [
                    {
                        "kind": cause.kind,
                        "sentence": cause.sentence,
                        "remedy": cause.remedy_label,
                        "gain": cause.gain,
                    }
                    for cause in causes[name]
                ],
            }
            for name in names
        ],
        "unmatched_rules": list(report.plan.unmatched),
        "run": run.id if run is not None and work.keeps else None,
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table that is indexed by layer."""
    rows = table.to_dict("records")
    return [{"layer": str(name), **row} for name, row in zip(table.index, rows, strict=True)]


def show_analysis(document: dict[str, Any]) -> None:
    """Prints `analysis` for people."""
    console.say(f"{document['model']}, {document['configuration']}")
    console.say(
        f"calibrated on {document['calibration_samples']} samples, "
        f"measured on {document['evaluation_samples']}"
    )
    if document["data"]:
        console.say(document["data"])
    console.say()
    _show_numbers(document["metrics"])
    console.say()
    decibels = ("sqnr_local", "sqnr_accumulated", "sqnr_ideal")
    console.table(
        ["layer", "type", "runs as", ">local dB", ">accumulated dB", ">ideal dB"],
        [
            [row["layer"], row["type"], row["execution"], *(f"{row[c]:.1f}" for c in decibels)]
            for row in document["layers"]
        ],
    )
    for entry in document["worst"]:
        for cause in entry["causes"]:
            gain = cause["gain"]
            told = "" if gain is None else f" ({gain:+.1f} dB)"
            console.say(f"\n{entry['layer']}: {cause['sentence']}\n  {cause['remedy']}{told}")
    for rule in document["unmatched_rules"]:
        console.complain(f"This rule matched nothing: {rule}")
    if document["run"] is not None:
        console.say(f"\nKept as run {document['run']}.")


def check_words(check: dict[str, Any]) -> str:
    """What `Work.write` found of an ONNX file, for people."""
    lines = [f"  {check['words']}."]
    for where, told in (("local", "Each operator alone"), ("accumulated", "The whole network")):
        counts = check[where]
        off = ", ".join(f"{counts[f'off_by_{n}']:,} by {n}" for n in (1, 2, "more"))
        lines.append(f"  {told}: of {counts['codes']:,} codes off are {off}.")
    return "\n".join(lines)


def _show_numbers(metrics: dict[str, float]) -> None:
    console.table(
        ["metric", ">value"], [(name, console.number(value)) for name, value in metrics.items()]
    )


def compared_runs(path: Path, first: str, second: str) -> dict[str, Any]:
    """Everything `qlab compare` says.

    Raises:
        UnknownNameError: There is no such run.
        ArgumentError: Several runs have this name.
    """
    runs = Runs(path)
    a, b = _run(runs, first), _run(runs, second)
    numbers = [named_metrics(run.metrics, run.layers) for run in (a, b)]
    shared = [name for name in numbers[0] if name in numbers[1]]
    return {
        "qlab": qlab_version(),
        "command": "compare",
        "runs": [
            {
                "id": run.id,
                "name": run.name,
                "created": run.created.isoformat(),
                "subject": run.subject,
                "metrics": own,
            }
            for run, own in zip((a, b), numbers, strict=True)
        ],
        "same_subject": a.subject == b.subject,
        "change": {name: _change(numbers[0][name], numbers[1][name]) for name in shared},
        "layers": _rows(runs.compare(a.id, b.id)),
    }


def _change(before: float, after: float) -> float:
    return 0.0 if before == after else after - before


def _run(runs: Runs, text: str) -> Run:
    if text.isdecimal():
        return runs.get(int(text))
    found = [run for run in runs if run.name == text]
    if not found:
        raise UnknownNameError.of("run", text, [f"{run.id} ({run.name})" for run in runs])
    if len(found) > 1:
        raise ArgumentError(
            f"Several runs are called {text!r}",
            expected="a number: " + ", ".join(str(run.id) for run in found),
        )
    return found[0]


def show_comparison(document: dict[str, Any]) -> None:
    """Prints `compared_runs` for people."""
    a, b = document["runs"]
    if not document["same_subject"]:
        console.complain("The runs are of different models or data.")
    console.table(
        ["metric", f">{a['id']} {a['name']}", f">{b['id']} {b['name']}", ">change"],
        [
            [name, *(console.number(run["metrics"][name]) for run in (a, b)), f"{change:+.4g}"]
            for name, change in document["change"].items()
        ],
    )
    console.say()
    columns = ("sqnr_local_a", "sqnr_local_b", "sqnr_local_change", "sqnr_accumulated_change")
    console.table(
        ["layer", ">local a dB", ">local b dB", ">change", ">accumulated change"],
        [[row["layer"], *(f"{row[c]:.1f}" for c in columns)] for row in document["layers"]],
    )
