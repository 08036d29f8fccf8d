"""The graph workflow on every way of writing a model."""

import pytest
import torch
from torch import Tensor, nn

from qlab import presets
from qlab.graph import convert_fx, prepare_fx
from tests.workflows.architectures import NETS
from tests.workflows.test_fx import sqnr


def tensors(value: object) -> list[Tensor]:
    """The tensors in an output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, tuple) else []


def quantized(name: str, preset: str) -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
    make, inputs = NETS[name]
    model = make().eval()
    prepared = prepare_fx(model, preset, inputs())
    with torch.no_grad():
        for _ in range(8):
            prepared(*inputs())
    return model, convert_fx(prepared), inputs()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("preset", "least"), [("int8-minmax", 20), ("int8-weights-only", 30)])
def test_outputs_keep_form_and_value(name: str, preset: str, least: float):
    model, converted, inputs = quantized(name, preset)
    with torch.no_grad():
        expected, got = model(*inputs), converted(*inputs)
    assert type(got) is type(expected)
    pairs = list(zip(tensors(expected), tensors(got), strict=True))
    assert pairs
    for reference, value in pairs:
        assert value.dtype == torch.float32 and value.shape == reference.shape
        assert sqnr(reference, value) >= least
    if isinstance(expected, dict):
        assert got["count"] == expected["count"]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_preset_runs_on_other_batch_sizes(name: str, preset: str):
    _, converted, inputs = quantized(name, preset)
    with torch.no_grad():
        for value in tensors(converted(*(x[:1] for x in inputs))):
            assert value.shape[0] == 1 and value.isfinite().all()


def test_attention_is_integer_throughout():
    _, converted, _ = quantized("encoder", "int8")
    plan = converted.meta["plan"]
    assert {step.execution for step in plan.steps} == {"integer", "shared", "none"}
    assert all(step.output is not None for step in plan.steps if step.execution == "shared")
    borders = [name for name, _ in converted.named_children() if name.endswith("quantize")]
    assert borders == ["x_quantize", "head_dequantize"]


def test_functional_code_fuses_as_modules_do():
    _, converted, _ = quantized("functional", "int8")
    plan = converted.meta["plan"]
    assert plan.step("conv1").fused == ("relu",)
    assert plan.step("add").fused == ("relu_1",)
    assert plan.step("conv2d").weight is not None
