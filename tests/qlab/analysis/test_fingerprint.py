import torch
from torch import nn

from qlab.analysis.fingerprint import combined, first_difference, graph_fingerprint
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
