"""The store of runs: every configuration that was measured."""

from qlab.runs.measured import record_report, run_metrics
from qlab.runs.rows import Run
from qlab.runs.store import Runs

__all__ = ["Run", "Runs", "record_report", "run_metrics"]
