"""Fusing: what is folded, what is left alone, and that outputs stay."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qlab.graph import fuse, trace
from qlab.graph.fuse import chains
from qlab.nn import functions
from qlab.nn import intrinsic as nni
from qlab.registry import PATTERNS, Pattern
from tests.qlab.graph.test_lift import types


def settled(module: nn.Module) -> nn.Module:
    """The module in evaluation mode with batch norms that have seen data."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            part.running_mean.normal_()
            part.running_var.uniform_(0.1, 3.0)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


def fused_of(graph_module):
    return {
        node.meta["name"]: node.meta["fused"]
        for node in graph_module.graph.nodes
        if "fused" in node.meta
    }


def layer(cls: type[nn.Module]) -> nn.Module:
    """One layer of four channels of a class that occurs in patterns."""
    if cls is nn.Linear:
        return nn.Linear(4, 4)
    if issubclass(cls, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return cls(4, 4, 3, padding=1)
    with_features = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return cls(4) if issubclass(cls, with_features) else cls()


class Chain(nn.Module):
    """The modules of a pattern in turn; an addition gets its input twice."""

    def __init__(self, pattern: Pattern):
        super().__init__()
        self.parts = nn.ModuleList(layer(cls) for cls in pattern.modules)

    def forward(self, x):
        for part in self.parts:
            x = part(x, x) if type(part) is functions.Add else part(x)
        return x


def rank(pattern: Pattern) -> int:
    """How many spatial axes the pattern's first layer takes."""
    name = pattern.modules[0].__name__
    return int(name[-2]) if name[-2].isdigit() else 0


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.title)
def test_every_pattern_becomes_one_module_of_the_same_outputs(pattern):
    model = settled(Chain(pattern))
    x = torch.randn(3, 4, *(5,) * rank(pattern))
    fused = fuse(trace(model, x))
    assert list(types(fused).values()) == [pattern.fused]
    assert list(fused_of(fused).values()) == [
        tuple(f"parts.{i}" for i in range(1, len(pattern.modules)))
    ]
    expected = model(x)
    error = (fused(x) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-4


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + x)


def test_a_residual_block_fuses_to_three_layers():
    model, x = settled(Residual()), torch.randn(2, 3, 5, 5)
    fused = fuse(trace(model, x))
    assert types(fused) == {"conv1": nni.ConvReLU2d, "conv2": nn.Conv2d, "add": nni.AddReLU}
    assert fused_of(fused) == {"conv1": ("bn1", "relu"), "conv2": ("bn2",), "add": ("relu_1",)}
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


def test_fusing_is_a_copy():
    model, x = settled(Residual()), torch.randn(2, 3, 5, 5)
    traced = trace(model, x)
    before, code = copy.deepcopy(traced.state_dict()), traced.code
    fused = fuse(traced)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    assert traced.code == code
    assert traced.state_dict().keys() == before.keys()
    for name, value in traced.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_value_with_a_second_reader_is_not_fused_away():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y), y

    fused = fuse(trace(settled(Fork()), torch.randn(1, 3, 2, 2)))
    assert types(fused) == {"conv": nn.Conv2d, "bn": nn.BatchNorm2d}


def test_a_function_counts_as_the_module_it_stands_for():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return F.relu(self.fc(x)).relu()

    fused = fuse(trace(Functional(), torch.randn(1, 3)))
    assert types(fused) == {"fc": nni.LinearReLU, "relu_1": nn.ReLU}


def test_a_module_called_twice_fuses_call_by_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.fc(self.bn(self.fc(x)))

    model, x = settled(Twice()), torch.randn(4, 3)
    fused = fuse(trace(model, x))
    assert fused_of(fused) == {"fc": ("bn",)}
    assert set(types(fused)) == {"fc", "fc_1"}
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_batch_norm_without_running_statistics_stays():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    fused = fuse(trace(model, torch.randn(2, 3, 2, 2)))
    assert list(types(fused)) == ["0", "1"]


def test_parameters_are_counted_after_folding():
    fused = fuse(trace(settled(Residual()), torch.randn(1, 3, 4, 4)))
    counts = {n.meta["name"]: n.meta["parameters"] for n in fused.graph.nodes}
    assert counts["conv1"] == 84


@pytest.mark.parametrize("tracked", [True, False])
def test_chains_are_what_would_be_fused(tracked):
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1),
        nn.BatchNorm2d(3, track_running_stats=tracked),
        nn.ReLU(),
        nn.Conv2d(3, 3, 1),
        nn.ReLU(),
    ).eval()
    traced = trace(model, torch.randn(2, 3, 2, 2))
    named = [[node.meta["name"] for node in chain] for chain in chains(traced).values()]
    fused = fused_of(fuse(traced))
    assert sorted(named) == sorted([first, *rest] for first, rest in fused.items())
    assert named == ([["0", "1", "2"], ["3", "4"]] if tracked else [["3", "4"], ["1", "2"]])
