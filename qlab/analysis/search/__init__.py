"""Mixed precision: which layer gets how many bits, under a budget."""

from qlab.analysis.search.candidates import (
    FLOAT,
    Candidate,
    Group,
    Measure,
    Space,
    default_candidates,
)
from qlab.analysis.search.search import Search, Verified, budget_limits, search_mappings

__all__ = [
    "FLOAT",
    "Candidate",
    "Group",
    "Measure",
    "Search",
    "Space",
    "Verified",
    "budget_limits",
    "default_candidates",
    "search_mappings",
]
