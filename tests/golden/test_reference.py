"""Models in reference form give what torch's own do: see ``make_reference.py``."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qlab import quantization
from qlab.quantization import quantize_fx
from tests.golden.reference_cases import CASES, Case, run


@cache
def golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("reference.safetensors"))


def vectors(case: Case, part: str = "") -> dict[str, Tensor]:
    prefix = f"{case.name}/{part}"
    return {k.removeprefix(prefix): v for k, v in golden().items() if k.startswith(prefix)}


def steps_apart(got: Tensor, want: Tensor) -> Tensor:
    """By how many steps of the grid that ``want`` lies on its elements differ."""
    levels = want.flatten().unique()
    return ((got - want).abs() / (levels[1:] - levels[:-1]).min()).round()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_and_integer_models_are_those_of_the_reference(case: Case):
    given = vectors(case)
    model = case.model()
    model.load_state_dict(vectors(case, "state."))
    reference, integer = run(quantization, quantize_fx, case, model, given["x"])
    if case.name == "recurrent":
        torch.testing.assert_close(reference, given["y"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(integer, given["z"], rtol=1e-3, atol=1e-5)
    elif case.half:  # the reference says that it rounds weights to float16, and does not
        torch.testing.assert_close(reference, given["y"], rtol=0, atol=1e-3)
        torch.testing.assert_close(integer, given["z"], rtol=0, atol=1e-3)
        assert torch.equal(reference, reference.half().float())
    elif case.indices:
        torch.testing.assert_close(reference, given["y"], rtol=0, atol=1e-6)
        torch.testing.assert_close(integer, given["z"], rtol=0, atol=1e-6)
    else:
        for got, want in ((reference, given["y"]), (integer, given["z"])):
            apart = steps_apart(got, want)
            assert apart.max() <= 1
            assert (apart > 0).float().mean() <= 0.01
