"""Quantization-aware modules: the float layer's arithmetic on the weight it will have."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlab import registry
from qlab.errors import ArgumentError, DTypeError, UnsupportedError
from qlab.nn import qat
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic import qat as nniqat
from qlab.nn.intrinsic.fold import core
from qlab.nn.intrinsic.qat.fused import BatchNormed
from qlab.nn.qat import dynamic
from qlab.nn.quantized import QuantizedModule
from qlab.qparams import fake_quantize
from qlab.quantization import (
    QConfig,
    default_dynamic_qat_qconfig,
    default_embedding_qat_qconfig,
    default_fake_quant,
    default_per_channel_weight_fake_quant,
    default_qat_qconfig,
    disable_fake_quant,
    disable_observer,
)

PER_CHANNEL = QConfig(default_fake_quant, default_per_channel_weight_fake_quant)
LAYERS = {
    nn.Linear: (lambda: nn.Linear(4, 6), (5, 4)),
    nn.Conv1d: (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 5)),
    nn.Conv2d: (
        lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular"),
        (2, 4, 5, 5),
    ),
    nn.Conv3d: (lambda: nn.Conv3d(4, 6, 2, stride=2, bias=False), (2, 4, 4, 4, 4)),
    nn.Embedding: (lambda: nn.Embedding(7, 4, padding_idx=1), None),
    nn.EmbeddingBag: (lambda: nn.EmbeddingBag(7, 4, mode="sum"), None),
}  # fmt: skip
NORMS = {nn.Linear: nn.BatchNorm1d, nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d}
AWARE = [kind for row in registry.ROWS for kind in row.qat]


def name(kind: type) -> str:
    return f"{kind.__module__.split('.')[2]}.{kind.__name__}"


def float_module(kind: type[QuantizationAware], seed: int = 0) -> nn.Module:
    """A module that the class takes the place of, with numbers in its batch norm."""
    torch.manual_seed(seed)
    parts = getattr(kind.float_type, "parts", (kind.float_type,))
    made = [LAYERS[parts[0]][0]()]
    for part in parts[1:]:
        made.append(part(6) if issubclass(part, nn.modules.batchnorm._BatchNorm) else part())
        for tensor in (*made[-1].parameters(), *made[-1].buffers()):
            if tensor.is_floating_point():
                tensor.data.uniform_(0.5, 1.5)
    module = kind.float_type(*made) if len(parts) > 1 else made[0]
    embedding = isinstance(made[0], nn.Embedding | nn.EmbeddingBag)
    module.qconfig = default_embedding_qat_qconfig if embedding else PER_CHANNEL
    return module.train()


def example(kind: type[QuantizationAware]) -> Tensor:
    parts = getattr(kind.float_type, "parts", (kind.float_type,))
    shape = LAYERS[parts[0]][1]
    torch.manual_seed(1)
    return torch.randn(shape) if shape else torch.randint(0, 7, (3, 2))


@pytest.mark.parametrize("kind", AWARE, ids=name)
def test_without_rounding_it_computes_what_the_float_module_does(kind: type[QuantizationAware]):
    plain, x = float_module(kind), example(kind)
    made = kind.from_float(copy.deepcopy(plain))
    made.apply(disable_fake_quant)
    torch.testing.assert_close(made(x), plain(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", AWARE, ids=name)
def test_in_use_it_computes_with_the_rounded_weight(kind: type[QuantizationAware]):
    """The formula of the docstring by hand, batch norm folded."""
    made, x = kind.from_float(float_module(kind)), example(kind)
    made(x)
    made.eval()
    y = made(x)
    folded: nn.Module = core(made)
    rounded = fake_quantize(folded.weight.detach(), made.weight_fake_quant.current_qparams())
    folded.weight = nn.Parameter(rounded)
    want = folded.eval()(x)
    torch.testing.assert_close(y, F.relu(want) if made.relu else want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(rounded, core(made).weight, atol=1e-7)


@pytest.mark.parametrize("kind", AWARE, ids=name)
def test_it_shares_its_parameters_and_trains_them(kind: type[QuantizationAware]):
    plain = float_module(kind)
    made = kind.from_float(plain)
    layer = plain[0] if isinstance(plain, nn.Sequential) else plain
    assert made.weight is layer.weight
    made(example(kind)).square().sum().backward()
    assert made.weight.grad is not None and made.weight.grad.abs().sum() > 0
    for parameter in made.parameters():
        assert parameter.grad is not None


@pytest.mark.parametrize("kind", AWARE, ids=name)
def test_it_is_saved_copied_and_turned_back(kind: type[QuantizationAware]):
    made, x = kind.from_float(float_module(kind)), example(kind)
    made(x)
    made.eval().apply(disable_observer)
    y = made(x)
    other = kind.from_float(float_module(kind, seed=5)).eval()
    other.load_state_dict(made.state_dict())
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), other):
        assert torch.equal(twin(x), y)
    back = made.to_float()
    made.apply(disable_fake_quant)
    torch.testing.assert_close(back.eval()(x), made(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, QuantizationAware) for part in back.modules())


@pytest.mark.parametrize("kind", AWARE, ids=name)
def test_another_class_and_a_missing_qconfig_are_refused(kind: type[QuantizationAware]):
    with pytest.raises(DTypeError, match=rf"{kind.__name__} cannot be made from this.*Tanh"):
        kind.from_float(nn.Tanh())
    plain = float_module(kind)
    for qconfig in (None, QConfig(default_fake_quant, None)):
        plain.qconfig = qconfig
        with pytest.raises(ArgumentError, match="needs a qconfig for its weight"):
            kind.from_float(plain)


@pytest.mark.parametrize("kind", [k for k in AWARE if issubclass(k, BatchNormed)], ids=name)
def test_frozen_statistics_stay_in_training_and_follow_again_afterwards(kind: type[BatchNormed]):
    made, x = kind.from_float(float_module(kind)), example(kind)
    made.apply(nniqat.freeze_bn_stats)
    before = made.bn.running_mean.clone()
    made.train()
    made(x)
    assert made.training and not made.bn.training
    assert torch.equal(made.bn.running_mean, before)
    made.apply(nniqat.update_bn_stats)
    made(x)
    assert not torch.equal(made.bn.running_mean, before)
    made.reset_running_stats()
    assert made.bn.running_var.eq(1).all()
    made.reset_bn_parameters()
    assert made.bn.weight.ge(0).all() and made.bn.weight.unique().numel() > 1
    assert made.bn.bias.eq(0).all()


def test_a_batch_norm_in_evaluation_mode_stays_frozen():
    plain = float_module(nniqat.ConvBn2d)
    plain[1].eval()
    made = nniqat.ConvBn2d.from_float(plain)
    assert made.freeze_bn
    before = made.bn.running_mean.clone()
    made.train()(example(nniqat.ConvBn2d))
    assert torch.equal(made.bn.running_mean, before)


def test_constructors_take_the_references_arguments():
    conv = nniqat.ConvBnReLU2d(
        3, 4, (3, 3), 2, 1, 1, 1, True, "zeros", 1e-3, 0.2, True, default_qat_qconfig
    )
    assert (conv.bn.eps, conv.bn.momentum, conv.freeze_bn) == (1e-3, 0.2, True)
    assert conv.bias is not None
    assert nniqat.ConvBn2d(3, 4, 3, qconfig=default_qat_qconfig).bias is None
    half = qat.Linear(4, 2, False, default_qat_qconfig, dtype=torch.float64)
    assert half.weight.dtype == torch.float64 and half.bias is None
    assert nniqat.LinearBn1d(4, 2, qconfig=default_qat_qconfig).bn.num_features == 2
    with pytest.raises(ArgumentError, match="needs a qconfig"):
        qat.Conv2d(3, 4, 3)


def test_embeddings_need_real_zero_points():
    with pytest.raises(UnsupportedError, match="per_channel_affine_float_qparams"):
        qat.Embedding(5, 3, qconfig=default_qat_qconfig)


def test_the_dynamic_linear_layer_needs_a_dynamic_qconfig_and_becomes_a_dynamic_one():
    with pytest.raises(UnsupportedError, match="is_dynamic=True"):
        dynamic.Linear(4, 2, qconfig=default_qat_qconfig)
    made = dynamic.Linear(4, 2, qconfig=default_dynamic_qat_qconfig)
    x = torch.randn(3, 4)
    (target,) = [row.dynamic for row in registry.ROWS if row.qat_dynamic is dynamic.Linear]
    converted = target.from_float(made)
    assert issubclass(target, QuantizedModule)
    torch.testing.assert_close(converted(x), made(x), rtol=0.02, atol=0.02)


def test_a_state_dict_that_does_not_fit_changes_nothing():
    made = nniqat.ConvBn2d(3, 4, 3, qconfig=default_qat_qconfig)
    before = made.weight.clone()
    other = nniqat.ConvBn2d(3, 5, 3, qconfig=default_qat_qconfig).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for weight"):
        made.load_state_dict(other)
    assert torch.equal(made.weight, before)
