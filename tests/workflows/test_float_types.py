"""Models in half and double precision: quantized like any other, their dtype kept."""

import pytest
import torch
from torch import nn

import qlab
from qlab.graph import convert_fx, prepare_fx

DTYPES = [torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", ["int8", "int8-weights-only"])
def test_operators_that_stay_in_float_get_the_models_own_dtype(dtype, preset):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3), nn.Flatten(), nn.Linear(256, 2)
    )
    model, x = model.to(dtype).eval(), torch.randn(4, 3, 8, 8, dtype=dtype)
    prepared = prepare_fx(model, preset, x)
    prepared(x)
    result = convert_fx(prepared)(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result, model(x), atol=0.05, rtol=0.02)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_checkpoint_keeps_the_dtype(dtype, tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.PReLU(), nn.Linear(4, 2)).to(dtype)
    x = torch.randn(8, 6, dtype=dtype)
    lab = qlab.Lab(model, x, [x])
    assert lab.compare().output["sqnr"] > 20
    loaded = qlab.load_quantized(lab.export(tmp_path / "model.safetensors"))
    assert torch.equal(loaded(x), lab.convert()(x))
