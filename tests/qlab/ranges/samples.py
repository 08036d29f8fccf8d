"""Distributions that activations and weights have."""

import torch
from torch import Tensor

_COUNT = 50_000


def _mixture(share: float, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(torch.rand(len(a)) < share, a, b)


def _sixteen_biases() -> Tensor:
    return torch.linspace(-1, 1, 16)[torch.randint(0, 16, (_COUNT,))]


DISTRIBUTIONS = {
    "normal": lambda: torch.randn(_COUNT),
    "laplace": lambda: torch.distributions.Laplace(0.0, 1.0).sample((_COUNT,)),
    "student-t": lambda: torch.distributions.StudentT(torch.tensor(3.0)).sample((_COUNT,)),
    "relu": lambda: torch.randn(_COUNT).relu(),
    "gelu": lambda: torch.nn.functional.gelu(torch.randn(_COUNT)),
    "bimodal": lambda: _mixture(0.5, torch.randn(_COUNT) * 0.3 - 2, torch.randn(_COUNT) / 2 + 3),
    "uniform": lambda: torch.rand(_COUNT) * 2 - 0.7,
    "shifted": lambda: torch.randn(_COUNT) + 5,
    "outliers": lambda: _mixture(0.001, torch.randn(_COUNT) * 30, torch.randn(_COUNT)),
    "relu6": lambda: (torch.randn(_COUNT) * 4).clamp(0, 6),
    "grey values": lambda: torch.randint(0, 17, (_COUNT,)) / 16,
    "normalised grey values": lambda: (torch.randint(0, 17, (_COUNT,)) / 16 - 0.31) / 0.38,
    "flat background": lambda: _mixture(0.5, _sixteen_biases(), torch.randn(_COUNT)),
    "bfloat16": lambda: torch.randn(_COUNT).bfloat16().float(),
    "few": lambda: torch.randn(200),
}


def distribution(name: str) -> Tensor:
    """Float32 values, the same for every test."""
    torch.manual_seed(0)
    return DISTRIBUTIONS[name]()
