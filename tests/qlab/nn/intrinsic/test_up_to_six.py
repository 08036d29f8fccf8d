"""Modules that fuse ReLU6: the codes of a layer and a ReLU6 in turn, in the layer's own pass."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qlab.nn.intrinsic as nni
import qlab.nn.intrinsic.quantized as nniq
from qlab import ops
from qlab.dtypes import QDType, float8_e4m3fn, integer, qint8, quint8
from qlab.granularity import PerAxis
from qlab.nn.quantized.weighted import WeightedModule
from qlab.qparams import QParams
from qlab.ranges import TensorSpec
from tests.qlab.ops.examples import codes

X = QParams.per_tensor(0.05, 117, quint8)
SPEC = TensorSpec(qint8, symmetric=True, granularity=PerAxis(0))
FORMS: dict[str, tuple[type[WeightedModule], nn.Module, tuple[int, ...]]] = {
    "linear": (nniq.LinearReLU6, nni.LinearReLU6(nn.Linear(8, 5), nn.ReLU6()), (7, 8)),
    "line": (nniq.Conv1dReLU6, nni.Conv1dReLU6(nn.Conv1d(4, 5, 3), nn.ReLU6()), (2, 4, 9)),
    "plane": (
        nniq.Conv2dReLU6, nni.Conv2dReLU6(nn.Conv2d(4, 5, 3), nn.ReLU6()), (2, 4, 7, 6),
    ),
    "depthwise": (
        nniq.Conv2dReLU6,
        nni.Conv2dReLU6(nn.Conv2d(64, 64, 3, groups=64), nn.ReLU6()),
        (1, 64, 5, 5),
    ),
    "space": (
        nniq.Conv3dReLU6, nni.Conv3dReLU6(nn.Conv3d(4, 5, 2), nn.ReLU6()), (2, 4, 4, 4, 4),
    ),
}  # fmt: skip


def made(form: str, output: QParams | None) -> WeightedModule:
    kind, fused, _ = FORMS[form]
    with torch.no_grad():
        fused[0].weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(3)
    weight = SPEC.qparams_of(fused[0].weight.detach())
    return kind.from_qparams(fused, weight=weight, output=output).bind_inputs(X)


def in_turn(layer: WeightedModule, x: torch.Tensor) -> torch.Tensor:
    """The layer with ReLU over its whole range of codes, then ReLU6."""
    output: Any = layer.output_qparams
    options = {"stride": layer.stride, "groups": layer.groups} if x.dim() > 2 else {}
    call = x, X, layer.weight_codes, layer.weight_qparams, layer.bias(), output
    return ops.relu6(type(layer).op(*call, relu=True, **options), output)


@pytest.mark.parametrize("form", FORMS)
@given(
    scale=st.floats(0.005, 40.0),
    share=st.floats(0.0, 1.0),
    kind=st.sampled_from([quint8, qint8, integer(4, signed=True), integer(16, signed=True)]),
    seed=st.integers(0, 2**16),
)
def test_codes_are_those_of_relu6_behind_the_layer(
    form: str, scale: float, share: float, kind: QDType, seed: int
):
    torch.manual_seed(seed)
    zero_point = round(kind.quant_min + share * (kind.levels - 1))
    layer = made(form, QParams.per_tensor(scale, zero_point, kind))
    x = codes(quint8, *FORMS[form][2])
    wanted = in_turn(layer, x)
    for _ in range(2):
        assert torch.equal(layer(x), wanted)
    with ops.use("reference"):
        assert torch.equal(layer(x), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_codes_above_six_cost_no_pass_of_their_own(form: str):
    layer = made(form, QParams.per_tensor(8 / 255, 0, quint8))
    x = codes(quint8, *FORMS[form][2])
    ops.reset_counts()
    found = layer(x)
    assert found.max() == round(6 / 8 * 255)
    assert {operator for operator, _ in ops.counts()} == {type(layer).op.__name__}
    assert layer.output_qparams is not None and layer.output_qparams.quant_max == 255


def test_a_changed_scale_moves_the_limit():
    layer = made("plane", QParams.per_tensor(8 / 255, 0, quint8))
    x = codes(quint8, *FORMS["plane"][2])
    layer(x)
    layer.scale = 16 / 255
    assert layer(x).max() == round(6 / 16 * 255)


def test_outputs_without_such_codes():
    x = codes(quint8, *FORMS["plane"][2])
    real = made("plane", None)(x)
    assert real.dtype == torch.float32 and real.max() == 6.0 and real.min() == 0.0
    small = made("plane", QParams.per_tensor(0.1, 0, float8_e4m3fn))(x)
    assert small.dtype == torch.float8_e4m3fn and small.float().max() == 60
