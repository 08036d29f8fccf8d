"""A report as a run: what `Lab.compare` keeps."""

from __future__ import annotations

from qlab import presets
from qlab.analysis.calibration import Calibration
from qlab.analysis.report import Report
from qlab.errors import QlabError
from qlab.qconfig import QConfigMapping
from qlab.runs.rows import DIGEST, Run
from qlab.runs.store import Runs


def record_report(
    runs: Runs,
    mapping: QConfigMapping,
    report: Report,
    *,
    subject: str,
    seconds: float,
    name: str | None = None,
    parent: int | None = None,
    calibration: Calibration | None = None,
) -> Run | None:
    """Keeps a report as the run of its mapping.

    Args:
        runs: Where to.
        mapping: What was measured.
        report: What came out; see `run_metrics` for the numbers.
        subject: Fingerprint of model and data.
        seconds: How long it took.
        name: What people call it, also if it has a name; if not given, a new run is called after
            the preset that the mapping equals, else by its number.
        parent: The run that a new one was made from; the latest of the subject if not given.
        calibration: What the ranges come from: kept as the numbers ``calibration_samples``,
            ``calibration_batches``, ``calibration_complete``, 1, or 0 where it was stopped early,
            and ``calibration_digest`` of the statistics, which is part of what a run is: the same
            mapping after other data was seen is another run. Runs that an earlier qlab kept have
            none of them.

    Returns:
        The run. None, and nothing is kept, where the comparison was stopped early, or where the
        mapping holds a callable that is not registered and so cannot be written down.
    """
    if not report.complete:
        return None
    try:
        mapping.to_json()
    except QlabError:
        return None
    run = runs.record(
        mapping,
        run_metrics(report) | _calibration_metrics(calibration),
        subject=subject,
        name=name or _preset_of(mapping),
        parent=parent,
        layers=report.layers,
        seconds=seconds,
    )
    return run if name in (None, run.name) else runs.rename(run.id, name)


def _calibration_metrics(calibration: Calibration | None) -> dict[str, float]:
    if calibration is None:
        return {}
    return {
        "calibration_samples": calibration.samples,
        "calibration_batches": calibration.batches,
        DIGEST: int(calibration.digest, 16),
        "calibration_complete": float(calibration.complete),
    }


def _preset_of(mapping: QConfigMapping) -> str | None:
    return next((p.name for p in presets.PRESETS.values() if p.mapping() == mapping), None)


def run_metrics(report: Report) -> dict[str, float]:
    """The network's metrics, and ``float_bytes``, ``quantized_bytes``, ``integer_share`` (0 to 1)
    and ``samples``.
    """
    return {
        **report.output,
        "float_bytes": report.size.float_bytes,
        "quantized_bytes": report.size.quantized_bytes,
        "integer_share": report.integer_share,
        "samples": report.samples,
    }
