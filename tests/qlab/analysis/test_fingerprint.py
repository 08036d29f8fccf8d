import torch
from torch import nn

from qlab.analysis.batches import Batches
from qlab.analysis.fingerprint import (
    combined,
    data_fingerprint,
    first_difference,
    graph_fingerprint,
    joined,
)
from qlab.graph import fuse, trace


def parts(model: nn.Module) -> dict[str, str]:
    return graph_fingerprint(fuse(trace(model, torch.ones(1, 4))))


def net(width: int = 4, act: type[nn.Module] = nn.Sigmoid, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), act(), nn.Linear(width, 2))


def test_the_same_model_has_no_difference():
    assert first_difference(parts(net()), parts(net())) is None
    assert combined(parts(net())) == combined(parts(net())) != combined(parts(net(seed=1)))


def test_the_first_difference_is_named():
    here = parts(net())
    assert first_difference(here, parts(net(seed=1))) == "the values of tensor 0.weight differ"
    wider = first_difference(here, parts(net(width=5)))
    assert wider is not None and wider.startswith("node _0: call_module 0 = Linear")
    assert "became" in wider
    assert "node _1" in str(first_difference(here, parts(net(act=nn.Tanh))))
    assert first_difference(here, {}) == "node input_1 is missing"
    assert first_difference({}, {"node x": "y"}) == "node x is new"


def test_fingerprints_of_data_add_up_whatever_the_order():
    data = torch.randn(12, 4)

    def of(*tensors):
        return data_fingerprint(Batches(list(tensors), 1, torch.device("cpu"), "test"))

    whole = of(data)
    assert whole.endswith("-12")
    assert joined([of(data[8:]), of(data[:3], data[3:8])]) == whole == joined([whole])
    assert joined([of(data[8:]), of(data[:7])]) != whole
    assert joined([whole, of(data[:1])]) != whole
