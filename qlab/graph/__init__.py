"""Graph workflow: trace → fuse → annotate → prepare → convert, one file per pass."""

from qlab.graph.fuse import fuse
from qlab.graph.trace import trace

__all__ = ["fuse", "trace"]
