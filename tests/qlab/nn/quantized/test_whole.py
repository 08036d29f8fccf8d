"""A state dict whose tensors do not fit leaves a quantized model as it was."""

import copy
import pickle

import pytest
import torch
from torch import nn

from qlab import quantization as q
from qlab.nn.quantized.whole import loads_as_a_whole
from qlab.quantization.quantize_fx import convert_fx, prepare_fx


def eager(outputs: int, qconfig=q.default_qconfig) -> nn.Module:
    model = q.QuantWrapper(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, outputs))).eval()
    model.qconfig = qconfig
    prepared = q.prepare(model)
    prepared(torch.randn(5, 3) * outputs)
    return q.convert(prepared)


def graph(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, outputs)).eval()
    x = torch.randn(5, 3) * outputs
    prepared = prepare_fx(model, q.get_default_qconfig_mapping(), (x,))
    prepared(x)
    return convert_fx(prepared)


def same(model: nn.Module) -> nn.Module:
    return model


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize(
    ("make", "twin"),
    [
        (eager, same),
        (graph, same),
        (eager, copy.deepcopy),
        (graph, copy.deepcopy),
        (eager, pickled),  # torch.fx keeps no hooks in the pickle of a graph
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(make, twin):
    torch.manual_seed(0)
    model, other, x = twin(make(5)), make(7), torch.randn(2, 3)
    before = copy.deepcopy(model.state_dict())
    y = model(x)
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=r"size mismatch for .*1.weight_codes"):
            model.load_state_dict(other.state_dict(), assign=assign)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(model(x), y)
    model.load_state_dict(make(5).state_dict())
    assert not torch.equal(model(x), y)


def test_other_granularities_of_a_weight_are_forgotten_too():
    torch.manual_seed(0)
    model, x = eager(5), torch.randn(2, 3)
    y = model(x)
    channels = q.QConfig(q.default_observer, q.default_per_channel_weight_observer)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(eager(7, channels).state_dict())
    assert torch.equal(model(x), y)


def test_hooks_are_registered_once():
    model = loads_as_a_whole(eager(5))
    assert len(model._load_state_dict_pre_hooks) == len(model._load_state_dict_post_hooks) == 1
