"""What a converted network remembers between calls never shows in its integers."""

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from qlab import ops
from qlab.graph import convert_fx, prepare_fx


class Block(nn.Module):
    """A residual block behind a stem and pooling, as ResNet has them, and a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.a = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU6())
        self.b = nn.Conv2d(16, 16, 1)
        self.average, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = torch.relu(self.b(self.a(x)) + x)
        return self.head(torch.flatten(self.average(x), 1))


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def model() -> Iterator[nn.Module]:
    x = image(2, 3, 48, 48)
    prepared = prepare_fx(Block().eval(), "int8", x)
    prepared(x)
    with torch.no_grad():
        yield convert_fx(prepared)


def agrees(model: nn.Module, x: Tensor) -> Tensor:
    """The output, twice the same and bit by bit that of the exact kernels."""
    first, second = model(x), model(x)
    with ops.use("reference"):
        exact = model(x)
    assert torch.equal(first, exact)
    assert torch.equal(second, exact)
    return exact


def test_inputs_of_every_shape_and_layout(model: nn.Module):
    for n, size in ((2, 48), (1, 48), (5, 48), (1, 64), (2, 33), (2, 48), (1, 9)):
        agrees(model, image(n, 3, size, size))
    x = image(2, 3, 48, 96)
    for given in (
        x[..., ::2],
        x.transpose(2, 3),
        x.contiguous(memory_format=torch.channels_last),
        x[:, [0, 0, 0]].expand(2, 3, 48, 96),
        x.flip(1),
    ):
        agrees(model, given)


def test_changes_of_weights_and_scales(model: nn.Module):
    x = image(2, 3, 48, 48)
    seen = [agrees(model, x)]
    layer = model.get_submodule("b")
    layer.get_buffer("weight_codes").neg_()
    seen.append(agrees(model, x))
    layer.get_buffer("bias_float").add_(0.5)
    seen.append(agrees(model, x))
    layer.weight_scale = layer.get_buffer("weight_scale") * 2
    seen.append(agrees(model, x))
    other = copy.deepcopy(model)
    seen.append(agrees(other, x))
    assert torch.equal(seen[-1], seen[-2])
    other.load_state_dict(model.state_dict())
    for _, buffer in other.named_buffers():
        if buffer.dtype == torch.int8:
            buffer.neg_()
    assert not torch.equal(agrees(other, x), seen[-1])
    assert torch.equal(agrees(model, x), seen[-1])  # the copy shares nothing with it
    assert len({tuple(output.flatten().tolist()) for output in seen[:4]}) == 4


def test_a_pickled_model_and_threads(model: nn.Module):
    inputs = [image(n, 3, 48, 48) for n in (1, 2, 3, 4)] * 8
    agrees(model, inputs[0])
    twin = pickle.loads(pickle.dumps(model))
    expected = [twin(x) for x in inputs]

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(run, inputs), expected, strict=True):
            assert torch.equal(found, wanted)


def test_kernels_are_counted_whichever_way_they_run(model: nn.Module):
    x = image(2, 3, 48, 48)
    counts = []
    for _ in range(2):
        ops.reset_counts()
        model(x)
        counts.append(ops.counts())
    assert counts[0] == counts[1]
    assert counts[0]["add", "compiled"] == 1
