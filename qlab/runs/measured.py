"""A report as a run: what `Lab.compare` keeps."""

from __future__ import annotations

from qlab import presets
from qlab.analysis.report import Report
from qlab.errors import QlabError
from qlab.qconfig import QConfigMapping
from qlab.runs.rows import Run
from qlab.runs.store import Runs


def record_report(
    runs: Runs, mapping: QConfigMapping, report: Report, *, subject: str, seconds: float
) -> Run | None:
    """Keeps a report as the run of its mapping, named after the preset where it is one.

    Args:
        runs: Where to.
        mapping: What was measured.
        report: What came out; see `run_metrics` for the numbers.
        subject: Fingerprint of model and data.
        seconds: How long it took.

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
    return runs.record(
        mapping,
        run_metrics(report),
        subject=subject,
        name=next((p.name for p in presets.PRESETS.values() if p.mapping() == mapping), None),
        layers=report.layers,
        seconds=seconds,
    )


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
