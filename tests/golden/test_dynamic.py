"""Dynamically quantized modules give what torch 2.13's own gave: see ``make_dynamic.py``."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import qlab.nn.intrinsic as nni
from qlab import qconfig
from qlab.registry import row_for_module
from tests.golden.dynamic_cases import CASES, Case


@cache
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("dynamic.safetensors"))


def floating(case: Case) -> nn.Module:
    if case.kind == "LinearReLU":
        return nni.LinearReLU(nn.Linear(*case.args, **case.kwargs), nn.ReLU())
    return getattr(nn, case.kind)(*case.args, **case.kwargs)


def outputs(result: object) -> list[Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [t for part in result for t in outputs(part)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_are_the_reference_s(case: Case):
    prefix = f"{case.name}/"
    vectors = {k.removeprefix(prefix): v for k, v in golden().items() if k.startswith(prefix)}
    module = floating(case).eval()
    module.load_state_dict(
        {k.removeprefix("state."): v for k, v in vectors.items() if k.startswith("state.")}
    )
    module.qconfig = getattr(qconfig, case.qconfig)
    quantized = row_for_module(type(module)).dynamic.from_float(module)
    x = vectors["x"]
    if case.lengths:
        batch_first = case.kwargs.get("batch_first", False)
        x = pack_padded_sequence(x, list(case.lengths), batch_first, enforce_sorted=False)
    hidden = tuple(vectors[name] for name in ("h0", "h1") if name in vectors)
    state = (hidden if len(hidden) > 1 else hidden[0],) if hidden else ()
    results = outputs(quantized(x, *state))
    expected = [vectors[f"y{index}"] for index in range(len(results))]
    assert f"y{len(results)}" not in vectors
    # A linear layer differs in the order of float32 operations only; states carry that on.
    tolerance = 2e-6 if case.kind.startswith("Linear") else 1e-5
    for y, want in zip(results, expected, strict=True):
        assert y.shape == want.shape
        torch.testing.assert_close(y, want, rtol=0, atol=tolerance * want.abs().max().item())
