"""The graph workflow on every sample model: prepare_fx, calibrate, convert_fx."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import sample_models
from qlab import presets
from qlab.graph import Plan, convert_fx, prepare_fx
from qlab.nn.quantized import QuantizedModule

TRAINED = sample_models.names(trained=True)


def sqnr(reference: Tensor, value: Tensor) -> float:
    """Signal to quantization noise in dB."""
    noise = (reference - value).double().square().sum()
    return 10 * math.log10(reference.double().square().sum() / noise)


def quantized(sample: sample_models.SampleModel, mapping: object) -> nn.Module:
    prepared = prepare_fx(sample.model, mapping, sample.example_inputs)
    with torch.no_grad():
        for batch in sample.calibration(64):
            prepared(batch)
    return convert_fx(prepared)


def outputs(sample: sample_models.SampleModel, model: nn.Module) -> tuple[Tensor, Tensor]:
    images, _ = sample.evaluation()[0]
    with torch.no_grad():
        return sample.model(images), model(images)


@pytest.mark.parametrize("name", TRAINED)
def test_int8_keeps_every_sample_model_above_20_db(name: str):
    sample = sample_models.load(name)
    before = copy.deepcopy(sample.model.state_dict())
    converted = quantized(sample, "int8")
    reference, value = outputs(sample, converted)
    assert sqnr(reference, value) >= 20
    assert (reference.argmax(1) == value.argmax(1)).double().mean() >= 0.98
    for key, tensor in sample.model.state_dict().items():
        assert torch.equal(tensor, before[key])


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_the_plan_tells_how_every_module_runs(name: str, preset: str):
    sample = sample_models.load(name)
    converted = quantized(sample, preset)
    plan = converted.meta["plan"]
    assert isinstance(plan, Plan)
    assert plan.unmatched == ()
    modules = dict(converted.named_modules())
    for step in plan.quantized_steps:
        module = modules[step.name]
        assert isinstance(module, QuantizedModule)
        assert module.execution == step.execution, (step.reason, module.execution_reason)
    computed = {step.name for step in plan.quantized_steps} | {
        step.name for step in plan.steps if step.execution == "shared" and step.output
    }
    integer = {
        path
        for path, module in modules.items()
        if isinstance(module, QuantizedModule) and not path.endswith("quantize")
    }
    assert integer <= computed


@pytest.mark.parametrize("name", TRAINED)
def test_a_converted_graph_is_copied_and_restored_bit_by_bit(name: str):
    sample = sample_models.load(name)
    converted = quantized(sample, "int8")
    images, _ = sample.evaluation()[0]
    with torch.no_grad():
        expected = converted(images)
        twin = copy.deepcopy(converted)
        assert torch.equal(twin(images), expected)
        for buffer in twin.buffers():
            buffer.zero_().add_(1)
        assert torch.equal(converted(images), expected)
        twin.load_state_dict(converted.state_dict())
        assert torch.equal(twin(images), expected)


def test_between_integer_modules_flow_plain_integers():
    sample = sample_models.load("residual")
    converted = quantized(sample, "int8")
    seen = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            seen.append((n, value))
            return value

    Watch(converted).run(*sample.example_inputs)
    coded = [(n, value) for n, value in seen if "qparams" in n.meta]
    assert len(coded) >= 15
    for node, value in coded:
        assert type(value) is Tensor
        assert value.dtype == node.meta["qparams"].dtype.storage
