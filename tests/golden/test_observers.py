"""Observers and fake quantizers against the reference's, from vectors it made (torch 2.13)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import qlab.fake_quantize as fake_quantizers
import qlab.observers as observers

PATH = Path(__file__).with_name("observers.safetensors")

with safe_open(PATH, "pt") as file:
    TENSORS = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    CASES = json.loads(file.metadata()["observers"])
    KINDS = json.loads(file.metadata()["kinds"])

FAKE = sorted({name.split("/")[1] for name in TENSORS if name.startswith("fake/")})
#: Float zero points: the reference fuses a multiplication and an addition.
NEARLY = "default_embedding_fake_quant"


@pytest.mark.parametrize("kind", KINDS)
def test_observers_choose_exactly_the_same_scale_and_zero_point(kind):
    assert len(CASES) > 100
    for number, (name, arguments) in enumerate(CASES):
        observer = getattr(observers, name)(**arguments)
        for x in TENSORS[f"data/{kind}"]:
            observer(x)
        found = observer.calculate_qparams()
        for part, mine in zip(("scale", "zero_point"), found, strict=True):
            expected = TENSORS[f"observer/{number}/{part}"][KINDS.index(kind)]
            assert torch.equal(mine.double(), expected.double()), (name, arguments, part)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAKE)
def test_fake_quantizers_give_the_same_values_and_gradients(name, kind):
    module = getattr(fake_quantizers, name)()
    expected = TENSORS[f"fake/{name}/y"][KINDS.index(kind)]
    passes = TENSORS[f"fake/{name}/passes"][KINDS.index(kind)]
    for i, x in enumerate(TENSORS[f"data/{kind}"]):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.sum().backward()
        if name.startswith(NEARLY):
            assert torch.allclose(y, expected[i], rtol=1e-5, atol=module.scale.max().item() * 1e-4)
        else:
            assert torch.equal(y, expected[i])
        assert torch.equal(leaf.grad.bool(), passes[i])
