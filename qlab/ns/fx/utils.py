"""Face of `torch.ao.ns.fx.utils`: see `qlab.analysis.suite.metrics`."""

from qlab.analysis.suite.metrics import (
    compute_cosine_similarity,
    compute_normalized_l2_error,
    compute_sqnr,
)

__all__ = ["compute_cosine_similarity", "compute_normalized_l2_error", "compute_sqnr"]
