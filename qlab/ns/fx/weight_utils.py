"""Face of `torch.ao.ns.fx.weight_utils`: see `qlab.analysis.suite.weights`."""

from qlab.analysis.suite.weights import weight_of as get_conv_mod_weight
from qlab.analysis.suite.weights import weight_of as get_linear_mod_weight
from qlab.analysis.suite.weights import weight_of as get_lstm_mod_weights

__all__ = ["get_conv_mod_weight", "get_linear_mod_weight", "get_lstm_mod_weights"]
