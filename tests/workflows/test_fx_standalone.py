"""Standalone modules that take and give several tensors, and models of nested inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab.errors import ArgumentError
from qlab.qtensor import QTensor
from qlab.quantization import QConfigMapping, default_qconfig
from qlab.quantization.fx.custom_config import PrepareCustomConfig
from qlab.quantization.quantize_fx import convert_fx, prepare_fx

MAPPING = QConfigMapping().set_global(default_qconfig)
X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """One tensor in, two out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, self.b(y)


class Pair(Two):
    """Two in as one tuple, two out."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.a(pair[0]), self.b(pair[1])


class Named(Two):
    """A dict out."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.a(x)
        return {"y": y, "more": (self.b(y),)}


class Around(nn.Module):
    """A model that uses one of them."""

    def __init__(self, inner: nn.Module, returned: bool = False) -> None:
        super().__init__()
        self.pre, self.inner, self.post = nn.Linear(4, 4), inner, nn.Linear(4, 2)
        self.takes_pair, self.returned = isinstance(inner, Pair), returned
        self.named = isinstance(inner, Named)

    def forward(self, x: Tensor) -> Any:
        x = self.pre(x)
        y = self.inner((x, x + 1)) if self.takes_pair else self.inner(x)
        if self.returned:
            return y
        if self.named:
            return self.post(y["more"][0]), y["y"]
        first, second = y[0], y[1]
        return self.post(first), torch.relu(second)


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in flat(part)]


@torch.no_grad()
@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize(
    ("kind", "taken", "given"),
    [
        *((Two, taken, given) for taken in ([], [0]) for given in ([], [0], [1], [0, 1])),
        *((Pair, taken, given) for taken in ([], [0]) for given in ([], [1], [0, 1])),
        (Named, [0], []),
    ],
)
def test_a_standalone_module_of_several_tensors(
    kind: Any, taken: list[int], given: list[int], returned: bool
):
    torch.manual_seed(5)
    model = Around(kind(), returned).eval()
    own = PrepareCustomConfig().set_input_quantized_indexes(taken)
    own.set_output_quantized_indexes(given)
    sample = (X,) if kind is not Pair else ((X, X),)
    config = PrepareCustomConfig().set_standalone_module_name("inner", None, sample, own, None)
    prepared: Any = prepare_fx(model, MAPPING, (X,), config)
    want = flat(model(X))
    for got, expected in zip(flat(prepared(X)), want, strict=True):
        torch.testing.assert_close(got, expected)
    converted: Any = convert_fx(prepared)
    for got, expected in zip(flat(converted(X)), want, strict=True):
        assert type(got) is Tensor
        assert (got - expected).norm() < 0.1 * expected.norm()
    inside = converted.inner(*sample)
    if isinstance(inside, tuple):
        assert [isinstance(part, QTensor) for part in inside] == [i in given for i in (0, 1)]


def test_a_dict_of_outputs_has_no_index():
    own = PrepareCustomConfig().set_output_quantized_indexes([0])
    config = PrepareCustomConfig().set_standalone_module_name("inner", None, (X,), own, None)
    prepared: Any = prepare_fx(Around(Named()).eval(), MAPPING, (X,), config)
    prepared(X)
    with pytest.raises(ArgumentError, match="cannot be returned quantized"):
        convert_fx(prepared)


class Nested(nn.Module):
    """Tensors in tuples, lists and dicts, in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, pair: Any, named: Any) -> dict[str, Any]:
        x, (y,) = pair[0], pair[1]
        return {"sum": self.out(self.fc(x) + y), "rest": [self.fc(named["k"]), (y,)]}


@torch.no_grad()
@pytest.mark.parametrize("quantized", [[], [0], [0, 1]])
def test_a_model_of_nested_inputs(quantized: list[int]):
    torch.manual_seed(6)
    model, inputs = Nested().eval(), ((X, [X + 1]), {"k": X * 2})
    config = PrepareCustomConfig().set_input_quantized_indexes(quantized)
    prepared: Any = prepare_fx(model, MAPPING, inputs, config)
    prepared(*inputs)
    converted: Any = convert_fx(prepared)
    fed: Any = inputs
    if quantized:

        def codes(x: Tensor) -> QTensor:
            return qlab.quantize_per_tensor(x, 0.05, 128, qlab.quint8)

        fed = ((codes(X), [codes(X + 1)]), {"k": codes(X * 2) if 1 in quantized else X * 2})
    found, want = converted(*fed), model(*inputs)
    assert found.keys() == want.keys()
    for got, expected in zip(flat(found), flat(want), strict=True):
        assert not got.is_quantized and (got - expected).norm() < 0.05 * expected.norm()
