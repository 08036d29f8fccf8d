"""Face of `torch.ao.ns._numeric_suite_fx`: see `qlab.analysis.suite`."""

from qlab.analysis.suite.instrument import add_loggers, add_shadow_loggers
from qlab.analysis.suite.loggers import (
    OutputComparisonLogger,
    OutputLogger,
    loggers_set_enabled,
    loggers_set_save_activations,
)
from qlab.analysis.suite.n_shadows import (
    convert_n_shadows_model,
    extract_results_n_shadows_model,
    prepare_n_shadows_model,
    print_comparisons_n_shadows_model,
)
from qlab.analysis.suite.reading import NSTracer
from qlab.analysis.suite.results import (
    extend_logger_results_with_comparison,
    extract_logger_info,
    extract_shadow_logger_info,
)
from qlab.analysis.suite.weights import extract_weights

__all__ = [
    "NSTracer",
    "OutputComparisonLogger",
    "OutputLogger",
    "add_loggers",
    "add_shadow_loggers",
    "convert_n_shadows_model",
    "extend_logger_results_with_comparison",
    "extract_logger_info",
    "extract_results_n_shadows_model",
    "extract_shadow_logger_info",
    "extract_weights",
    "loggers_set_enabled",
    "loggers_set_save_activations",
    "prepare_n_shadows_model",
    "print_comparisons_n_shadows_model",
]
