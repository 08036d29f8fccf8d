"""Quantization-aware training step by step as the reference trains: see ``make_qat.py``.

Losses, gradients, fake-quantized outputs and the integer network after conversion. Outputs may be
one step apart where a value lies on a tie, on few elements.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qlab import quantization
from qlab.nn.intrinsic.qat import freeze_bn_stats
from qlab.quantization import quantize_fx
from tests.golden.qat_cases import CASES, GRAPHS, SHARING, Case, build, build_fx, finish, train


@cache
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("qat.safetensors"))


def vectors(case: Case, part: str = "") -> dict[str, Tensor]:
    prefix = f"{case.name}/{part}"
    return {k.removeprefix(prefix): v for k, v in golden().items() if k.startswith(prefix)}


def freeze(module: nn.Module) -> None:
    quantization.disable_observer(module)
    freeze_bn_stats(module)


def close_codes(got: Tensor, want: Tensor) -> None:
    """At most one step of the grid that ``want`` lies on, on at most 1 in 100 elements."""
    difference = (got - want).abs()
    levels = want.flatten().unique()
    step = (levels[1:] - levels[:-1]).min() if levels.numel() > 1 else torch.tensor(0.0)
    assert float(difference.max()) <= 1.01 * float(step)
    assert float((difference > 1e-6 * want.abs().max()).float().mean()) <= 0.01


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_six_steps_of_training_and_the_integers_after_them(case: Case):
    given = vectors(case)
    prepared = build(quantization, case, vectors(case, "state."))
    losses = train(prepared, given["x"], given["target"], freeze)
    torch.testing.assert_close(losses, given["losses"], rtol=1e-4, atol=1e-4)
    for name, parameter in prepared.named_parameters():
        want = given[f"gradient.{name}"]
        torch.testing.assert_close(parameter.grad, want, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        close_codes(prepared.eval()(given["x"][0]), given["y_fake"])
        close_codes(finish(quantization, case, prepared)(given["x"][0]), given["y"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_training_state_of_the_reference_loads(case: Case):
    given, prepared = vectors(case), build(quantization, case)
    missing = prepared.load_state_dict(vectors(case, "trained."))
    assert not missing.missing_keys
    prepared.apply(freeze)
    with torch.no_grad():
        close_codes(prepared.eval()(given["x"][0]), given["y_fake"])
        close_codes(finish(quantization, case, prepared)(given["x"][0]), given["y"])


@pytest.mark.parametrize("case", GRAPHS, ids=lambda case: case.name)
def test_six_steps_of_a_graph_and_its_integers(case: Case):
    given = vectors(case)
    prepared = build_fx(quantization, quantize_fx, case, vectors(case, "state."))
    losses = train(prepared, given["x"], given["target"], freeze)
    torch.testing.assert_close(losses, given["fx_losses"], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        close_codes(prepared.eval()(given["x"][0]), given["fx_y_fake"])
        close_codes(quantize_fx.convert_fx(prepared)(given["x"][0]), given["fx_y"])


@pytest.mark.parametrize("case", SHARING, ids=lambda case: case.name)
def test_a_training_state_of_a_graph_of_the_reference_loads(case: Case):
    given, prepared = vectors(case), build_fx(quantization, quantize_fx, case)
    prepared.load_state_dict(vectors(case, "fx_trained."))
    prepared.apply(freeze)
    with torch.no_grad():
        close_codes(prepared.eval()(given["x"][0]), given["fx_y_fake"])
        close_codes(quantize_fx.convert_fx(prepared)(given["x"][0]), given["fx_y"])
