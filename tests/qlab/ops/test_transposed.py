"""Transposed convolutions: exact sums, one scale per output channel, errors that explain."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.errors import ArgumentError, DTypeError, ShapeError
from qlab.granularity import PerAxis
from qlab.qparams import QParams, requantize

X = QParams.per_tensor(0.05, 120, quint8)
W = QParams.per_tensor(0.02, 0, qint8)
Y = QParams.per_tensor(0.4, 131, quint8)
OPS = {1: ops.conv_transpose1d, 2: ops.conv_transpose2d, 3: ops.conv_transpose3d}
FLOAT = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def codes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def weights(*shape: int) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("channels", [6, 300])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("per_channel", [True, False])
def test_sums_are_exact(rank: int, channels: int, groups: int, per_channel: bool):
    x, weight = codes(2, channels, *[4] * rank), weights(channels, 3, *[3] * rank)
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": groups, "dilation": 2}
    w_qparams, bias = W, torch.randn(3 * groups)
    if per_channel:
        zeros = torch.zeros(3, dtype=torch.int32)
        w_qparams = QParams(torch.tensor([0.01, 0.02, 0.03]), zeros, qint8, PerAxis(1))
    steps = x.to(torch.int64) - 120
    total = FLOAT[rank](steps, weight.to(torch.int64), None, **options)
    per_output = [-1, *[1] * rank]
    scale = (X.scale * w_qparams.scale).expand(3).repeat(groups).reshape(per_output)
    real = total.to(torch.float32) * scale + bias.reshape(per_output)
    arguments = (x, X, weight, w_qparams, bias)
    assert ops.kernel_for(f"conv_transpose{rank}d", *arguments, Y, **options) == "reference"
    assert torch.equal(OPS[rank](*arguments, Y, **options), requantize(real, Y))
    assert torch.equal(OPS[rank](*arguments, None, **options, relu=True), real.relu())


def test_scales_along_the_summed_axis_are_simulated():
    zeros = torch.zeros(4, dtype=torch.int32)
    rows = QParams(torch.rand(4) + 0.1, zeros, qint8, PerAxis(0))
    arguments = (codes(1, 4, 5), X, weights(4, 2, 3), rows, None, Y)
    assert ops.kernel_for("conv_transpose1d", *arguments) == "simulated"
    assert ops.conv_transpose1d(*arguments).shape == (1, 2, 7)


def test_arguments_that_make_no_sense():
    x, weight = codes(1, 4, 5), weights(4, 2, 3)

    def run(x: Tensor = x, weight: Tensor = weight, bias: Tensor | None = None, **options) -> None:
        ops.conv_transpose1d(x, X, weight, W, bias, Y, **options)

    with pytest.raises(ShapeError, match=r"channels, weight and groups.*first axis.*\(3, 2, 3\)"):
        run(weight=weights(3, 2, 3))
    with pytest.raises(ShapeError, match=r"channels, weight and groups.*groups 3"):
        run(groups=3)
    with pytest.raises(ArgumentError, match=r"output padding is too wide.*output_padding \(2,\)"):
        run(stride=2, output_padding=2)
    with pytest.raises(ShapeError, match=r"padding leaves nothing.*padding \(9,\)"):
        run(padding=9)
    with pytest.raises(ArgumentError, match=r"padding must be given in numbers.*'same'"):
        run(padding="same")
    with pytest.raises(ShapeError, match=r"bias has the wrong shape.*\(4,\).*\(2,\)"):
        run(bias=torch.zeros(2), groups=2)
    with pytest.raises(ShapeError, match=r"3 axes, \(N, C, L\)"):
        run(x=codes(4, 5))
    with pytest.raises(DTypeError, match="does not hold codes of quint8"):
        run(x=torch.zeros(1, 4, 5))
