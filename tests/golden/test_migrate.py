"""Migrated models give what the originals gave: see ``make_migrate.py``."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import qlab
from qlab.nn.quantized import QuantizedModule
from qlab.nn.quantized.dynamic.recurrent import RecurrentModule
from tests.golden.migrate_models import first
from tests.golden.recorded import Recording

PATH = Path(__file__).with_name("migrate.safetensors")


@cache
def recording() -> Recording:
    return Recording(PATH)


@pytest.mark.parametrize("name", Recording(PATH).cases)
def test_the_migrated_model_gives_the_original_s_output(name: str):
    """On codes the same integers; where real numbers come out, float32's rounding."""
    model, x, y = recording().case(name)
    migrated = qlab.migrate(model)
    with torch.no_grad():
        torch.testing.assert_close(first(migrated(x)), y, rtol=1e-5, atol=1e-6)
    kinds = [type(module) for module in migrated.modules()]
    assert not any(kind.__module__.startswith("torch.ao") for kind in kinds)
    assert any(issubclass(kind, QuantizedModule | RecurrentModule) for kind in kinds)


@pytest.mark.parametrize("name", ["static", "graph", "dynamic-lstm", "embedding-bag-4"])
def test_a_migrated_model_is_saved_and_copied(name: str):
    import copy

    model, x, y = recording().case(name)
    migrated = qlab.migrate(model)
    state = {key: value.clone() for key, value in migrated.state_dict().items()}
    twin = copy.deepcopy(migrated)
    twin.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(first(twin(x)), first(migrated(x)))
    assert isinstance(migrated, nn.Module) and y.numel()
