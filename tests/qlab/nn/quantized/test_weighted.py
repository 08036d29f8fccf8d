"""Linear and convolutions: weights of any type and granularity, loaded, replaced, executed."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import qlab.nn.intrinsic.quantized as nniq
import qlab.nn.quantized as nnq
from qlab import ops
from qlab.dtypes import as_qdtype, qint8, quint8
from qlab.errors import ArgumentError, DTypeError, FormatError, ShapeError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized.weighted import WeightedModule
from qlab.qparams import QParams, dequantize, quantize
from qlab.qtensor import QTensor
from qlab.ranges import TensorSpec
from qlab.registry import Row, row_for_module
from tests.qlab.nn.quantized.examples import FLOAT, STATIC, example, run, through

WEIGHTED = [row for row in STATIC if issubclass(row.static, WeightedModule)]
GRANULARITIES = [PerTensor(), PerAxis(0), PerAxis(1), PerGroup(2, 1), PerGroup(1, 1)]
every_row = pytest.mark.parametrize("row", WEIGHTED, ids=lambda row: row.name)
INPUT = QParams.per_tensor(0.1, 128, quint8)
OUTPUT = QParams.per_tensor(0.05, 7, quint8)


def weight_of(module: nn.Module, spec: TensorSpec) -> QParams:
    return spec.qparams_of(module.weight.detach())


def quantized(module: nn.Module, spec: TensorSpec | None = None) -> WeightedModule:
    spec = spec or TensorSpec(qint8, symmetric=True, granularity=PerAxis(0))
    static = row_for_module(type(module)).static
    return static.from_qparams(module, weight=weight_of(module, spec), output=OUTPUT)


@every_row
@pytest.mark.parametrize("weight", ["qint2", "qint4", "quint8", "qint16", "float8_e5m2"])
@pytest.mark.parametrize("activation", ["quint8", "qint16"])
def test_any_width_computes_what_the_float_module_does(row: Row, weight: str, activation: str):
    made = example(row, as_qdtype(activation), as_qdtype(weight))
    qparams = made.module.output_qparams
    steps = (dequantize(run(made), qparams) - made.output) / qparams.scale
    # float32 sums stand in for integers where 16 bits or float8 are involved
    assert steps.abs().max() < (0.51 if activation == "quint8" else 2)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: nn.Conv2d(4, 6, 3)])
def test_a_state_brings_its_granularity(granularity, make):
    made = quantized(make(), TensorSpec(as_qdtype("quint8"), granularity=granularity))
    fresh = type(made)(*(4, 6, 3)[: 3 if isinstance(made, nnq.Conv2d) else 2])
    fresh.load_state_dict(made.state_dict())
    x = QTensor(torch.randint(0, 256, (2, 4, 5, 4), dtype=torch.uint8), INPUT)
    assert torch.equal(fresh(x).codes, made(x).codes)
    assert fresh.weight_qparams.scale.shape == made.weight_qparams.scale.shape


def test_loading_what_does_not_fit_says_so():
    with pytest.raises(RuntimeError, match="size mismatch for weight_codes"):
        nnq.Linear(4, 6).load_state_dict(nnq.Linear(4, 5).state_dict())
    with pytest.raises(RuntimeError, match="weight_codes"):
        nnq.Linear(4, 6).load_state_dict({})


def test_accessors():
    made = quantized(nn.Linear(4, 6))
    assert isinstance(made.weight(), QTensor) and made.weight().shape == (6, 4)
    assert made.weight().qdtype is qint8
    assert made.bias().shape == (6,) and made.bias().dtype == torch.float32
    assert quantized(nn.Linear(4, 6, bias=False)).bias() is None
    assert float(made.scale) == OUTPUT.scale_value
    assert int(made.zero_point) == OUTPUT.zero_point_value


def test_weight_and_bias_can_be_replaced():
    module, source = nnq.Conv2d(4, 6, 3), quantized(nn.Conv2d(4, 6, 3))
    module.set_weight_bias(source.weight(), source.bias())
    module.scale, module.zero_point = source.scale, source.zero_point
    x = QTensor(torch.randint(0, 256, (2, 4, 5, 5), dtype=torch.uint8), INPUT)
    assert torch.equal(module(x).codes, source(x).codes)
    module.set_weight_bias(source.weight(), None)
    assert "bias=False" in repr(module)
    assert module.bias() is None


def test_replacing_by_what_does_not_fit():
    module = nnq.Linear(4, 6)
    weight = QTensor(torch.zeros(6, 5, dtype=torch.int8), QParams.per_tensor(1.0, 0, qint8))
    with pytest.raises(DTypeError, match=r"not quantized.*quantize_per_channel"):
        module.set_weight_bias(torch.zeros(6, 4), None)
    with pytest.raises(ShapeError, match=r"weight has the wrong shape.*\(6, 4\).*\(6, 5\)"):
        module.set_weight_bias(weight, None)
    with pytest.raises(ShapeError, match=r"bias has the wrong shape.*\(6,\).*\(5,\)"):
        module.set_weight_bias(module.weight(), torch.zeros(5))


def test_changed_codes_take_effect():
    """Kernels may keep the weight in a layout of their own; it must not outlive the weight."""
    made = quantized(nn.Linear(64, 32)).bind_inputs(INPUT)
    x = torch.randint(0, 256, (8, 64), dtype=torch.uint8)
    before = made(x)
    made.get_buffer("weight_codes").neg_()
    assert not torch.equal(made(x), before)
    made.get_buffer("weight_codes").neg_()
    assert torch.equal(made(x), before)


@every_row
@pytest.mark.parametrize(
    ("activation", "weight", "granularity", "reason"),
    [
        ("quint8", "qint8", PerAxis(0), ""),
        ("quint4", "qint2", PerTensor(), ""),
        ("qint16", "qint8", PerAxis(0), "input's type qint16"),
        ("quint8", "qint16", PerAxis(0), "weight's type qint16"),
        ("quint8", "float8_e4m3fn", PerAxis(0), "weight's type float8_e4m3fn"),
        ("quint8", "qint8", PerGroup(1, 1), "PerGroup"),
    ],
)
def test_execution_says_what_runs(row: Row, activation, weight, granularity, reason: str):
    made = example(row, as_qdtype(activation), as_qdtype(weight), granularity)
    module = made.module.bind_inputs(*made.qparams)
    assert reason in module.execution_reason
    assert module.execution == ("simulated" if reason else "integer")
    ops.reset_counts()
    module(*made.inputs)
    assert any(kernel == "simulated" for _, kernel in ops.counts()) == bool(reason)


def test_weight_shapes_are_checked():
    with pytest.raises(ArgumentError, match=r"do not divide into groups.*groups=3"):
        nnq.Conv2d(4, 6, 3, groups=3)
    with pytest.raises(ArgumentError, match="positive whole numbers"):
        nnq.Linear(0, 4)
    with pytest.raises(ShapeError, match="scale does not fit"):
        module = nn.Linear(4, 6)
        other = weight_of(nn.Linear(4, 5), TensorSpec(qint8, granularity=PerAxis(0)))
        nnq.Linear.from_qparams(module, weight=other, output=OUTPUT)


def test_linear_weight_type():
    assert nnq.Linear(4, 6, dtype="float8_e4m3fn").weight().qdtype.name == "float8_e4m3fn"
    assert nnq.Linear(4, 6, dtype=torch.int8).weight().qdtype is qint8


def test_representation():
    assert repr(nnq.Linear(4, 6)) == (
        "QuantizedLinear(in_features=4, out_features=6, scale=1.0, zero_point=0,"
        " qscheme=qlab.per_tensor_affine)"
    )
    spec = TensorSpec(as_qdtype("qint4"), granularity=PerGroup(2, 1))
    assert repr(quantized(nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), spec)) == (
        "QuantizedConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), scale=0.05000000074505806,"
        " zero_point=7, padding=(1, 1), groups=2, bias=False,"
        " weight_granularity=PerGroup(group_size=2, axis=1), weight_dtype=qlab.qint4)"
    )
    assert repr(nniq.ConvReLU1d(2, 3, 1)).startswith("QuantizedConvReLU1d(2, 3, kernel_size=(1,)")


def test_same_padding_and_padding_modes():
    for options in ({"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}):
        module = nn.Conv2d(4, 6, 3, **options)
        made = quantized(module)
        x = torch.randint(0, 256, (2, 4, 5, 5), dtype=torch.uint8)
        weight = made.weight_qparams
        module.weight.data = dequantize(quantize(module.weight.data, weight), weight)
        expected = quantize(module(dequantize(x, INPUT)).detach(), OUTPUT)
        assert (made(QTensor(x, INPUT)).codes.int() - expected.int()).abs().max() <= 1


def test_a_module_follows_its_float_module(device: torch.device):
    module = nn.Conv2d(4, 6, 3).to(device)
    made = quantized(module)
    assert made.weight().device.type == device.type
    made.bind_inputs(INPUT)
    assert {tensor.device.type for tensor in made.state_dict().values()} == {device.type}


@every_row
@pytest.mark.parametrize("output", [None, OUTPUT], ids=["float", "codes"])
def test_real_numbers_in(row: Row, output: QParams | None):
    """A layer whose weight alone is quantized."""
    make, shapes = FLOAT[row.name]
    module = make().eval()
    spec = TensorSpec(as_qdtype("qint4"), symmetric=True, granularity=PerAxis(0))
    weight = spec.qparams_of(row.static.weight_of(module))
    made = row.static.from_qparams(module, weight=weight, output=output)
    made.bind_inputs(*[None] * len(shapes))
    layer, inputs = core(module), [torch.randn(shape) for shape in shapes]
    layer.weight.data = dequantize(quantize(layer.weight.data, weight), weight)
    expected = through(module, layer)(*inputs)
    result = made(*inputs)
    if output is None:
        torch.testing.assert_close(result, expected)
    else:
        assert (result.int() - quantize(expected, output).int()).abs().max() <= 1
    assert made.execution_reason == "the input is real numbers"
    back = row.static.from_config(made.config())
    back.load_state_dict(made.state_dict())
    assert torch.equal(back(*inputs), result)
    with pytest.raises(DTypeError, match=r"Expected real numbers.*\. Received torch.uint8"):
        made(*(x.to(torch.uint8) for x in inputs))


def test_only_weights_take_real_numbers():
    with pytest.raises(ArgumentError, match=r"QuantizedELU takes codes only"):
        nnq.ELU().bind_inputs(None)


def test_transposed_convolutions():
    made = quantized(nn.ConvTranspose2d(4, 6, 3, output_padding=1, stride=2, bias=False))
    assert repr(made).startswith(
        "QuantizedConvTranspose2d(4, 6, kernel_size=(3, 3), stride=(2, 2), scale="
    )
    assert "output_padding=(1, 1), bias=False, qscheme=qlab.per_channel_affine" in repr(made)
    made.set_weight_bias(made.weight(), torch.zeros(6))
    with pytest.raises(ShapeError, match=r"bias has the wrong shape.*\(6,\).*\(4,\)"):
        made.set_weight_bias(made.weight(), torch.zeros(4))
    with pytest.raises(ArgumentError, match=r"pad with zeros only.*'reflect'"):
        nnq.ConvTranspose1d(4, 6, 3, padding_mode="reflect")
    with pytest.raises(ArgumentError, match=r"do not divide into groups.*groups=4"):
        nnq.ConvTranspose3d(4, 6, 3, groups=4)


def test_a_weight_only_layer_runs_in_several_threads_at_once():
    linear = nn.Linear(64, 64)
    weight = TensorSpec.int8_weight().qparams_of(linear.weight.detach())
    module = nnq.Linear.from_qparams(linear, weight=weight).bind_inputs(None)
    x = torch.randn(8, 64)
    expected = module(x)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: module(x), range(200)))
    assert all(torch.equal(result, expected) for result in results)


def test_weight_and_bias_at_once():
    module = nnq.Linear(3, 2)
    weight, bias = module._weight_bias()
    assert torch.equal(weight.int_repr(), module.weight().int_repr()) and bias is module.bias()


def _bound(module: nn.Module, input_qparams: QParams = INPUT) -> WeightedModule:
    return quantized(module).bind_inputs(input_qparams)


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: nn.Conv2d(4, 6, 3)])
def test_an_integer_bias_is_a_multiple_of_the_product_of_scales(make):
    torch.manual_seed(0)
    made = _bound(make())
    before = made.bias().clone()
    assert not made.integer_bias and made.hold_integer_bias() and made.integer_bias
    unit = (INPUT.scale * made.weight_qparams.scale).double()
    steps = made.bias().double() / unit
    assert torch.allclose(steps, steps.round(), atol=1e-2, rtol=0)
    assert ((made.bias() - before).abs() <= 0.5001 * unit).all() and (made.bias() != before).any()


def test_with_an_integer_bias_a_layer_computes_what_its_operator_does():
    torch.manual_seed(0)
    made = _bound(nn.Linear(4, 6))
    x = torch.randint(0, 256, (500, 4), dtype=torch.uint8)
    weight = made.get_buffer("weight_codes"), made.weight_qparams
    plain = made(x)
    made.hold_integer_bias()
    wanted = ops.linear(x, INPUT, *weight, made.bias(), OUTPUT, integer_bias=True)
    assert torch.equal(made(x), wanted) and torch.equal(made(x), wanted)
    assert (made(x).int() - plain.int()).abs().max() <= 1


def test_an_integer_bias_survives_configuration_and_state():
    torch.manual_seed(0)
    made = _bound(nn.Linear(4, 6))
    assert "integer_bias" not in made.config()
    made.hold_integer_bias()
    read = nnq.Linear.from_config(json.loads(json.dumps(made.config())))
    read.load_state_dict(made.state_dict())
    x = torch.randint(0, 256, (50, 4), dtype=torch.uint8)
    assert read.integer_bias and torch.equal(read(x), made(x))
    with pytest.raises(FormatError, match="integer_bias true, of a linear layer or convolution"):
        nnq.Linear.from_config({**made.config(), "integer_bias": 1})
    transposed = quantized(nn.ConvTranspose2d(4, 6, 3)).config()
    with pytest.raises(FormatError, match="integer_bias true, of a linear layer or convolution"):
        nnq.ConvTranspose2d.from_config({**transposed, "integer_bias": True})


@pytest.mark.parametrize(
    "make",
    [
        lambda: quantized(nn.Linear(4, 6)),
        lambda: quantized(nn.Linear(4, 6)).bind_inputs(None),
        lambda: _bound(nn.ConvTranspose2d(4, 6, 3)),
        lambda: _bound(nn.Linear(4, 6), QParams.per_tensor(0.1, 0, as_qdtype("qint16"))),
        lambda: _bound(nn.Linear(4, 6), QParams.per_tensor(30.0, 0, quint8)),
    ],
    ids=["not bound", "real numbers", "transposed", "16 bits", "coarse"],
)
def test_what_has_no_integer_bias_stays_as_it_is(make):
    torch.manual_seed(0)
    made = make()
    before = made.bias().clone()
    assert not made.hold_integer_bias() and not made.integer_bias
    assert torch.equal(made.bias(), before)
