"""What holds for every quantized module, over the rows of the registry."""

import copy
import json
import pickle

import pytest
import torch
from torch import Tensor, nn

import qlab.nn.intrinsic.quantized as nniq
import qlab.nn.quantized as nnq
from qlab.dtypes import as_qdtype
from qlab.errors import DTypeError, FormatError
from qlab.nn.quantized import Output, QuantizedModule
from qlab.qparams import dequantize, quantize
from qlab.registry import ROWS, OutputKind, Row
from tests.qlab.nn.quantized.examples import FLOAT, STATIC, Example, example, run

OWN = (Output.OWN, Output.OWN_OR_FLOAT)
every_row = pytest.mark.parametrize("row", STATIC, ids=lambda row: row.name)
rows_on_codes = pytest.mark.parametrize(
    "row", [row for row in STATIC if row.name != "quantize"], ids=lambda row: row.name
)


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.float(), b.float())


def bind(made: Example) -> QuantizedModule:
    """The module as in a converted graph: Quantize has no inputs that are codes."""
    real = made.inputs[0].dtype == torch.float32
    return made.module.bind_inputs(*(() if real else made.qparams))


def test_every_row_has_an_example():
    assert {row.name for row in STATIC} == set(FLOAT)


def test_every_quantized_module_is_in_the_registry():
    public = {getattr(package, name) for package in (nnq, nniq) for name in package.__all__}
    modules = {cls for cls in public if issubclass(cls, QuantizedModule)} - {QuantizedModule}
    assert modules == {row.static for row in ROWS if row.static}


@every_row
@pytest.mark.parametrize("dtype", ["quint8", "qint8", "quint4", "qint16", "float8_e4m3fn"])
def test_it_computes_what_the_float_module_does(row: Row, dtype: str):
    made = example(row, as_qdtype(dtype))
    result = run(made)
    if made.module.output_of is Output.FLOAT:
        torch.testing.assert_close(result, made.output)
        return
    qparams = made.module.output_qparams if made.module.output_of in OWN else made.qparams[0]
    wanted = dequantize(quantize(made.output, qparams), qparams)
    got = dequantize(result, qparams)
    if qparams.dtype.is_float:  # one step is an eighth, and a tie may fall either way
        torch.testing.assert_close(got, wanted, rtol=1 / 8, atol=float(qparams.scale) / 8)
    else:
        assert float((got - wanted).abs().max() / qparams.scale) < 1.01


@every_row
def test_graph_form_gives_the_same_codes(row: Row):
    made = example(row)
    expected = run(made)
    bound = bind(made)
    result = bound(*made.inputs)
    assert type(result) is Tensor and same(result, expected)
    with torch.inference_mode():
        assert same(bound(*made.inputs), expected)


@every_row
def test_configuration_and_state_bring_it_back(row: Row):
    made = example(row)
    expected = run(made)
    bind(made)
    config = json.loads(json.dumps(made.module.config(), allow_nan=False))
    back = row.static.from_config(config)
    back.load_state_dict(made.module.state_dict())
    assert not back.training
    assert json.loads(json.dumps(back.config())) == config
    assert repr(back) == repr(made.module)
    assert same(back(*made.inputs), expected)


@every_row
def test_configuration_allocates_nothing_on_meta(row: Row):
    made = example(row)
    bind(made)
    with torch.device("meta"):
        back = row.static.from_config(made.module.config())
    assert all(tensor.is_meta for tensor in back.state_dict().values())
    back.load_state_dict(made.module.state_dict(), assign=True)
    assert same(back(*made.inputs), made.module(*made.inputs))


@every_row
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_equal_and_separate(row: Row, way: str):
    made = example(row)
    expected = run(made)
    original = made.module
    twin = copy.deepcopy(original) if way == "deepcopy" else pickle.loads(pickle.dumps(original))
    assert same(run(made, twin), expected)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    assert same(run(made), expected)


