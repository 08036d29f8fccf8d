"""Face of `torch.ao.ns._numeric_suite`: see `qlab.analysis.suite.modules`."""

from qlab.analysis.suite.modules import (
    NON_LEAF_MODULE_TO_ADD_OBSERVER_ALLOW_LIST,
    Logger,
    OutputLogger,
    Shadow,
    ShadowLogger,
    compare_model_outputs,
    compare_model_stub,
    get_logger_dict,
    get_matching_activations,
    prepare_model_outputs,
    prepare_model_with_stubs,
)
from qlab.analysis.suite.state_dicts import compare_weights

__all__ = [
    "NON_LEAF_MODULE_TO_ADD_OBSERVER_ALLOW_LIST",
    "Logger",
    "OutputLogger",
    "Shadow",
    "ShadowLogger",
    "compare_model_outputs",
    "compare_model_stub",
    "compare_weights",
    "get_logger_dict",
    "get_matching_activations",
    "prepare_model_outputs",
    "prepare_model_with_stubs",
]
