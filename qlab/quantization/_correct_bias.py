"""Face of `torch.ao.quantization._correct_bias`: see `qlab.algorithms.eager`."""

from qlab.algorithms.eager import bias_correction
from qlab.algorithms.parts import get_module, get_param
from qlab.analysis.suite.means import MeanShadowLogger
from qlab.eager.questions import parent_name as parent_child_names

__all__ = [
    "MeanShadowLogger",
    "bias_correction",
    "get_module",
    "get_param",
    "parent_child_names",
]
