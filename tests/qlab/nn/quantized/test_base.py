"""The conversion protocol, bound inputs and the care taken of scales."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import qlab.nn.intrinsic as nni
import qlab.nn.intrinsic.quantized as nniq
import qlab.nn.quantized as nnq
import qlab.nn.quantized.dynamic as nnqd
from qlab.dtypes import as_qdtype, qint8, quint8
from qlab.errors import (
    ArgumentError,
    FormatError,
    NonFiniteError,
    UncalibratedError,
    UnsupportedError,
)
from qlab.granularity import PerAxis
from qlab.observers import MinMaxObserver, PerChannelMinMaxObserver, PlaceholderObserver
from qlab.qparams import QParams, quantize
from qlab.qtensor import QTensor

OUTPUT = QParams.per_tensor(0.05, 7, quint8)
INPUT = QParams.per_tensor(0.1, 128, quint8)
WEIGHT = QParams.per_tensor(0.01, 0, qint8)
PER_CHANNEL = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), quint8, PerAxis(0))
CODES = torch.randint(0, 256, (3, 5), dtype=torch.uint8)


def linear() -> nnq.Linear:
    return nnq.Linear.from_qparams(nn.Linear(5, 4), weight=WEIGHT, output=OUTPUT)


def observed(module: nn.Module, x: torch.Tensor, weight=None) -> nn.Module:
    """A prepared and calibrated module, as eager prepare leaves it."""
    module.qconfig = SimpleNamespace(activation=MinMaxObserver, weight=weight)
    module.activation_post_process = MinMaxObserver()
    module.activation_post_process(module(x))
    return module


def test_from_float_reads_the_observers():
    module = observed(
        nn.Linear(5, 4), torch.randn(8, 5), PerChannelMinMaxObserver.with_args(dtype="qint8")
    )
    made = nnq.Linear.from_float(module)
    assert made.output_qparams.same_as(module.activation_post_process.qparams())
    observer = PerChannelMinMaxObserver(dtype="qint8")
    observer(module.weight)
    assert made.weight_qparams.same_as(observer.qparams())
    assert torch.equal(made.weight().int_repr(), quantize(module.weight, observer.qparams()))


def test_from_float_of_a_fused_module_folds_batch_norm():
    conv, batch_norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
    batch_norm.running_var.uniform_(0.1, 3)
    fused = nni.ConvBnReLU2d(conv, batch_norm, nn.ReLU()).eval()
    x = torch.randn(4, 2, 6, 6)
    observed(fused, x, MinMaxObserver.with_args(dtype="qint8", qscheme="per_tensor_symmetric"))
    made = nniq.ConvReLU2d.from_float(fused)
    error = made(nnq.Quantize(*_numbers(x))(x)).dequantize() - fused(x)
    assert error.abs().max() < 0.1
    assert torch.equal(made.bias(), nni.fold.core(fused).bias)


def _numbers(x: torch.Tensor) -> tuple[float, int]:
    observer = MinMaxObserver()
    observer(x)
    return observer.qparams().scale_value, observer.qparams().zero_point_value


def test_from_float_takes_a_weight_fake_quant():
    module = observed(nn.Linear(5, 4), torch.randn(8, 5))
    module.weight_fake_quant = MinMaxObserver(dtype="qint8", qscheme="per_tensor_symmetric")
    module.weight_fake_quant(10 * module.weight)
    kept = nnq.Linear.from_float(module, use_precomputed_fake_quant=True)
    assert kept.weight_qparams.same_as(module.weight_fake_quant.qparams())
    module.weight_fake_quant(20 * module.weight)
    module.weight_fake_quant.reset_min_max_vals()
    assert nnq.Linear.from_float(module).weight_qparams.scale < kept.weight_qparams.scale / 9


def test_from_float_takes_observers_of_anyone():
    class Theirs(nn.Module):
        dtype = torch.uint8

        def calculate_qparams(self):
            return torch.tensor([0.25]), torch.tensor([3])

    module = nn.Hardswish()
    module.activation_post_process = Theirs()
    made = nnq.Hardswish.from_float(module)
    assert (made.output_qparams.scale_value, made.output_qparams.zero_point_value) == (0.25, 3)


def test_a_float_output_where_the_observer_says_so():
    module = observed(nn.Linear(5, 4), torch.randn(8, 5), MinMaxObserver.with_args(dtype="qint8"))
    module.activation_post_process = PlaceholderObserver(dtype=torch.float32)
    made = nnq.Linear.from_float(module)
    assert made.output_qparams is None
    result = made(QTensor(CODES, INPUT))
    assert result.dtype == torch.float32 and not isinstance(result, QTensor)
    assert "output=float32" in repr(made)


def test_unprepared_modules_are_refused():
    with pytest.raises(UncalibratedError, match=r"Linear has no qconfig.*prepare"):
        nnq.Linear.from_float(nn.Linear(5, 4))
    with pytest.raises(UncalibratedError, match=r"ELU has no activation_post_process.*prepare"):
        nnq.ELU.from_float(nn.ELU())
    module = nn.ELU()
    module.activation_post_process = MinMaxObserver()
    with pytest.raises(UncalibratedError, match="calibration data"):
        nnq.ELU.from_float(module)


def test_what_is_not_quantized_must_not_be_given():
    with pytest.raises(ArgumentError, match=r"Linear: the weight's .* missing"):
        nnq.Linear.from_qparams(nn.Linear(5, 4), output=OUTPUT)
    with pytest.raises(ArgumentError, match=r"ELU: the output's .* missing"):
        nnq.ELU.from_qparams(nn.ELU())
    with pytest.raises(ArgumentError, match=r"ELU has no .* of its own for its weight"):
        nnq.ELU.from_qparams(nn.ELU(), weight=WEIGHT, output=OUTPUT)
    with pytest.raises(ArgumentError, match=r"MaxPool2d has no .* of its own for its output"):
        nnq.MaxPool2d.from_qparams(nn.MaxPool2d(2), output=OUTPUT)
    with pytest.raises(ArgumentError, match="output needs one scale for the whole tensor"):
        nnq.ELU.from_qparams(nn.ELU(), output=PER_CHANNEL)
    with pytest.raises(ArgumentError, match="ELU has no weight to quantize"):
        nnq.ELU.weight_of(nn.ELU())


def test_arguments_without_an_integer_form_are_refused():
    with pytest.raises(UnsupportedError, match=r"MaxPool2d.*return_indices=False"):
        nnq.MaxPool2d.from_qparams(nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(UnsupportedError, match="without running statistics"):
        nnq.BatchNorm2d.from_qparams(nn.BatchNorm2d(3, track_running_stats=False), output=OUTPUT)


def test_inputs_can_be_bound_again():
    module = nnq.Cat.from_qparams(nnq.Cat.float_types[0](1), output=OUTPUT)
    assert module.input_qparams is None
    module.bind_inputs(INPUT, OUTPUT, INPUT)
    assert [q.scale_value for q in module.input_qparams] == [
        q.scale_value for q in (INPUT, OUTPUT, INPUT)
    ]
    module.bind_inputs(OUTPUT)
    assert [q.same_as(OUTPUT) for q in module.input_qparams] == [True]
    assert set(module.state_dict()) == {
        "scale",
        "zero_point",
        "input_0_scale",
        "input_0_zero_point",
    }
    with pytest.raises(ArgumentError, match="the input needs one scale"):
        module.bind_inputs(PER_CHANNEL)


def test_a_shared_output_is_the_inputs():
    module = nnq.ReLU()
    assert module.output_qparams is None
    assert module.bind_inputs(INPUT).output_qparams.same_as(INPUT)
    assert module(QTensor(CODES, OUTPUT)).qparams is OUTPUT


def test_assigned_scales_take_effect():
    module = nnq.ELU(0.5, 3)
    assert module.output_qparams is module.output_qparams
    module.scale, module.zero_point = 0.25, 9
    assert (module.output_qparams.scale_value, module.output_qparams.zero_point_value) == (0.25, 9)
    assert (module.scale.dtype, module.zero_point.dtype) == (torch.float32, torch.int32)
    module.scale = torch.tensor(0.125)
    assert module.output_qparams.scale_value == 0.125


def test_loaded_scales_take_effect():
    module, other = nnq.ELU(0.5, 3), nnq.ELU(0.25, 9)
    assert module.output_qparams.scale_value == 0.5
    module.load_state_dict(other.state_dict())
    assert module.output_qparams.same_as(other.output_qparams)
    module.load_state_dict(nnq.ELU(0.125, 1).state_dict(), assign=True)
    assert module.output_qparams.scale_value == 0.125


@pytest.mark.parametrize(
    ("scale", "error"),
    [(float("nan"), NonFiniteError), (0.0, ArgumentError), (-1.0, ArgumentError)],
)
def test_scales_that_make_no_sense_are_refused(scale: float, error: type[Exception]):
    with pytest.raises(error, match="scale must be"):
        nnq.ELU(scale, 0)
    module = nnq.ELU(1.0, 0)
    module.scale = scale
    refused = (error, "scale must be") if scale <= 0 else (UncalibratedError, "is not known")
    with pytest.raises(refused[0], match=refused[1]):
        module(QTensor(CODES, INPUT))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_scripting_says_what_there_is_instead():
    with pytest.raises(UnsupportedError, match=r"ELU cannot be scripted.*torch\.export"):
        torch.jit.script(nn.Sequential(nnq.ELU(1.0, 0)))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace`:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace_method`:DeprecationWarning")
@pytest.mark.parametrize("layer", [nnq.Quantize(0.1, 0, "quint8"), nnqd.Linear(5, 5)])
def test_tracing_for_torchscript_says_the_same(layer):
    message = rf"{type(layer).__name__} cannot be traced by torch.jit.*torch\.export"
    with pytest.raises(UnsupportedError, match=message):
        torch.jit.trace(nn.Sequential(layer), torch.ones(1, 5))
    layer(torch.ones(1, 5))


def test_what_is_forgotten_comes_back_with_a_state_dict():
    module = nnq.Linear.from_qparams(nn.Linear(5, 4), weight=WEIGHT, output=OUTPUT)
    module.bind_inputs(INPUT)
    blank = copy.deepcopy(module)
    blank.forget_calibration()
    assert blank.forgotten and "not calibrated" in repr(blank)
    with pytest.raises(UncalibratedError, match=r"scale of its .* not known.*Load a state dict"):
        blank(CODES)
    assert blank.weight_qparams.same_as(module.weight_qparams)
    blank.load_state_dict(module.state_dict())
    assert not blank.forgotten and torch.equal(blank(CODES), module(CODES))


def test_the_given_parameters_stay_the_callers():
    output = copy.deepcopy(OUTPUT)
    module = nnq.ELU.from_qparams(nn.ELU(), output=output)
    module.get_buffer("scale").fill_(3.0)
    assert output.scale_value == OUTPUT.scale_value and float(output.scale) == float(OUTPUT.scale)


def test_a_missing_format_is_refused():
    config = linear().config()
    del config["formats"]["weight"]
    with pytest.raises(FormatError, match=r"formats of the wrong tensors.*weight"):
        nnq.Linear.from_config(config)
    config = linear().bind_inputs(INPUT).config()
    config["formats"]["output"]["dtype"] = "int999"
    with pytest.raises(FormatError, match=r"Not a format of codes.*int999"):
        nnq.Linear.from_config(config)


def test_sizes_that_make_no_sense_are_refused():
    config = linear().config()
    for size in (-1, 0, 2.5, "5"):
        config["arguments"]["in_features"] = size
        with pytest.raises(
            (FormatError, ArgumentError), match=r"positive whole numbers|do not fit"
        ):
            nnq.Linear.from_config(config)


def test_a_shape_that_makes_no_sense_is_refused():
    module = nnq.LayerNorm.from_qparams(nn.LayerNorm(4), output=OUTPUT)
    config = module.config()
    with pytest.raises(FormatError, match="do not fit"):
        nnq.LayerNorm.from_config({**config, "tensors": {"weight": [-4], "bias": None}})
    with pytest.raises(FormatError, match="Not a configuration"):
        nnq.LayerNorm.from_config({**config, "tensors": {"weight": [4]}})


def test_narrow_codes_keep_their_range():
    output = QParams.per_tensor(0.1, 3, as_qdtype("quint8"))
    narrow = QParams(output.scale, output.zero_point, quint8, output.granularity, 0, 127)
    module = nnq.ELU.from_qparams(nn.ELU(), output=narrow)
    back = nnq.ELU.from_config(module.config())
    assert back.output_qparams.quant_max == 127
    assert int(module(QTensor(CODES, INPUT)).codes.max()) <= 127
