"""What a logger keeps, and when."""

import pytest
import torch
from torch import nn

from qlab.analysis.suite.loggers import (
    OutputComparisonLogger,
    OutputLogger,
    loggers_set_enabled,
    loggers_set_save_activations,
)
from qlab.errors import UnsupportedError


def logger(kind=OutputLogger):
    return kind("fc", "fc", "a", "base_op_linear_0", "Linear", "Linear", "node_output", 0, 0, "fc")


def test_it_keeps_tensors_detached_and_gives_them_back():
    kept, x = logger(), torch.randn(3, requires_grad=True)
    assert kept(x) is x
    assert torch.equal(kept.stats[0], x) and not kept.stats[0].requires_grad


def test_it_keeps_what_recurrent_layers_give():
    kept, x = logger(), torch.randn(3, 1, 4)
    for layer in (nn.LSTM(4, 5), nn.GRU(4, 5)):
        kept(layer(x))
    (lstm, (h, c)), (gru, state) = kept.stats_rnn
    assert lstm.shape == gru.shape == (3, 1, 5)
    assert h.shape == c.shape == state.shape == (1, 1, 5)
    assert kept.stats == []


@pytest.mark.parametrize("value", [None, 3, {"a": torch.ones(1)}, (torch.ones(1), 2)])
def test_other_values_pass_by(value):
    kept = logger()
    assert kept(value) is value
    assert kept.stats == [] and kept.stats_rnn == []


@pytest.mark.parametrize("kind", [OutputLogger, OutputComparisonLogger])
def test_switches(kind):
    kept = logger(kind)
    model = nn.Sequential(kept)
    x = (torch.ones(2), torch.zeros(2))[: 1 if kind is OutputLogger else 2]
    loggers_set_enabled(model, False)
    assert kept(*x) is x[0]
    assert kept.stats == []
    loggers_set_enabled(model, True)
    loggers_set_save_activations(model, False)
    kept(*x)
    assert kept.stats == [] and len(getattr(kept, "comparisons", [0])) == 1
    loggers_set_save_activations(model, True)
    kept(*x)
    assert len(kept.stats) == 1


def test_comparisons_are_in_decibels():
    kept = logger(OutputComparisonLogger)
    kept(torch.tensor([10.0]), torch.tensor([9.0]))
    assert float(kept.comparisons[0]) == pytest.approx(20)
    with pytest.raises(UnsupportedError, match=r"output of 'fc' cannot be compared.*tuple"):
        kept((torch.ones(1),), torch.ones(1))


def test_repr_says_whose_values_it_keeps():
    assert repr(logger()).startswith("OutputLogger({'stats': []")
    assert "'ref_node_name': 'fc'" in repr(logger(OutputComparisonLogger))
