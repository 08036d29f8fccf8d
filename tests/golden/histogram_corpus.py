"""Tensors on which histogram observers are compared: seeded distributions and real activations."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import qlab
import sample_models

SIZE = 3072
Draw = Callable[[np.random.Generator], np.ndarray]
DRAWS: dict[str, Draw] = {
    "normal": lambda r: r.normal(size=SIZE),
    "normal-wide": lambda r: r.normal(0, 37, SIZE),
    "normal-tiny": lambda r: r.normal(0, 2e-4, SIZE),
    "normal-shifted": lambda r: r.normal(3, 0.5, SIZE),
    "normal-far": lambda r: r.normal(-20, 1, SIZE),
    "laplace": lambda r: r.laplace(size=SIZE),
    "laplace-tiny": lambda r: r.laplace(0, 1e-3, SIZE),
    "student-3": lambda r: r.standard_t(3, SIZE),
    "student-5": lambda r: r.standard_t(5, SIZE),
    "student-2": lambda r: r.standard_t(2, SIZE),
    "relu-normal": lambda r: np.maximum(r.normal(size=SIZE), 0),
    "relu-laplace": lambda r: np.maximum(r.laplace(size=SIZE), 0),
    "relu-sparse": lambda r: np.maximum(r.normal(-1.5, 1, SIZE), 0),
    "relu6": lambda r: np.clip(r.normal(2, 3, SIZE), 0, 6),
    "bimodal": lambda r: r.normal(0, 0.3, SIZE) + r.choice([-2, 2], SIZE),
    "bimodal-uneven": lambda r: r.normal(0, 0.2, SIZE) + r.choice([0, 8], SIZE, p=[0.95, 0.05]),
    "uniform": lambda r: r.uniform(-1, 1, SIZE),
    "uniform-positive": lambda r: r.uniform(0, 5, SIZE),
    "exponential": lambda r: r.exponential(size=SIZE),
    "log-normal": lambda r: r.lognormal(size=SIZE),
    "log-normal-heavy": lambda r: r.lognormal(0, 1.5, SIZE),
    "cauchy-cut": lambda r: np.clip(r.standard_cauchy(SIZE), -300, 300),
    "one-outlier": lambda r: np.append(r.normal(size=SIZE - 1), 60.0),
    "outliers": lambda r: r.normal(size=SIZE) * np.where(r.random(SIZE) < 0.003, 30, 1),
    "outliers-both": lambda r: r.laplace(size=SIZE) * np.where(r.random(SIZE) < 0.01, 12, 1),
    "softmax-like": lambda r: r.dirichlet(np.full(16, 0.3), SIZE // 16).ravel(),
    "discrete": lambda r: r.integers(0, 17, SIZE) / 16,
    "gelu": lambda r: (lambda x: x / (1 + np.exp(-1.702 * x)))(r.normal(0, 2, SIZE)),
}
LAYERS = (
    ("depthwise", "block2.dw.conv"),
    ("depthwise", "block4.pw.conv"),
    ("conv_bn_relu", ""),
    ("residual", ""),
    ("vit", ""),
    ("norms", ""),
    ("mlp", ""),
)


def drawn() -> Iterator[tuple[str, Tensor]]:
    """Seeded tensors, in the precision that they are kept in."""
    for seed, (name, draw) in enumerate(DRAWS.items()):
        values = draw(np.random.default_rng(seed)).astype(np.float16)
        yield name, torch.from_numpy(values)


def activations() -> Iterator[tuple[str, Tensor]]:
    """Outputs of layers of the sample models; of the middle layer where none is named."""
    for model, layer in LAYERS:
        sample = sample_models.load(model)
        lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(32))
        quantizable = [found.name for found in lab.layers if found.quantizable]
        name = layer or quantizable[len(quantizable) // 2]
        kept: list[Tensor] = []
        graph = lab.graph
        handle = graph.get_submodule(name).register_forward_hook(
            lambda module, args, output, kept=kept: kept.append(output)
        )
        with torch.no_grad():
            graph(sample.calibration(4)[0])
        handle.remove()
        flat = kept[0].flatten()
        yield f"{model}/{name}", flat[:: max(1, flat.numel() // SIZE)][:SIZE].half()
