"""Makes ns.safetensors: what the reference's numeric suite gives for the models of ns_cases.

Run as ``python -m tests.golden.make_ns`` with torch 2.13; the suite only reads the file.
"""

import copy
from pathlib import Path

import torch
import torch.ao.ns._numeric_suite as eager
import torch.ao.ns._numeric_suite_fx as fx
import torch.ao.ns.fx.utils as utils
import torch.ao.quantization as tq
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.ns.fx.qconfig_multi_mapping import QConfigMultiMapping
from torch.ao.quantization.backend_config import get_native_backend_config
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

from tests.golden.ns_cases import EagerNet, Net, Recurrent
from tests.golden.recorded import Recorder

QCONFIG = tq.QConfig(tq.MinMaxObserver, tq.default_per_channel_weight_observer)
QAT_QCONFIG = tq.QConfig(
    tq.FakeQuantize.with_args(observer=tq.MinMaxObserver), tq.default_per_channel_weight_fake_quant
)
METRICS = ("compute_sqnr", "compute_normalized_l2_error", "compute_cosine_similarity")


def graphs(recorder: Recorder) -> None:
    model = started(Net()).eval()
    x = torch.randn(3, 3, 6, 6)
    prepared = prepare_fx(model, tq.QConfigMapping().set_global(QCONFIG), (x,))
    prepared(x)
    converted = convert_fx(copy.deepcopy(prepared))
    keep(recorder, "graph", dict(model.state_dict()), x)
    keep(recorder, "weights", compared(fx.extract_weights("a", prepared, "b", converted)))
    a, b = fx.add_loggers(
        "a", copy.deepcopy(prepared), "b", copy.deepcopy(converted), fx.OutputLogger, True
    )
    a(x), b(x)
    keep(recorder, "outputs", compared(fx.extract_logger_info(a, b, fx.OutputLogger, "b")))
    shadows = fx.add_shadow_loggers(
        "a", copy.deepcopy(prepared), "b", copy.deepcopy(converted), fx.OutputLogger, True
    )
    shadows(x)
    found = fx.extract_shadow_logger_info(shadows, fx.OutputLogger, "b")
    keep(recorder, "shadows", compared(found))
    multi = QConfigMultiMapping().set_global([QCONFIG, tq.default_dynamic_qconfig])
    multi.set_module_name("conv2", [QCONFIG])
    many = fx.prepare_n_shadows_model(model, (x,), multi, get_native_backend_config())
    fx.loggers_set_enabled(many, False)
    many(x)
    many = fx.convert_n_shadows_model(many)
    fx.loggers_set_enabled(many, True)
    many(x)
    found = fx.extract_results_n_shadows_model(many)
    for results in found["model"]["node_output"].values():
        del results[0]["qconfig_str"]  # it holds addresses
    keep(recorder, "n_shadows", found)


def trained(recorder: Recorder) -> None:
    model = started(Net()).train()
    x = torch.randn(3, 3, 6, 6)
    keep(recorder, "trained_graph", dict(model.state_dict()), x)
    prepared = prepare_qat_fx(model, tq.QConfigMapping().set_global(QAT_QCONFIG), (x,))
    prepared(x)
    prepared.eval()
    prepared.apply(tq.disable_observer)
    converted = convert_fx(copy.deepcopy(prepared))
    a, b = fx.add_loggers(
        "a", copy.deepcopy(prepared), "b", copy.deepcopy(converted), fx.OutputLogger
    )
    a(x), b(x)
    keep(recorder, "trained", compared(fx.extract_logger_info(a, b, fx.OutputLogger, "b")))


def modules(recorder: Recorder) -> None:
    model = started(EagerNet(tq.QuantStub(), tq.DeQuantStub(), FloatFunctional())).eval()
    x = torch.randn(1, 3, 6, 6)  # ShadowLogger drops all but the first sample of a batch
    keep(recorder, "eager_model", dict(model.state_dict()), x)
    model = tq.fuse_modules(model, [["conv", "bn", "relu"]])
    model.qconfig = QCONFIG
    prepared = tq.prepare(model)
    prepared(x)
    converted = tq.convert(prepared)
    keep(
        recorder, "eager_weights", eager.compare_weights(model.state_dict(), converted.state_dict())
    )
    pair = copy.deepcopy(model), copy.deepcopy(converted)
    keep(recorder, "eager_outputs", eager.compare_model_outputs(*pair, x))
    kinds = {type(model.conv), nn.Conv2d, FloatFunctional, nn.Linear}
    pair = copy.deepcopy(model), copy.deepcopy(converted)
    keep(recorder, "eager_stubs", eager.compare_model_stub(*pair, kinds, x))


def dynamic(recorder: Recorder) -> None:
    model = started(Recurrent()).eval()
    x = torch.randn(3, 1, 4)
    keep(recorder, "dynamic_model", dict(model.state_dict()), x)
    quantized = tq.quantize_dynamic(model)
    pair = copy.deepcopy(model), copy.deepcopy(quantized)
    keep(recorder, "dynamic_outputs", eager.compare_model_outputs(*pair, x))


def metrics(recorder: Recorder) -> None:
    x = torch.randn(4, 5)
    y = torch.quantize_per_tensor(x, 0.05, 100, torch.quint8)
    pairs = [(x, y), (y, x), (x, x + 0.1), ((x, x), (y, x + 1)), (x.int(), x.int())]
    told = {name: [getattr(utils, name)(*pair) for pair in pairs] for name in METRICS}
    keep(recorder, "metrics", {"pairs": pairs, **told})


def started(model: nn.Module) -> nn.Module:
    """Parameters and statistics that are not those of a new module."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def compared(results: dict) -> dict:
    fx.extend_logger_results_with_comparison(results, "a", "b", utils.compute_sqnr, "sqnr")
    return results


def keep(recorder: Recorder, name: str, value: object, *more: object) -> None:
    recorder.cases[name] = recorder.value((value, *more) if more else value)


def main() -> None:
    torch.manual_seed(0)
    torch.backends.quantized.engine = "onednn"
    recorder = Recorder()
    with torch.no_grad():
        for part in (graphs, trained, modules, dynamic, metrics):
            part(recorder)
    recorder.save(Path(__file__).parent / "ns.safetensors")


if __name__ == "__main__":
    main()
