"""Models and data that a Lab meets and its own samples do not have."""

import pytest
import torch
from torch import nn

import qlab


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_has_every_answer(dtype: torch.dtype):
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    lab = qlab.Lab(small_net().to(dtype), (x.to(dtype),), [x.to(dtype)])
    same = qlab.Lab(small_net(), (x,), [x])
    found, expected = lab.sensitivity().table, same.sensitivity().table
    assert list(found.index) == list(expected.index)
    for column in ("sqnr_on", "sqnr_off", "sqnr_estimate"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), abs=3)
    fidelity, float32 = lab.fidelity(), same.fidelity()
    assert fidelity.table.exact_local.min() > 0.9  # bfloat16 simulates with 8 bits of mantissa
    assert fidelity.output["sqnr_float_fake"] == pytest.approx(
        float32.output["sqnr_float_fake"], abs=3
    )
    for layer in ("0", "2"):
        assert [c.kind for c in lab.causes(layer)] == [c.kind for c in same.causes(layer)]
