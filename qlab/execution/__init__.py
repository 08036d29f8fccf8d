"""Running a graph: whole, watched, or from any node on with the values of an earlier run."""

from qlab.execution.cached import CachedRun, RunStore
from qlab.execution.devices import device_names, no_cuda, usable_device
from qlab.execution.layout import channels_last
from qlab.execution.precision import full_precision
from qlab.execution.program import Program
from qlab.execution.runner import GraphRunner

__all__ = [
    "CachedRun",
    "GraphRunner",
    "Program",
    "RunStore",
    "channels_last",
    "device_names",
    "full_precision",
    "no_cuda",
    "usable_device",
]
