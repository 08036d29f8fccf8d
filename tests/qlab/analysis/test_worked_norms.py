"""A worked norm takes the operator's steps; a fold and a fused activation keep the numbers."""

import pytest
import torch
from torch import nn

import qlab
from qlab.analysis.worked_norms import (
    before_activation,
    fused_activation,
    worked_fold,
    worked_norm,
)
from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError
from qlab.nn import intrinsic as nni
from qlab.qconfig import QConfigMapping
from qlab.ranges import TensorSpec

SPEC = TensorSpec.uint8_activation()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 1


def trained(norm: nn.Module) -> nn.Module:
    """With numbers of its own, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm.eval()


NORMS = [
    (nn.LayerNorm(6), (3, 4, 6), 12),
    (nn.LayerNorm((4, 6)), (3, 4, 6), 3),
    (nn.GroupNorm(2, 4), (3, 4, 5), 6),
    (nn.InstanceNorm1d(4, affine=True), (3, 4, 5), 12),
    (nn.InstanceNorm2d(4), (2, 4, 3, 3), 8),
    (nn.InstanceNorm1d(4, track_running_stats=True), (3, 4, 5), 4),
    (nn.BatchNorm2d(4), (2, 4, 3, 3), 4),
]


@pytest.mark.parametrize(("norm", "shape", "groups"), NORMS, ids=lambda x: str(x)[:22])
def test_the_steps_end_in_the_operators_codes(norm: nn.Module, shape: tuple[int, ...], groups: int):
    layer, x = trained(norm), random(*shape)
    with torch.no_grad():
        y = layer(x)
    qparams = SPEC.qparams_of(x), SPEC.qparams_of(y)
    seen = []
    for group in range(groups):
        worked = worked_norm(layer, x, qparams, group)
        assert worked.groups == groups
        assert (worked.step_codes.int() - worked.operator_codes.int()).abs().max() <= 1
        assert torch.allclose(worked.result, worked.reference, atol=0.1)
        assert worked.sqnr_db > 30
        seen.append(worked.reference)
    assert torch.equal(torch.cat(seen).sort().values, y.flatten().sort().values)


def test_a_relu_and_bounds_are_part_of_the_reference():
    layer, x = nn.BatchNorm1d(4).eval(), random(8, 4)
    qparams = SPEC.qparams_of(x), SPEC.qparams_of(x.relu())
    with_relu = worked_norm(layer, x, qparams, 1, relu=True)
    assert float(with_relu.reference.min()) == 0.0
    assert with_relu.clipped == 0
    clamped = worked_norm(layer, x, qparams, 1, bounds=(0.0, float("inf")))
    assert torch.equal(clamped.reference, with_relu.reference)
    assert clamped.clipped == int((with_relu.reference == 0).sum()) > 0


def test_a_norm_of_a_model():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)).eval()
    lab = qlab.Lab(model, random(8, 4), [random(8, 4)])
    worked = lab.worked_norm("1", 2)
    assert worked.kind == "LayerNorm"
    assert torch.allclose(worked.x, model[0](lab.layer_inputs("0")[0])[2])
    with pytest.raises(UnsupportedError, match="does not turn codes into codes"):
        lab.worked_norm("1", mapping=QConfigMapping())


def test_what_is_no_norm_says_so():
    qparams = SPEC.qparams_of(random(2, 4)), SPEC.qparams_of(random(2, 4))
    with pytest.raises(UnsupportedError, match="Only normalizations are worked out"):
        worked_norm(nn.Linear(4, 4), random(2, 4), qparams, 0)
    with pytest.raises(ArgumentError, match="No such group"):
        worked_norm(nn.LayerNorm(4), random(2, 4), qparams, 2)


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_layer_puts_out_the_same(bias: bool):
    conv, norm = nn.Conv2d(3, 4, 3, bias=bias), trained(nn.BatchNorm2d(4))
    worked = worked_fold(conv, norm, random(2, 3, 6, 6))
    assert 0 <= worked.largest_difference < 1e-5 * worked.largest_output
    old, new = worked.weight
    assert torch.allclose(new, old * worked.factor.reshape(-1, 1, 1, 1))
    gamma, beta, mean, variance = worked.norm
    assert torch.allclose(worked.factor, gamma / (variance + worked.eps).sqrt())
    assert torch.allclose(worked.bias[1], (worked.bias[0] - mean) * worked.factor + beta, atol=1e-6)


def test_a_fused_activation_spends_no_codes_below_zero():
    x = random(4000) - 1
    worked = fused_activation(x, "ReLU", 4)
    assert worked.fused.zero_point_value == 0 < worked.apart.zero_point_value
    assert worked.fused_sqnr > worked.apart_sqnr + 3
    six = fused_activation(x * 5, "ReLU6", 4)
    assert six.fused.scale_value == pytest.approx(6 / 15)
    with pytest.raises(UnknownNameError, match="GELU"):
        fused_activation(x, "GELU", 4)


def test_before_the_activation_numbers_are_negative_too():
    module = nni.LinearReLU(nn.Linear(4, 4), nn.ReLU())
    x = random(8, 4)
    assert torch.equal(before_activation(module, x).relu(), module(x))
    assert float(before_activation(module, x).min()) < 0
