"""`Lab`, the what-if engine."""

from qlab.lab.arguments import DEFAULT_PRESET, Mapping, resolve_mapping
from qlab.lab.lab import Lab

__all__ = ["DEFAULT_PRESET", "Lab", "Mapping", "resolve_mapping"]
