import pytest
import torch
from torch import nn

import qlab
from qlab import ops
from qlab.analysis import probe
from qlab.dtypes import float8_e4m3fn, qint8, quint8
from qlab.errors import UnsupportedError
from qlab.qparams import QParams


@pytest.mark.parametrize("dtype", [quint8, qint8, float8_e4m3fn])
@pytest.mark.parametrize("shape", [(7, 40), (1, 300), (300,), (3, 5, 8, 4)])
def test_quantizing_in_parts_gives_the_same_codes_and_layout(monkeypatch, dtype, shape):
    monkeypatch.setattr(probe, "_PART", 64)
    x = torch.randn(shape)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    qparams = QParams.per_tensor(0.03, 3 if dtype is not float8_e4m3fn else 0, dtype)
    codes, expected = probe.quantize_in_parts(x, qparams), ops.quantize(x, qparams)
    assert codes.dtype == expected.dtype
    assert torch.equal(codes.view(torch.uint8), expected.view(torch.uint8))
    assert codes.stride() == expected.stride()


def test_a_layer_that_takes_codes_only_says_what_it_lacks():
    lab = qlab.Lab(nn.Sequential(nn.ReLU()).eval(), torch.zeros(1, 3), [torch.randn(4, 3)])
    with pytest.raises(UnsupportedError, match=r"'0' works on codes, and what feeds it stays"):
        lab.what_if("0")
