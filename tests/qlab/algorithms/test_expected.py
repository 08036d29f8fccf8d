"""What batch norm tells of means, against numbers that were drawn."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from qlab.algorithms.expected import UnknownMeanError, clipped_normal, expected_values
from qlab.graph import fuse, trace


@given(st.floats(-5, 10), st.floats(0.01, 5), st.sampled_from([(0, math.inf), (0, 6), (-1, 1)]))
def test_moments_of_a_clipped_normal_are_those_of_its_quantiles(mean, std, bounds):
    probability = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    normal = torch.distributions.Normal(torch.tensor(mean).double(), torch.tensor(std).double())
    drawn = normal.icdf(probability).clamp(*bounds)
    found = clipped_normal(torch.tensor(mean).double(), torch.tensor(std**2).double(), *bounds)
    assert float(found[0]) == pytest.approx(float(drawn.mean()), abs=1e-4 * (1 + std))
    assert float(found[1]) == pytest.approx(float(drawn.var()), abs=1e-3 * (1 + std**2))


def test_a_constant_is_clipped_to_itself():
    mean, variance = clipped_normal(torch.tensor([3.0, 9.0]).double(), torch.zeros(2), 0.0, 6.0)
    assert mean.tolist() == pytest.approx([3.0, 6.0])
    assert variance.tolist() == pytest.approx([0.0, 0.0], abs=1e-9)


def graph_of(*layers: nn.Module) -> fx.GraphModule:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), *layers).eval()
    model[1].bias.data = torch.tensor([1.0, 0.0, -1.0, 2.0])
    return fuse(trace(model, torch.zeros(1, 1, 4, 4)))


def last(graph: fx.GraphModule) -> str:
    return next(reversed(graph.graph.nodes)).all_input_nodes[0].name


def test_layers_between_pass_the_means_on():
    plain = graph_of()
    assert expected_values(plain, last(plain)).tolist() == [1.0, 0.0, -1.0, 2.0]
    fused = graph_of(nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(), nn.Flatten())
    zero = math.sqrt(1 / (2 * math.pi))  # mean of relu of a standard normal number
    assert expected_values(fused, last(fused))[1] == pytest.approx(zero)


def test_what_is_not_known_is_said():
    with pytest.raises(UnknownMeanError, match="no batch norm tells what '2'"):
        graph = graph_of(nn.MaxPool2d(2))
        expected_values(graph, last(graph))
    with pytest.raises(UnknownMeanError, match="averaged and clipped again"):
        graph = graph_of(nn.AvgPool2d(2), nn.Hardtanh())
        expected_values(graph, last(graph))
    with pytest.raises(UnknownMeanError, match="nothing tells what 'input'"):
        expected_values(graph, "input_1")
