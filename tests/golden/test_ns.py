"""The numeric suite gives what the reference's gave: the same layers, places, shapes and values."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qlab
import qlab.quantization as tq
from qlab.nn.quantized import FloatFunctional
from qlab.ns import _numeric_suite as eager
from qlab.ns import _numeric_suite_fx as fx
from qlab.ns.fx import utils
from qlab.ns.fx.qconfig_multi_mapping import QConfigMultiMapping
from qlab.qtensor import QTensor
from qlab.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx
from tests.golden.ns_cases import EagerNet, Net, Recurrent
from tests.golden.recorded import Quantized, Recording

RECORDING = Recording(Path(__file__).parent / "ns.safetensors")
QCONFIG = tq.QConfig(tq.MinMaxObserver, tq.default_per_channel_weight_observer)
QAT_QCONFIG = tq.QConfig(
    tq.FakeQuantize.with_args(observer=tq.MinMaxObserver), tq.default_per_channel_weight_fake_quant
)


def recorded(name: str) -> Any:
    return RECORDING.value(RECORDING.cases[name])


def started(model: nn.Module, name: str) -> tuple[nn.Module, Tensor]:
    state, x = recorded(name)
    model.load_state_dict(state)
    return model, x


def real(value: Any) -> tuple[Tensor, float]:
    """A tensor of either side as real numbers, and how far one step of its codes is."""
    match value:
        case Quantized():
            codes, scale, zero = value.int_repr().float(), *_affine(value)
            return (codes - zero) * scale, float(scale.max())
        case QTensor():
            return value.dequantize(), float(value.qparams.scale.max())
    return value, 0.0


def _affine(value: Quantized) -> tuple[Tensor, Tensor]:
    if value.qscheme() == "torch.per_tensor_affine":
        return torch.tensor(value.q_scale()), torch.tensor(float(value.q_zero_point()))
    shape = [1] * len(value.shape)
    shape[value.q_per_channel_axis()] = -1
    scales, zeros = value.q_per_channel_scales(), value.q_per_channel_zero_points()
    return scales.float().reshape(shape), zeros.float().reshape(shape)


def assert_same(ours: Any, theirs: Any) -> None:
    """Tensors agree to one step of their codes; real numbers to float32's rounding."""
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
        return
    assert isinstance(ours, QTensor) == isinstance(theirs, Quantized)
    (x, _), (y, step) = real(ours), real(theirs)
    assert x.shape == y.shape
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1.01 * step + 1e-5)


