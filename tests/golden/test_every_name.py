"""Every public name against torch 2.13's own, and that there is a golden case for each."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.golden.every_module import MODULES
from tests.golden.every_name import QLAB, Case, flat
from tests.golden.every_observer import BATCHES, ERROR, OBSERVERS

PATH = Path(__file__).with_name("every_name.safetensors")
CASES: dict[str, Case] = {**MODULES, **OBSERVERS}


@cache
def read() -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Stored tensors by ``path/key``, and everything else by path."""
    with safe_open(PATH, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["plain"])


def stored(path: str) -> dict[str, Any]:
    tensors, plain = read()
    prefix = f"{path}/"
    mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return {**mine, **plain[path]}


@pytest.mark.parametrize("path", CASES)
def test_it_gives_what_the_reference_gives(path: str):
    with warnings.catch_warnings():  # operations with a number have no scale to observe
        warnings.filterwarnings("ignore", message="convert: no calibration data reached 'does.add_")
        found = flat(CASES[path](QLAB))
    want = stored(path)
    assert set(found) == set(want)
    for key, value in found.items():
        expected = want[key]
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, expected, rtol=2e-6, atol=2e-6, msg=key)
        elif ERROR in key:
            assert value <= 1.01 * expected + 1e-6 * float(BATCHES.square().sum()), key
        else:
            assert value == expected, key
