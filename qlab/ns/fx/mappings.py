"""Face of `torch.ao.ns.fx.mappings`: see `qlab.analysis.suite.matching`."""

from qlab.analysis.suite.matching import (
    add_op_to_sets_of_related_ops,
    get_base_name_to_sets_of_related_ops,
    get_unmatchable_types_map,
)

__all__ = [
    "add_op_to_sets_of_related_ops",
    "get_base_name_to_sets_of_related_ops",
    "get_unmatchable_types_map",
]