def assert_results(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Every result of theirs is among ours, at the same place and with the same values."""
    for layer, by_type in theirs.items():
        assert set(ours[layer]) == set(by_type)
        for kind, by_model in by_type.items():
            assert set(ours[layer][kind]) == set(by_model) == {"a", "b"}
            for model, results in by_model.items():
                found = ours[layer][kind][model]
                assert len(found) == len(results)
                for a, b in zip(found, results, strict=True):
                    assert set(a) == set(b)
                    for key in ("type", "index_of_arg", "index_within_arg", "fqn"):
                        assert a[key] == b[key], key
                    assert last(a["ref_node_target_type"]) == last(b["ref_node_target_type"])
                    if model == "b":
                        assert a["ref_node_name"] == b["ref_node_name"]
                    assert_same(a["values"], b["values"])
                    for x, y in zip(a.get("sqnr", ()), b.get("sqnr", ()), strict=True):
                        assert x == y or abs(float(x - y)) < 0.5


def last(name: str) -> str:
    return name.rpartition(".")[2].lower()


def compared(results: dict[str, Any]) -> dict[str, Any]:
    fx.extend_logger_results_with_comparison(results, "a", "b", utils.compute_sqnr, "sqnr")
    return results


@pytest.fixture(scope="module")
def forms() -> tuple[nn.Module, nn.Module, nn.Module, Tensor]:
    """A float, a prepared and a converted model, and the data."""
    with torch.random.fork_rng():
        model, x = started(Net().eval(), "graph")
    prepared = prepare_fx(model, tq.QConfigMapping().set_global(QCONFIG), (x,))
    prepared(x)
    return model, prepared, convert_fx(copy.deepcopy(prepared)), x


def test_weights(forms):
    _, prepared, converted, _ = forms
    found = compared(fx.extract_weights("a", prepared, "b", converted))
    assert list(found) == list(recorded("weights"))
    assert_results(found, recorded("weights"))


def test_activations_with_errors_that_add_up(forms):
    _, prepared, converted, x = forms
    a, b = fx.add_loggers("a", prepared, "b", converted, fx.OutputLogger, True)
    a(x), b(x)
    found = compared(fx.extract_logger_info(a, b, fx.OutputLogger, "b"))
    theirs = recorded("outputs")
    assert list(found) == list(theirs)
    assert_results(found, theirs)


def test_each_layer_on_the_same_input(forms):
    _, prepared, converted, x = forms
    shadows = fx.add_shadow_loggers("a", prepared, "b", converted, fx.OutputLogger, True)
    assert torch.equal(shadows(x), converted(x))
    found = compared(fx.extract_shadow_logger_info(shadows, fx.OutputLogger, "b"))
    assert_results(found, recorded("shadows"))


def test_activations_of_a_trained_model():
    model, x = started(Net().train(), "trained_graph")
    prepared = prepare_qat_fx(model, tq.QConfigMapping().set_global(QAT_QCONFIG), (x,))
    prepared(x)
    prepared.eval()
    prepared.apply(tq.disable_observer)
    converted = convert_fx(copy.deepcopy(prepared))
    a, b = fx.add_loggers("a", prepared, "b", converted, fx.OutputLogger)
    a(x), b(x)
    found = fx.extract_logger_info(a, b, fx.OutputLogger, "b")
    theirs = recorded("trained")
    assert list(found) == list(theirs)
    for layer, by_type in theirs.items():
        for model_name in ("a", "b"):
            (ours,) = found[layer]["node_output"][model_name]
            (reference,) = by_type["node_output"][model_name]
            (x, _), (y, _) = real(ours["values"][0]), real(reference["values"][0])
            step = real(by_type["node_output"]["b"][0]["values"][0])[1]
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1.01 * step + 1e-5)


def test_several_qconfigs_at_once(forms):
    model, *_, x = forms
    multi = QConfigMultiMapping().set_global([QCONFIG, tq.default_dynamic_qconfig])
    multi.set_module_name("conv2", [QCONFIG])
    shadows = fx.prepare_n_shadows_model(model, (x,), multi, None)
    fx.loggers_set_enabled(shadows, False)
    shadows(x)
    shadows = fx.convert_n_shadows_model(shadows)
    fx.loggers_set_enabled(shadows, True)
    assert torch.equal(shadows(x), model(x))
    found = fx.extract_results_n_shadows_model(shadows)["model"]["node_output"]
    theirs = recorded("n_shadows")["model"]["node_output"]
    assert list(found) == list(theirs)
    for name, (result,) in theirs.items():
        (ours,) = found[name]
        for key in ("ref_node_name", "prev_node_name", "fqn", "comparison_fn_name", "type"):
            assert ours[key] == result[key], (name, key)
        assert len(ours["comparisons"]) == len(result["comparisons"])
        layer = int(name.split("_")[1])
        quantized = name.endswith("_1") and layer in (0, 1, 2, 5)
        if quantized:  # the linear layer's two outputs may differ by a step: 6 dB and more
            (a,), (b,) = ours["comparisons"], result["comparisons"]
            assert abs(float(a - b)) < (0.5 if layer != 5 else 12)
        elif name.endswith("_0"):
            assert_same(ours["values"], result["values"])


def test_eager_models():
    net = EagerNet(tq.QuantStub(), tq.DeQuantStub(), FloatFunctional()).eval()
    model, x = started(net, "eager_model")
    model = tq.fuse_modules(model, [["conv", "bn", "relu"]])
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    prepared(x)
    converted = tq.convert(prepared)
    weights = eager.compare_weights(model.state_dict(), converted.state_dict())
    theirs = recorded("eager_weights")
    names = [name.replace("_packed_params._packed_params", "weight") for name in theirs]
    assert list(weights) == names
    for ours, reference in zip(weights.values(), theirs.values(), strict=True):
        assert_same(ours["float"], reference["float"])
        assert_same(ours["quantized"], reference["quantized"])
    pair = copy.deepcopy(model), copy.deepcopy(converted)
    outputs = eager.compare_model_outputs(*pair, x)
    theirs = recorded("eager_outputs")
    assert set(outputs) == set(theirs)
    for key, reference in theirs.items():
        assert_same(outputs[key]["float"], reference["float"][:1])
        assert_same(outputs[key]["quantized"], reference["quantized"])
    kinds = {type(model.conv), nn.Conv2d, FloatFunctional, nn.Linear}
    stubs = eager.compare_model_stub(*map(copy.deepcopy, (model, converted)), kinds, x)
    theirs = recorded("eager_stubs")
    assert set(stubs) == set(theirs)
    assert_same(stubs["conv.stats"]["quantized"], theirs["conv.stats"]["quantized"])
    for key, reference in theirs.items():
        step = real(reference["quantized"][0])[1]
        (x,), (y,) = stubs[key]["float"], reference["float"]
        torch.testing.assert_close(x, y, rtol=1e-5, atol=2 * step)  # the inputs differ by a step


def test_dynamic_models():
    model, x = started(Recurrent().eval(), "dynamic_model")
    outputs = eager.compare_model_outputs(model, tq.quantize_dynamic(model), x)
    theirs = recorded("dynamic_outputs")
    assert set(outputs) == set(theirs) == {"lstm.stats", "fc.stats"}
    for key, reference in theirs.items():
        assert_same(outputs[key]["float"], reference["float"])
        flat = outputs[key]["quantized"][0], reference["quantized"][0]
        x, y = (value[0] if isinstance(value, tuple) else value for value in flat)
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["compute_sqnr", "compute_normalized_l2_error", "compute_cosine_similarity"]
)
def test_metrics(name):
    told = recorded("metrics")
    pairs = [tuple(map(as_ours, pair)) for pair in told["pairs"]]
    for pair, expected in zip(pairs, told[name], strict=True):
        found = getattr(utils, name)(*pair)
        if expected is None:
            assert found is None
        else:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def as_ours(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(as_ours, value))
    if isinstance(value, Quantized):
        qparams = qlab.QParams.per_tensor(value.q_scale(), value.q_zero_point(), qlab.quint8)
        return QTensor(value.int_repr(), qparams)
    return value
