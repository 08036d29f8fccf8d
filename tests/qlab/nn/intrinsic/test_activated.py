"""ConvAdd2d and LinearGELU: one call like the last goes straight to its kernel."""

from unittest.mock import Mock

import pytest
import torch
from torch import nn

import qlab.nn.intrinsic as nni
import qlab.nn.intrinsic.quantized as nniq
from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.granularity import PerAxis
from qlab.nn.quantized.weighted import WeightedModule
from qlab.qparams import QParams
from qlab.ranges import TensorSpec
from tests.qlab.ops.examples import codes

X, OTHER, Y = (QParams.per_tensor(s, z, quint8) for s, z in ((0.05, 117), (0.1, 90), (0.15, 120)))
SPEC = TensorSpec(qint8, symmetric=True, granularity=PerAxis(0))


def made(kind: type[WeightedModule], module: nn.Module, *inputs: QParams | None) -> WeightedModule:
    weight = SPEC.qparams_of(module[0].weight.detach())
    return kind.from_qparams(module, weight=weight, output=Y).bind_inputs(*inputs)


@pytest.fixture(params=[False, True], ids=["sum", "sum-relu"])
def layer(request: pytest.FixtureRequest) -> WeightedModule:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    if request.param:
        return made(nniq.ConvAddReLU2d, nni.ConvAddReLU2d(conv, torch.add, nn.ReLU()), X, OTHER)
    return made(nniq.ConvAdd2d, nni.ConvAdd2d(conv, torch.add), X, OTHER)


def test_a_sum_like_the_last_is_not_bound_anew(
    layer: WeightedModule, monkeypatch: pytest.MonkeyPatch
):
    x, other = codes(quint8, 2, 3, 6, 5), codes(quint8, 2, 4, 6, 5)
    with ops.use("reference"):
        wanted, double = layer(x, other), layer(x[:1], other[:1])
    assert torch.equal(layer(x, other), wanted)
    slow = Mock(wraps=ops.conv2d_add)
    monkeypatch.setattr(ops, "conv2d_add", slow)
    ops.reset_counts()
    assert torch.equal(layer(x, other), wanted)
    last = (t.contiguous(memory_format=torch.channels_last) for t in (x, other))
    assert torch.equal(layer(*last), wanted)
    assert not slow.called
    assert {operator for operator, _ in ops.counts()} == {"conv2d_add"}
    assert sum(ops.counts().values()) == 2
    assert torch.equal(layer(x[:1], other[:1]), double) and slow.call_count == 1


@pytest.mark.parametrize("change", ["output", "input", "weight", "bias"])
def test_a_changed_layer_forgets_the_last_sum(layer: WeightedModule, change: str):
    x, other = codes(quint8, 2, 3, 6, 5), codes(quint8, 2, 4, 6, 5)
    before = layer(x, other)
    match change:
        case "output":
            layer.scale = 0.3
        case "input":
            layer.input_1_scale = 0.3
        case "weight":
            layer.weight_codes.neg_()
        case "bias":
            layer.bias_float.add_(3.0)
    after = layer(x, other)
    assert not torch.equal(after, before)
    with ops.use("reference"):
        assert torch.equal(layer(x, other), after)


def test_the_second_operand_may_be_real_numbers(layer: WeightedModule):
    x, other = codes(quint8, 2, 3, 6, 5), codes(quint8, 2, 4, 6, 5)
    wanted = layer(x, other)
    real = (other.float() - 90) * OTHER.scale
    steps = layer.bind_inputs(X, None)(x, real).int() - wanted.int()
    assert steps.abs().max() <= 1 and steps.count_nonzero() <= 2


@pytest.mark.parametrize("how", ["none", "tanh"])
def test_gelu_keeps_its_form_and_its_bound_call(how: str, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    layer = made(nniq.LinearGELU, nni.LinearGELU(nn.Linear(8, 5), nn.GELU(how)), X)
    assert layer.approximate == how and f"approximate='{how}'" in repr(layer)
    x = codes(quint8, 7, 8)
    with ops.use("reference"):
        wanted = layer(x)
    layer(x)
    slow = Mock(wraps=ops.linear_gelu)
    monkeypatch.setattr(ops, "linear_gelu", slow)
    ops.reset_counts()
    assert (layer(x).int() - wanted.int()).abs().max() <= 1
    assert not slow.called and {operator for operator, _ in ops.counts()} == {"linear_gelu"}
    again = nniq.LinearGELU.from_config(layer.config())
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))
