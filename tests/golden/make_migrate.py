"""Models that torch 2.13 quantized, their outputs, and what `qlab.migrate` reads of them.

Run by hand: ``python -m tests.golden.make_migrate``. The suite reads the committed result and
rebuilds stand-ins for the models with `tests.golden.recorded`, so it needs none of the deprecated
parts. Here the true objects are migrated too, and must agree.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization as q
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import quantize_fx

import qlab
from tests.golden.migrate_models import Attention, Eager, Operators, Recurrent, Traced, first
from tests.golden.recorded import Recorder

TARGET = Path(__file__).with_name("migrate.safetensors")
Built = tuple[nn.Module, Tensor]


def eager(qconfig: Any, shape: tuple[int, ...], *layers: nn.Module) -> Built:
    named = [FloatFunctional() for _ in range(3)]
    model = Eager((q.QuantStub(), q.DeQuantStub()), named, *layers).eval()
    model.qconfig = qconfig
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):  # the reference takes no scales per channel
            layer.qconfig = q.QConfig(q.MinMaxObserver, q.default_weight_observer)
    x = torch.randn(shape)
    prepared = q.prepare(model)
    prepared(x)
    return q.convert(prepared), x


def static() -> Built:
    layers = (
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU6(), nn.Hardswish(),
        nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.1), nn.ELU(),
        nn.ConvTranspose2d(4, 4, 2, 2), nn.MaxPool2d(2), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(64, 5), nn.LayerNorm(5), nn.Dropout(),
    )  # fmt: skip
    return eager(q.get_default_qconfig("onednn"), (2, 3, 4, 4), *layers)


def fused() -> Built:
    model = nn.Sequential(
        q.QuantStub(), nn.Conv2d(3, 4, 3, stride=2, groups=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 1, groups=4, bias=False), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(),
        q.DeQuantStub(),
    ).eval()  # fmt: skip
    model = q.fuse_modules(model, [["1", "2", "3"], ["6", "7"]])
    model.qconfig = q.default_qconfig
    x = torch.randn(2, 3, 8, 8)
    prepared = q.prepare(model)
    prepared(x)
    return q.convert(prepared), x


def trained() -> Built:
    layers = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    model = nn.Sequential(q.QuantStub(), *layers, q.DeQuantStub())
    model.qconfig = q.get_default_qat_qconfig("onednn")
    prepared = q.prepare_qat(q.fuse_modules_qat(model.train(), ["1", "2"]))
    x = torch.randn(4, 6)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    for _ in range(3):
        prepared(x).square().mean().backward()
        optimizer.step()
    return q.convert(prepared.eval()), x


def dynamic(kind: type[nn.Module], dtype: Any = torch.qint8, **options: Any) -> Callable[[], Built]:
    def make() -> Built:
        cell = "Cell" in kind.__name__
        layer = kind(5, 7, **options)
        model = q.quantize_dynamic(nn.Sequential(layer).eval(), {kind}, dtype=dtype)
        return model, torch.randn((3, 5) if cell or kind is nn.Linear else (4, 2, 5))

    return make


def tables(bits: int) -> Callable[[], Built]:
    def make() -> Built:
        table = nn.EmbeddingBag(9, 8, mode="sum") if bits == 4 else nn.Embedding(9, 8)
        model = nn.Sequential(table)
        chosen = q.float_qparams_weight_only_qconfig
        model.qconfig = q.float_qparams_weight_only_qconfig_4bit if bits == 4 else chosen
        model = q.convert(q.prepare(model.eval()))
        return model, torch.randint(0, 9, (3, 4))

    return make


def graph(mapping: Any) -> Callable[[], Built]:
    def make() -> Built:
        x = torch.randn(2, 3, 6, 6)
        prepared = quantize_fx.prepare_fx(Traced().eval(), mapping, (x,))
        prepared(x)
        return quantize_fx.convert_fx(prepared), x

    return make


def operators(qconfig: Any, **options: Any) -> Callable[[], Built]:
    def make() -> Built:
        x = torch.randn(2, 2, 8, 8)
        mapping = q.QConfigMapping().set_global(qconfig)
        prepared = quantize_fx.prepare_fx(Operators(**options).eval(), mapping, (x,))
        prepared(x)
        return quantize_fx.convert_fx(prepared), x

    return make


def wrapped() -> Built:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), q.QuantWrapper(nn.Linear(16, 5)))
    model = q.QuantWrapper(nn.Sequential(model[0], model[1])), model[2]
    both = nn.Sequential(*model).eval()
    both.qconfig = q.default_qconfig
    x = torch.randn(2, 3, 4, 4)
    prepared = q.prepare(both)
    prepared(x)
    return q.convert(prepared), x


def recurrent() -> Built:
    model = Recurrent((q.QuantStub(), q.DeQuantStub()), nn.LSTM(5, 6, 2)).eval()
    model.qconfig = q.QConfig(q.MinMaxObserver, q.default_weight_observer)
    x = torch.randn(4, 2, 5)
    prepared = q.prepare(model)
    prepared(x)
    return q.convert(prepared), x


def attention() -> Built:
    model = Attention((q.QuantStub(), q.DeQuantStub()), nn.MultiheadAttention(8, 2)).eval()
    model.qconfig = q.QConfig(q.MinMaxObserver, q.default_weight_observer)
    x = torch.randn(4, 2, 8)
    prepared = q.prepare(model)
    prepared(x)
    return q.convert(prepared), x


CASES: dict[str, Callable[[], Built]] = {
    "static": static,
    "fused": fused,
    "trained": trained,
    "dynamic-linear": dynamic(nn.Linear),
    "dynamic-linear-half": dynamic(nn.Linear, torch.float16),
    "dynamic-lstm": dynamic(nn.LSTM, num_layers=2, bidirectional=True),
    "dynamic-gru": dynamic(nn.GRU, batch_first=True),
    "dynamic-lstm-cell": dynamic(nn.LSTMCell),
    "dynamic-gru-cell": dynamic(nn.GRUCell),
    "dynamic-rnn-cell": dynamic(nn.RNNCell),
    "embedding": tables(8),
    "embedding-bag-4": tables(4),
    "graph": graph(q.get_default_qconfig_mapping("onednn")),
    "graph-dynamic": graph(q.QConfigMapping().set_global(q.default_dynamic_qconfig)),
    "operators": operators(q.get_default_qconfig("onednn")),
    "operators-per-tensor": operators(q.default_qconfig, transposed=True),
    "operators-dynamic": operators(q.default_dynamic_qconfig),
    "operators-half": operators(q.float16_dynamic_qconfig),
    "wrapped": wrapped,
    "lstm": recurrent,
    "attention": attention,
}


def main() -> None:
    warnings.simplefilter("ignore")
    recorder = Recorder()
    for name, make in CASES.items():
        torch.backends.quantized.engine = "fbgemm" if "half" in name else "onednn"
        torch.manual_seed(sum(map(ord, name)))
        model, x = make()
        with torch.no_grad():
            y = first(model(x))
            mine = first(qlab.migrate(model)(x))
            again = first(model(x))
        assert torch.equal(y, again), f"{name}: migrating changed the model"
        assert torch.allclose(mine, y, rtol=1e-5, atol=1e-5), name
        recorder.add(name, model, x, y)
    recorder.save(TARGET)


if __name__ == "__main__":
    main()
