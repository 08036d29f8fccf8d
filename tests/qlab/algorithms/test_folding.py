import pytest
import torch
from torch import nn

from qlab.algorithms.folding import find_folds, scale_inputs
from qlab.graph.fuse import fuse
from qlab.graph.trace import trace


class Norm(nn.Module):
    """Two linear layers behind a norm, and a third behind an activation that is no line."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 4)
        self.gelu = nn.GELU()

    def forward(self, x):
        x = self.norm(x)
        return self.c(self.gelu(self.a(x) * self.b(x)))


class Skipped(Norm):
    """The norm's output is added again."""

    def forward(self, x):
        x = self.norm(x)
        return x + torch.cat([self.a(x), x[..., :1]], -1)


class Twice(Norm):
    """A layer called in two places."""

    def forward(self, x):
        return self.a(self.norm(x)) + self.a(self.norm(x + 1))


def graph_of(model: nn.Module, x: torch.Tensor):
    return fuse(trace(model.eval(), x))


def spread(count: int) -> torch.Tensor:
    return torch.logspace(-1, 1, count, dtype=torch.float64)


NORMS = {
    "layer norm": lambda: nn.LayerNorm(6),
    "without gain": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "without bias": lambda: nn.LayerNorm(6, bias=False),
    "rms norm": lambda: nn.RMSNorm(6),
    "rms norm without gain": lambda: nn.RMSNorm(6, eps=1e-3, elementwise_affine=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_takes_up_the_factors_of_all_that_read_it(name):
    model, x = Norm(NORMS[name]()), torch.randn(3, 4, 6) * 3
    graph = graph_of(model, x)
    (fold,), refused = find_folds(graph)
    assert (fold.source_name, fold.kind, fold.readers) == ("norm", "norm", ("a", "b"))
    assert refused == {"c": "'gelu', which makes its input, is not a layer norm or RMS norm"}
    before = graph(x)
    made = scale_inputs(graph, {fold: spread(6)})
    torch.testing.assert_close(made(x), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(graph(x), before)
    ratio = made.get_submodule("a").weight / graph.get_submodule("a").weight
    torch.testing.assert_close(ratio, spread(6).float().expand(5, 6))


@pytest.mark.parametrize("functional", [False, True])
def test_a_linear_layer_with_relu_takes_them_up_where_that_is_allowed(functional):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    layers = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 4))
    x = torch.randn(7, 6)
    graph = graph_of(Functional() if functional else layers, x)
    assert not find_folds(graph)[0]
    (fold,), refused = find_folds(graph, linear_sources=True)
    assert fold.kind == "linear"
    assert len(refused) == 1
    made = scale_inputs(graph, {fold: spread(5)})
    torch.testing.assert_close(made(x), graph(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Skipped(nn.LayerNorm(6)), "'norm' is read by .* too, which cannot be rescaled"),
        (
            Twice(nn.LayerNorm(6)),
            "is called in several places|shares a parameter with another layer",
        ),
        (
            nn.Sequential(nn.LayerNorm((4, 6)), nn.Linear(6, 5)),
            "'0', which makes its input, is not",
        ),
        (nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5)), "'0', which makes its input, is not"),
    ],
    ids=["residual", "called twice", "norm over two axes", "linear"],
)
def test_where_it_would_change_the_function_it_is_refused(model, reason):
    folds, refused = find_folds(graph_of(model, torch.randn(2, 4, 6)))
    assert not folds
    name = "1" if isinstance(model, nn.Sequential) else "a"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refused[name])


def test_shared_parameters_are_refused():
    model = Norm(nn.LayerNorm(6))
    model.a.weight = model.b.weight
    folds, refused = find_folds(graph_of(model, torch.randn(2, 4, 6)))
    assert not folds
    assert refused["a"] == "'a' shares a parameter with another layer"


def test_the_networks_output_cannot_be_rescaled():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.a = nn.LayerNorm(6), nn.Linear(6, 5)

        def forward(self, x):
            x = self.norm(x)
            return self.a(x), x

    _, refused = find_folds(graph_of(Both(), torch.randn(2, 6)))
    assert refused["a"] == ("'norm' is read by the network's output too, which cannot be rescaled")
