"""LSTM and attention through prepare and convert: see ``make_quantizable.py``.

Outputs are the same codes as the reference's, with two exceptions: averaged attention weights may
be one step off (a mean on codes), and where keys and values have biases of their own the reference
quantizes the value's by the key's range, qlab by its own.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qlab.eager import convert, prepare
from qlab.nn.stubs import DeQuantStub, QuantStub
from qlab.observers import MinMaxObserver, default_weight_observer
from qlab.qconfig import QConfig
from tests.golden.quantizable_cases import CASES, Case, Wrapped


@cache
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("quantizable.safetensors"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@torch.no_grad()
def test_outputs_are_the_reference_s(case: Case):
    prefix = f"{case.name}/"
    vectors = {k.removeprefix(prefix): v for k, v in golden().items() if k.startswith(prefix)}
    module = getattr(nn, case.kind)(*case.args, **case.kwargs).eval()
    module.load_state_dict(
        {k.removeprefix("state."): v for k, v in vectors.items() if k.startswith("state.")}
    )
    model = Wrapped(module, QuantStub(), DeQuantStub()).eval()
    model.qconfig = QConfig(MinMaxObserver, default_weight_observer)
    prepared = prepare(model)
    for batch in vectors["calibration"]:
        prepared(batch)
    converted = convert(prepared)
    results, floating = converted(vectors["x"]), model(vectors["x"])
    y0, want = results[0], vectors["y0"]
    if case.kwargs.get("add_bias_kv"):
        assert (y0 - floating[0]).square().mean() <= (want - floating[0]).square().mean()
    else:
        torch.testing.assert_close(y0, want, rtol=1e-6, atol=1e-6)
    step = 0.0
    if case.kind == "MultiheadAttention":
        step = converted.module.quant_attn_output_weights.scale.item()
    for index, y in enumerate(results[1:], 1):
        torch.testing.assert_close(y, vectors[f"y{index}"], rtol=1e-6, atol=1.01 * step + 1e-6)