@every_row
def test_every_device_gives_the_same_codes(row: Row, device: torch.device):
    made = example(row)
    expected = run(made)
    made.module.to(device)
    made.qparams = tuple(qparams.to(device) for qparams in made.qparams)
    bind(made)
    assert {tensor.device.type for tensor in made.module.state_dict().values()} <= {device.type}
    result = made.module(*(x.to(device) for x in made.inputs)).cpu()
    if row.output.kind is OutputKind.SHARED or row.weight:
        assert same(result, expected)
    else:  # float32 functions differ between devices in their last bit
        assert (result.double() - expected.double()).abs().max() <= 1


@every_row
def test_it_has_no_parameters_and_does_not_train(row: Row):
    module = example(row).module
    assert list(module.parameters()) == [] and not module.training
    assert not any(buffer.requires_grad for buffer in module.buffers())


@every_row
def test_half_precision_does_not_change_the_numbers(row: Row):
    made = example(row)
    expected = run(made)
    dtypes = [tensor.dtype for tensor in made.module.state_dict().values()]
    made.module.half().double().to(torch.bfloat16)
    assert [tensor.dtype for tensor in made.module.state_dict().values()] == dtypes
    assert same(run(made), expected)


@every_row
def test_repr_shows_what_matters(row: Row):
    module = example(row).module
    shown = repr(module)
    assert shown.startswith(f"Quantized{type(module).__name__}(")
    assert ("scale=" in shown) == (module.output_of in OWN)


@rows_on_codes
def test_real_numbers_are_refused(row: Row):
    made = example(row)
    real = [torch.randn(x.shape) for x in made.inputs]
    if row.name != "dequantize":
        with pytest.raises(DTypeError, match=r"expected quantized input.*Quantize.*QuantStub"):
            made.module(*real)
    bind(made)
    with pytest.raises(
        DTypeError, match=r"Expected quint8 codes.*Received torch.float32.*Quantize"
    ):
        made.module(*real)


@rows_on_codes
def test_plain_codes_need_bound_inputs(row: Row):
    made = example(row)
    with pytest.raises(DTypeError, match=r"Received torch.uint8.*bind_inputs"):
        made.module(*made.inputs)
    bind(made)
    with pytest.raises(DTypeError, match=r"Expected quint8 codes.*Received torch.int8"):
        made.module(*(x.to(torch.int8) for x in made.inputs))
    if row.name != "dequantize":
        with pytest.raises(DTypeError, match=r"expected quantized input.*Received torch.uint8"):
            made.module(*made.inputs, made.inputs[0])


@every_row
def test_other_float_modules_are_refused(row: Row):
    name = row.static.__name__
    with pytest.raises(DTypeError, match=rf"{name} cannot be made.*Received Bilinear"):
        row.static.from_qparams(nn.Bilinear(1, 1, 1))


@every_row
def test_a_configuration_that_does_not_fit_is_refused(row: Row):
    config = example(row).module.config()
    with pytest.raises(FormatError, match="Not a configuration"):
        row.static.from_config({**config, "code": "import os"})
    with pytest.raises(FormatError, match="do not fit"):
        row.static.from_config({**config, "arguments": {"no_such_argument": 1}})
    formats = {**config["formats"], "no_such_tensor": {"dtype": "quint8"}}
    with pytest.raises(FormatError, match="Not a format of codes"):
        row.static.from_config({**config, "formats": formats})
    with pytest.raises(FormatError, match="formats of the wrong tensors"):
        form = {"granularity": {"kind": "per_tensor"}, "quant_min": 0, "quant_max": 255}
        formats = {**config["formats"], "input_7": {"dtype": "quint8", **form}}
        row.static.from_config({**config, "formats": formats})


@every_row
def test_registry_and_class_agree(row: Row):
    assert row.modules == row.static.float_types
    assert row.weight == row.static.has_weight
    kinds = {
        "observed": OWN,
        "fixed": (Output.OWN,),
        "shared": (Output.INPUT,),
        "float": (Output.FLOAT,),
    }
    assert row.static.output_of in kinds[row.output.kind.value]


@every_row
def test_integer_types_run_on_integers(row: Row):
    made = example(row)
    bind(made)
    assert (made.module.execution, made.module.execution_reason) == ("integer", "")


@rows_on_codes
def test_float8_is_simulated(row: Row):
    made = example(row, as_qdtype("float8_e4m3fn"))
    bind(made)
    assert made.module.execution == "simulated"
    assert "float8_e4m3fn" in made.module.execution_reason
