"""Face of `torch.ao.ns.fx.ns_types`: see `qlab.analysis.suite.types`."""

from qlab.analysis.suite.types import (
    NSNodeTargetType,
    NSResultsType,
    NSSingleResultType,
    NSSingleResultValuesType,
    NSSubgraph,
)

__all__ = [
    "NSNodeTargetType",
    "NSResultsType",
    "NSSingleResultType",
    "NSSingleResultValuesType",
    "NSSubgraph",
]
