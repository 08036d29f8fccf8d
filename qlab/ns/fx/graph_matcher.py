"""Face of `torch.ao.ns.fx.graph_matcher`: see `qlab.analysis.suite.matching`."""

from qlab.analysis.suite.matching import GraphMatchingException, get_matching_subgraph_pairs

__all__ = ["GraphMatchingException", "get_matching_subgraph_pairs"]
