"""Functions on quantized tensors: what the golden vectors do not show."""

import pytest
import torch
from torch import nn

import qlab
import qlab.nn.quantized as nnq
import qlab.nn.quantized.functional as qF
from qlab.dtypes import as_qdtype, qint8, quint8
from qlab.errors import ArgumentError, DTypeError, UnsupportedError
from qlab.qtensor import QTensor

REAL = torch.linspace(-2, 3, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6)
NAMES = sorted(set(qF.__all__) - {"linear", "conv1d", "conv2d", "conv3d"})
#: Arguments after the input.
ARGUMENTS = {
    "adaptive_avg_pool2d": (3,),
    "adaptive_avg_pool3d": (3,),
    "avg_pool2d": (2,),
    "avg_pool3d": (2,),
    "max_pool1d": (2,),
    "max_pool2d": (2,),
    "celu": (0.1, 3),
    "elu": (0.1, 3),
    "hardswish": (0.1, 3),
    "threshold": (0.5, 0.0),
    "clamp": (-1.0, 1.0),
    **dict.fromkeys(("interpolate", "upsample", "upsample_bilinear", "upsample_nearest"), (3,)),
    "quantized_batch_norm": (None, None, torch.zeros(4), torch.ones(4), 1e-5, 0.1, 3),
}


def codes(dtype=quint8) -> QTensor:
    return qlab.quantize_per_tensor(REAL, 0.02, 0 if dtype.signed else 110, dtype)


@pytest.mark.filterwarnings("ignore:upsample.* is an old name:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_real_numbers_are_refused(name: str):
    with pytest.raises(DTypeError, match=r"input is not quantized.*torch.float32.*quantize_per"):
        getattr(qF, name)(REAL, *ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_weights_must_be_quantized_too(name: str):
    weight = torch.randn(5, 6) if name == "linear" else torch.randn(5, 4, 3, 3)
    quantized = qlab.quantize_per_tensor(weight, 0.02, 0, qint8)
    function = getattr(qF, name)
    with pytest.raises(DTypeError, match=f"{name}: the weight is not quantized"):
        function(codes(), weight, None)
    with pytest.raises(DTypeError, match=f"{name}: the input is not quantized"):
        function(REAL, quantized, None)
    assert isinstance(function(codes(), quantized, None, scale=0.2, zero_point=9), QTensor)


def test_linear_takes_the_inputs_scale_by_default():
    weight = qlab.quantize_per_tensor(torch.randn(5, 6), 0.02, 0, qint8)
    result = qF.linear(codes(), weight)
    assert (result.q_scale(), result.q_zero_point()) == (codes().q_scale(), 110)


def test_outputs_of_another_type():
    weight = qlab.quantize_per_tensor(torch.randn(5, 4, 3, 3), 0.02, 0, qint8)
    result = qF.conv2d(codes(), weight, None, padding="same", scale=0.1, dtype="qint8")
    assert result.qdtype is qint8 and result.shape == (2, 5, 6, 6)
    assert qF.elu(codes(qint8), 0.1, 3).qdtype is qint8
    assert qF.hardsigmoid(codes(qint8)).q_zero_point() == -128


@pytest.mark.parametrize("name", ["leaky_relu", "hardtanh", "hardsigmoid"])
def test_in_place(name: str):
    function, x = getattr(qF, name), codes()
    expected = function(x)
    assert torch.equal(x.codes, codes().codes)
    result = function(x, inplace=True)
    assert result is x and torch.equal(x.codes, expected.codes)
    assert x.qparams.same_as(expected.qparams)


def test_what_does_not_go_in_place():
    with pytest.raises(ArgumentError, match=r"in place the input's scale is kept.*scale=0.1"):
        qF.leaky_relu(codes(), inplace=True, scale=0.1, zero_point=3)
    with pytest.raises(UnsupportedError, match="view cannot take a scale of its own"):
        qF.hardsigmoid(codes()[0], inplace=True)


@pytest.mark.parametrize("name", ["upsample", "upsample_bilinear", "upsample_nearest"])
def test_old_names_warn(name: str):
    with pytest.warns(UserWarning, match=rf"{name} is an old name; call interpolate"):
        getattr(qF, name)(codes(), 3)


def test_arguments_that_make_no_sense():
    with pytest.raises(UnsupportedError, match="max_pool2d of quantized tensors gives no indices"):
        qF.max_pool2d(codes(), 2, return_indices=True)
    with pytest.raises(ArgumentError, match="value is missing"):
        qF.threshold(codes(), 0.5, None)
    with pytest.raises(ArgumentError, match="alpha divides"):
        qF.celu(codes(), 0.1, 3, alpha=0.0)
    with pytest.raises(DTypeError, match="hardsigmoid takes integer codes"):
        qF.hardsigmoid(codes(as_qdtype("float8_e4m3fn")))


class Reference(nn.Linear):
    """A float module that knows its quantized weight."""

    def get_quantized_weight(self) -> QTensor:
        return qlab.quantize_per_tensor(self.weight.detach(), 0.02, 0, qint8)


def test_modules_are_made_from_reference_modules():
    source = Reference(6, 5)
    made = nnq.Linear.from_reference(source, 0.1, 7)
    assert torch.equal(made.weight().codes, source.get_quantized_weight().codes)
    assert torch.equal(made.bias(), source.bias)
    x = codes()
    direct = qF.linear(x, source.get_quantized_weight(), source.bias, 0.1, 7)
    assert torch.equal(made(x).codes, direct.codes) and not made.training
    norm = nn.GroupNorm(2, 4)
    norm.weight.data.uniform_()
    assert torch.equal(nnq.GroupNorm.from_reference(norm, 0.1, 7).weight, norm.weight)
    assert nnq.MaxPool2d.from_reference(nn.MaxPool2d(3)).kernel_size == 3


def test_tables_and_slopes_are_made_from_reference_modules():
    class Table(nn.Embedding):
        def get_quantized_weight(self) -> QTensor:
            scales, zeros = torch.full((7,), 0.02), torch.full((7,), 99.5)
            return qlab.quantize_per_channel(self.weight.detach(), scales, zeros, 0, quint8)

    source = Table(7, 3)
    made = nnq.Embedding.from_reference(source)
    assert torch.equal(made.weight().codes, source.get_quantized_weight().codes)
    slopes = nn.PReLU(4)
    slopes.qconfig = qlab.qconfig.default_quint8_weight_qconfig
    made = nnq.PReLU.from_reference(slopes, 0.1, 7)
    assert (made.weight.dequantize() - slopes.weight).abs().max() < 0.01


def test_modules_that_are_no_reference_modules():
    with pytest.raises(DTypeError, match=r"Linear cannot be made.*Expected a Linear.*ReLU"):
        nnq.Linear.from_reference(nn.ReLU(), 0.1, 7)
    with pytest.raises(ArgumentError, match=r"Linear: an output scale and zero point are missing"):
        nnq.Linear.from_reference(Reference(6, 5))
    with pytest.raises(ArgumentError, match=r"MaxPool2d: an output scale .* do not exist"):
        nnq.MaxPool2d.from_reference(nn.MaxPool2d(3), 0.1, 7)


def test_slopes_must_fit_the_channels():
    made = nnq.PReLU(0.1, 7, num_parameters=3)
    with pytest.raises(qlab.errors.ShapeError, match=r"shape \(1,\) or \(4,\).*\(3,\)"):
        made(codes())
