"""The nested dictionaries: their names, their order, and what is said where there is nothing."""

import pytest
import torch
from torch import nn

from qlab.analysis.suite.instrument import add_loggers
from qlab.analysis.suite.loggers import OutputLogger, loggers_set_enabled
from qlab.analysis.suite.metrics import compute_sqnr
from qlab.analysis.suite.results import (
    extend_logger_results_with_comparison,
    extract_logger_info,
    extract_shadow_logger_info,
)
from qlab.errors import ArgumentError, UncalibratedError, UnknownNameError
from tests.qlab.analysis.suite.forms import net_forms


@pytest.fixture
def logged():
    forms = net_forms()
    a, b = add_loggers("float", forms.model, "int8", forms.converted, OutputLogger)
    return forms.x, a, b


def test_layers_are_called_as_in_the_chosen_model(logged):
    x, a, b = logged
    a(x), b(x)
    assert next(iter(extract_logger_info(a, b, OutputLogger, "int8"))) == "conv"
    assert next(iter(extract_logger_info(a, b, OutputLogger, "float"))) == "relu"
    with pytest.raises(UnknownNameError, match=r"Unknown model 'int4'.*float, int8"):
        extract_logger_info(a, b, OutputLogger, "int4")


def test_loggers_of_ones_own(logged):
    class Means(OutputLogger):
        def forward(self, x):
            self.stats.append(x.mean())

    forms = net_forms()
    a, b = add_loggers("float", forms.model, "int8", forms.converted, Means)
    assert torch.equal(b(forms.x), forms.converted(forms.x))
    a(forms.x)
    results = extract_logger_info(a, b, Means, "int8")
    assert results["fc"]["node_output"]["float"][0]["values"][0].shape == ()


def test_nothing_was_run_yet(logged):
    x, a, b = logged
    with pytest.raises(UncalibratedError, match="extract_logger_info: no logger has kept anything"):
        extract_logger_info(a, b, OutputLogger, "int8")
    loggers_set_enabled(a, False)
    a(x), b(x)
    with pytest.raises(UncalibratedError, match=r"with its loggers enabled.*6 loggers without"):
        extract_logger_info(a, b, OutputLogger, "int8")


def test_there_are_no_loggers():
    model = nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match=r"no loggers.*OutputLogger modules.*Received Linear"):
        extract_shadow_logger_info(model, OutputLogger, "a")


def test_comparisons_need_both_models(logged):
    x, a, b = logged
    a(x), b(x), b(x)
    results = extract_logger_info(a, b, OutputLogger, "int8")
    with pytest.raises(UnknownNameError, match=r"model, for layer 'conv', 'int4'.*float, int8"):
        extend_logger_results_with_comparison(results, "float", "int4", compute_sqnr, "sqnr")
    extend_logger_results_with_comparison(results, "float", "int8", compute_sqnr, "sqnr")
    assert len(results["fc"]["node_output"]["int8"][0]["sqnr"]) == 1
    results["fc"]["node_output"]["float"][0]["index_of_arg"] = 1
    with pytest.raises(ArgumentError, match=r"layer 'fc' have nothing.*argument \(0, 0\)"):
        extend_logger_results_with_comparison(results, "float", "int8", compute_sqnr, "sqnr")
