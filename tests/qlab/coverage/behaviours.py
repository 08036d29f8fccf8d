"""What each public name must do: a check with values for every one, against plain arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qlab
import qlab.nn.quantized as nnq
from qlab import quantization as q
from qlab.nn.aware import QuantizationAware
from qlab.nn.quantized import functional as qf
from qlab.nn.stubs import DeQuantStub, QuantStub, QuantWrapper
from qlab.qtensor import QTensor
from qlab.quantization import quantize_fx, utils
from qlab.registry import ROWS
from tests.qlab.nn import test_qat as aware
from tests.qlab.nn.intrinsic.test_fused import PARTS
from tests.qlab.nn.quantized import test_every_module as every
from tests.qlab.nn.quantized.examples import STATIC

Check = Callable[[], None]
SCALE, ZERO = 0.05, 100


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def codes(*shape: int, seed: int = 0) -> QTensor:
    return qlab.quantize_per_tensor(random(*shape, seed=seed) * 2, SCALE, ZERO, qlab.quint8)


def within(got: Tensor, want: Tensor, steps: float = 1.0) -> None:
    """At most so many steps apart from numbers brought onto the same grid."""
    assert isinstance(got, QTensor)
    step = got.q_scale()
    low, high = ((end - got.q_zero_point()) * step for end in (0, 255))
    difference = (got.dequantize() - want.clamp(low, high)).abs().max()
    assert float(difference) <= (steps + 0.501) * step


# Tensor methods: what the numbers or the codes behind them do.

T = codes(4, 6)
ROW = qlab.quantize_per_channel(
    random(3, 4), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2]), 0, qlab.qint8
)


def _moved(method: str, *args: Any) -> None:
    got = getattr(T, method)(*args)
    want = getattr(T.int_repr().clone(), method)(*args)
    assert torch.equal(got.int_repr(), want) and got.q_scale() == T.q_scale()


def _compared(method: str) -> None:
    other = codes(4, 6, seed=1)
    want = getattr(T.dequantize(), method)(other.dequantize())
    assert torch.equal(getattr(T, method)(other), want)
    assert torch.equal(getattr(T, method)(0.1), getattr(T.dequantize(), method)(0.1))


def _same(got: Any, want: Any) -> None:
    assert torch.equal(torch.as_tensor(got), torch.as_tensor(want)), (got, want)


def _ordered(method: str, *args: Any, **kwargs: Any) -> None:
    values, places = getattr(T, method)(*args, **kwargs)
    want = getattr(T.int_repr().int(), method)(*args, **kwargs).values
    _same(values.int_repr().int(), want)
    _same(T.int_repr().gather(-1, places).int(), want)


def _copied() -> None:
    target = codes(4, 6, seed=3)
    target.copy_(random(4, 6))
    _same(
        target.int_repr(),
        qlab.quantize_per_tensor(random(4, 6), SCALE, ZERO, qlab.quint8).int_repr(),
    )


def _resized() -> None:
    grown = T.clone().resize_(2, 5)
    assert grown.shape == (2, 5)
    _same(grown.int_repr().flatten(), T.int_repr().flatten()[:10])


def _separate() -> None:
    twin = T.clone()
    twin.zero_()
    assert T.dequantize().abs().sum() > 0


METHODS: dict[str, Check] = {
    "view": partial(_moved, "view", 6, 4),
    "as_strided": partial(_moved, "as_strided", (2, 3), (1, 2)),
    "expand": lambda: _same(T[:1].expand(3, 6).int_repr(), T.int_repr()[:1].expand(3, 6)),
    "flatten": partial(_moved, "flatten"),
    "select": partial(_moved, "select", 1, 2),
    **{name: partial(_compared, name) for name in ("ne", "eq", "ge", "le", "gt", "lt")},
    "copy_": _copied,
    "clone": _separate,
    "dequantize": lambda: _same(T.dequantize(), (T.int_repr().int() - ZERO) * torch.tensor(SCALE)),
    "equal": lambda: _same([T.equal(T.clone()), T.equal(codes(4, 6, seed=1))], [True, False]),
    "int_repr": lambda: _same(
        T.int_repr(), (random(4, 6).double() * 2 / SCALE).round().add(ZERO).clamp(0, 255).byte()
    ),
    "max": lambda: _same(T.max().dequantize(), T.dequantize().max()),
    "min": lambda: _same(T.min().dequantize(), T.dequantize().min()),
    "mean": lambda: within(T.mean(1), T.dequantize().mean(1), 0),
    "q_scale": lambda: _same(T.q_scale(), SCALE),
    "q_zero_point": lambda: _same(T.q_zero_point(), ZERO),
    "q_per_channel_scales": lambda: _same(
        ROW.q_per_channel_scales(), torch.tensor([0.1, 0.2, 0.3]).double()
    ),
    "q_per_channel_zero_points": lambda: _same(ROW.q_per_channel_zero_points(), [0, 1, 2]),
    "q_per_channel_axis": lambda: _same(ROW.q_per_channel_axis(), 0),
    "resize_": _resized,
    "sort": partial(_ordered, "sort", descending=True),
    "topk": partial(_ordered, "topk", 3),
}

# Functions on quantized tensors: the float function on what the codes stand for.

X1, X2, X3 = codes(2, 4, 9), codes(2, 4, 6, 6), codes(2, 4, 4, 4, 4)


def _function(name: str, x: QTensor, *args: Any, **kwargs: Any) -> None:
    want = getattr(F, name)(x.dequantize(), *args, **kwargs)
    within(getattr(qf, name)(x, *args, **kwargs), want)


def _scaled(name: str, **kwargs: Any) -> None:
    want = getattr(F, name)(X2.dequantize(), **kwargs)
    within(getattr(qf, name)(X2, scale=0.06, zero_point=90, **kwargs), want)


def _contraction(rank: int) -> None:
    x = (X1, X2, X3)[rank - 1]
    w = qlab.quantize_per_tensor(random(3, 4, *[2] * rank), 0.02, 0, qlab.qint8)
    want = getattr(F, f"conv{rank}d")(x.dequantize(), w.dequantize(), torch.ones(3), 1, 1)
    got = getattr(qf, f"conv{rank}d")(x, w, torch.ones(3), 1, 1, scale=0.1, zero_point=128)
    within(got, want)


def _linear() -> None:
    w = qlab.quantize_per_tensor(random(3, 6), 0.02, 0, qlab.qint8)
    want = F.linear(T.dequantize(), w.dequantize(), torch.ones(3))
    within(qf.linear(T, w, torch.ones(3), scale=0.1, zero_point=128), want)


def _old_name(name: str, **options: Any) -> None:
    import warnings

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        got = getattr(qf, name)(X2, scale_factor=2)
    assert told
    within(got, F.interpolate(X2.dequantize(), scale_factor=2, **options))


FUNCTIONAL: dict[str, Check] = {
    "avg_pool2d": partial(_function, "avg_pool2d", X2, 2),
    "avg_pool3d": partial(_function, "avg_pool3d", X3, 2),
    "adaptive_avg_pool2d": partial(_function, "adaptive_avg_pool2d", X2, 3),
    "adaptive_avg_pool3d": partial(_function, "adaptive_avg_pool3d", X3, 2),
    "conv1d": partial(_contraction, 1),
    "conv2d": partial(_contraction, 2),
    "conv3d": partial(_contraction, 3),
    "interpolate": partial(_function, "interpolate", X2, scale_factor=2, mode="bilinear"),
    "linear": _linear,
    "max_pool1d": partial(_function, "max_pool1d", X1, 3, 2, 1),
    "max_pool2d": partial(_function, "max_pool2d", X2, 3, 2, 1),
    "celu": lambda: within(qf.celu(X2, 0.06, 90, 0.7), F.celu(X2.dequantize(), 0.7)),
    "leaky_relu": lambda: within(
        qf.leaky_relu(X2, 0.2, scale=0.06, zero_point=90), F.leaky_relu(X2.dequantize(), 0.2)
    ),
    "hardtanh": partial(_function, "hardtanh", X2, -0.5, 1.0),
    "hardswish": partial(_scaled, "hardswish"),
    "threshold": partial(_function, "threshold", X2, 0.5, -0.25),
    "elu": lambda: within(qf.elu(X2, 0.06, 90, 0.7), F.elu(X2.dequantize(), 0.7)),
    "hardsigmoid": partial(_function, "hardsigmoid", X2),
    "clamp": lambda: within(qf.clamp(X2, -0.5, 1.0), X2.dequantize().clamp(-0.5, 1.0)),
    "upsample": partial(_old_name, "upsample", mode="nearest"),
    "upsample_bilinear": partial(
        _old_name, "upsample_bilinear", mode="bilinear", align_corners=True
    ),
    "upsample_nearest": partial(_old_name, "upsample_nearest", mode="nearest"),
}

# Workflows.

DATA = random(32, 6, seed=5)


def model(training: bool = False, qconfig: Any = None) -> nn.Module:
    torch.manual_seed(0)
    made = QuantWrapper(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    made.qconfig = qconfig or (q.default_qat_qconfig if training else q.default_qconfig)
    return made.train(training)


def near(got: nn.Module, want: nn.Module, share: float = 0.05) -> None:
    """The outputs differ by little."""
    with torch.no_grad():
        y, x = got(DATA), want.eval()(DATA)
    assert 0 < float((y - x).square().sum() / x.square().sum()) < share


def _static() -> None:
    prepared = q.prepare(model())
    prepared(DATA)
    near(q.convert(prepared), model())


def _trained() -> None:
    prepared = q.prepare_qat(model(training=True))
    prepared(DATA)
    near(q.convert(prepared.eval()), model())


def _graph(prepare: Callable[..., Any], training: bool) -> None:
    plain = model().module.train(training)
    made = prepare(plain, {"": q.default_qat_qconfig if training else q.default_qconfig}, DATA)
    made(DATA)
    near(quantize_fx.convert_fx(made.eval()), plain)


def _fused(fuse: Callable[..., Any]) -> None:
    layers = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    layers[1].running_mean.fill_(0.3)
    x = random(2, 2, 4, 4)
    made = fuse(layers)
    torch.testing.assert_close(made(x), layers(x))
    assert sum(isinstance(part, nn.BatchNorm2d) for part in made.modules()) == 0


def _counted() -> None:
    seen: list[Tensor] = []
    q.default_eval_fn(seen.append, [(DATA, 0), (DATA + 1, 1)])
    assert len(seen) == 2 and torch.equal(seen[1], DATA + 1)


def _swapped() -> None:
    layer = nn.Linear(6, 3)
    layer.qconfig = q.default_dynamic_qconfig
    made = q.swap_module(layer, {nn.Linear: nnq.dynamic.Linear})
    assert type(made) is nnq.dynamic.Linear
    assert q.swap_module(nn.ReLU(), {}).__class__ is nn.ReLU


def _propagated() -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    q.propagate_qconfig_(layers, {"1": q.default_qconfig})
    assert layers[0].qconfig is None and layers[1][0].qconfig is q.default_qconfig


def _observed() -> None:
    layers = nn.Sequential(nn.Linear(6, 2)).eval()
    q.propagate_qconfig_(layers, {"": q.default_qconfig})
    q.add_observer_(layers)
    y = layers(DATA)
    found: dict[str, nn.Module] = {}
    q.get_observer_dict(layers, found)
    (observer,) = found.values()
    assert float(observer.max_val) == float(y.detach().max())


def _stubs_added() -> None:
    layers = nn.Sequential(nn.Linear(2, 2))
    layers[0].qconfig = q.default_qconfig
    assert type(q.add_quant_dequant(layers)[0]) is QuantWrapper


def _quantized_tensor(per_channel: bool) -> None:
    x = random(3, 4)
    if per_channel:
        scales, zeros = torch.tensor([0.1, 0.2, 0.05]), torch.tensor([1, 2, 3])
        got = qlab.quantize_per_channel(x, scales, zeros, 0, qlab.qint8)
        want = (x / scales[:, None]).round() + zeros[:, None]
    else:
        got, want = qlab.quantize_per_tensor(x, 0.1, 3, qlab.qint8), (x / 0.1).round() + 3
    _same(got.int_repr(), want.clamp(-128, 127).to(torch.int8))


def _batch_norm() -> None:
    x, (gamma, beta, mean) = X2, random(3, 4, seed=7)
    var = torch.tensor([0.5, 1.0, 2.0, 0.7])
    want = F.batch_norm(x.dequantize(), mean, var, gamma, beta, eps=1e-3)
    within(qlab.quantized_batch_norm(x, gamma, beta, mean, var, 1e-3, 0.1, 128), want)


FUNCTIONS: dict[str, Check] = {
    "quantize": lambda: near(q.quantize(model(), lambda m, x: m(x), (DATA,)), model()),
    "quantize_dynamic": lambda: near(q.quantize_dynamic(model().module), model().module),
    "quantize_qat": lambda: near(
        q.quantize_qat(model(training=True), lambda m, x: m(x), (DATA,)), model()
    ),
    "prepare": _static,
    "convert": _static,
    "prepare_qat": _trained,
    "fuse_modules": partial(_fused, lambda layers: q.fuse_modules(layers, ["0", "1", "2"])),
    "QuantStub": lambda: _same(QuantStub()(DATA), DATA),
    "DeQuantStub": lambda: _same(DeQuantStub()(DATA), DATA),
    "QuantWrapper": lambda: _same(QuantWrapper(nn.ReLU())(DATA), DATA.relu()),
    "add_quant_dequant": _stubs_added,
    "add_observer_": _observed,
    "get_observer_dict": _observed,
    "swap_module": _swapped,
    "propagate_qconfig_": _propagated,
    "default_eval_fn": _counted,
    "prepare_fx": partial(_graph, quantize_fx.prepare_fx, False),
    "prepare_qat_fx": partial(_graph, quantize_fx.prepare_qat_fx, True),
    "convert_fx": partial(_graph, quantize_fx.prepare_fx, False),
    "fuse_fx": partial(_fused, quantize_fx.fuse_fx),
    "quantize_per_tensor": partial(_quantized_tensor, False),
    "quantize_per_channel": partial(_quantized_tensor, True),
    "dequantize": lambda: _same(qlab.dequantize(T), T.dequantize()),
    "quantized_batch_norm": _batch_norm,
    "quint8": lambda: _same([qlab.quint8.quant_min, qlab.quint8.quant_max], [0, 255]),
    "qint8": lambda: _same([qlab.qint8.quant_min, qlab.qint8.quant_max], [-128, 127]),
    "qint32": lambda: _same([qlab.qint32.quant_min, qlab.qint32.quant_max], [-(2**31), 2**31 - 1]),
    **{
        scheme: partial(_same, [scheme.startswith("per_channel"), scheme.endswith("symmetric")],
                        [getattr(qlab, scheme).per_channel, getattr(qlab, scheme).symmetric])
        for scheme in ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
                       "per_channel_symmetric")
    },
}  # fmt: skip

# Observers and fake quantizers: the affine map from what they saw, by hand.

SEEN = random(5, 4, seed=9) * 3


def _range(observer: Any) -> tuple[Tensor, Tensor]:
    per_channel = observer.qscheme.per_channel
    axis = 1 if per_channel and observer.ch_axis == 0 else (0 if per_channel else None)
    low = SEEN.amin() if axis is None else SEEN.amin(axis)
    high = SEEN.amax() if axis is None else SEEN.amax(axis)
    return low.clamp(max=0), high.clamp(min=0)


def _by_hand(observer: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    first, last = observer.quant_min, observer.quant_max
    if observer.qscheme.value.endswith("float_qparams"):
        raw = (SEEN.amin(1), SEEN.amax(1))
        scale = (raw[1] - raw[0]) / (last - first)
        return scale, -raw[0] / scale
    if observer.qscheme.symmetric:
        scale = torch.maximum(-low, high) / ((last - first) / 2)
        return scale, torch.full_like(scale, 0.0 if first < 0 else 128.0)
    scale = (high - low) / (last - first)
    return scale, (first - (low / scale).round()).clamp(first, last)


def _error(observer: Any, scale: Tensor, zero_point: Tensor) -> float:
    found = ((SEEN / scale).round() + zero_point).clamp(observer.quant_min, observer.quant_max)
    return float(((found - zero_point) * scale - SEEN).square().sum())


def check_observer(make: Callable[[], Any]) -> None:
    observer = make()
    if isinstance(observer, q.PlaceholderObserver):
        assert observer(SEEN) is SEEN
        return
    if isinstance(observer, q.RecordingObserver):
        observer(SEEN)
        assert torch.equal(observer.get_tensor_value()[0], SEEN)
        return
    if isinstance(observer, q.NoopObserver):
        assert observer(SEEN) is SEEN
        return
    assert observer(SEEN) is SEEN
    scale, zero_point = observer.calculate_qparams()
    if isinstance(observer, q.HistogramObserver):
        widest = _by_hand(observer, *_range(observer))
        assert _error(observer, scale, zero_point) <= 1.001 * _error(observer, *widest)
        return
    want = _by_hand(observer, *_range(observer))
    torch.testing.assert_close(scale, torch.atleast_1d(want[0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(zero_point.float(), torch.atleast_1d(want[1]), rtol=1e-5, atol=1e-5)


def check_fake_quantizer(make: Callable[[], Any]) -> None:
    fake = make()
    y = fake(SEEN)
    scale, zero_point = fake.scale, fake.zero_point
    shape = (-1, 1) if scale.numel() > 1 else ()
    s, z = scale.reshape(shape or (1,)), zero_point.reshape(shape or (1,))
    want = ((SEEN / s).round() + z).clamp(fake.quant_min, fake.quant_max)
    torch.testing.assert_close(y, (want - z) * s, rtol=1e-5, atol=1e-6)
    fake.disable_fake_quant()
    assert fake(SEEN) is SEEN or torch.equal(fake(SEEN), SEEN)


def _switch(name: str) -> None:
    fake = q.default_fake_quant()
    model = nn.Sequential(fake)
    buffer = "fake_quant_enabled" if "fake_quant" in name else "observer_enabled"
    getattr(fake, buffer).fill_(int(name.startswith("disable")))
    model.apply(getattr(q, name))
    assert int(getattr(fake, buffer)) == int(name.startswith("enable"))


def _observer_state(load: bool) -> None:
    prepared = q.prepare(model())
    prepared(DATA)
    state = q.get_observer_state_dict(prepared)
    assert state and all("activation_post_process" in key for key in state)
    other = q.prepare(model())
    q.load_observer_state_dict(other, state)
    assert torch.equal(
        q.get_observer_state_dict(other)[next(iter(state))], state[next(iter(state))]
    )


OBSERVERS: dict[str, Check] = {
    "ObserverBase": lambda: _own_observer(),
    "get_observer_state_dict": partial(_observer_state, False),
    "load_observer_state_dict": partial(_observer_state, True),
    "RecordingObserver": partial(check_observer, q.RecordingObserver),
    "FakeQuantizeBase": lambda: _own_fake_quantizer(),
    "FixedQParamsFakeQuantize": partial(
        check_fake_quantizer,
        lambda: q.FixedQParamsFakeQuantize(
            q.FixedQParamsObserver.with_args(scale=0.1, zero_point=5, dtype=qlab.quint8)
        ),
    ),
    **{
        name: partial(_switch, name)
        for name in (
            "disable_fake_quant",
            "enable_fake_quant",
            "disable_observer",
            "enable_observer",
        )
    },
}


def _own_observer() -> None:
    class Mine(q.ObserverBase):
        def __init__(self) -> None:
            super().__init__(dtype=qlab.quint8)

        def forward(self, x: Tensor) -> Tensor:
            return x

        def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
            return torch.tensor([0.125]), torch.tensor([7])

    prepared = q.prepare(model(qconfig=q.QConfig(Mine, q.default_weight_observer)))
    prepared(DATA)
    assert q.convert(prepared).quant.scale.item() == 0.125


def _own_fake_quantizer() -> None:
    class Mine(q.FakeQuantizeBase):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

        def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
            return torch.tensor([0.5]), torch.tensor([0])

    made = nn.Sequential(Mine())
    made.apply(q.disable_fake_quant)
    assert int(made[0].fake_quant_enabled) == 0 and torch.equal(made(DATA), DATA + 1)


#: Data types of activation and weight, whether the activation is dynamic, scales per channel.
QCONFIGS: dict[str, tuple[str, str, bool, bool]] = {
    "default_qconfig": ("quint8", "qint8", False, False),
    "default_debug_qconfig": ("quint8", "qint8", False, False),
    "default_per_channel_qconfig": ("quint8", "qint8", False, True),
    "default_dynamic_qconfig": ("quint8", "qint8", True, False),
    "float16_dynamic_qconfig": ("float", "float", True, False),
    "float16_static_qconfig": ("float", "float", False, False),
    "per_channel_dynamic_qconfig": ("quint8", "qint8", True, True),
    "float_qparams_weight_only_qconfig": ("float", "quint8", False, True),
    "default_qat_qconfig": ("quint8", "qint8", False, False),
    "default_weight_only_qconfig": ("float", "qint8", False, False),
    "default_activation_only_qconfig": ("quint8", "float", False, False),
    "default_qat_qconfig_v2": ("quint8", "qint8", False, False),
}


def check_qconfig(name: str, qconfig: Any) -> None:
    from qlab.registry.asked import asked_by

    activation, weight, dynamic, per_channel = QCONFIGS[name]
    asked = [asked_by(factory) for factory in qconfig]
    dtypes = utils.get_qconfig_dtypes(qconfig)
    names = [getattr(dtype, "name", "float") for dtype in dtypes[:2]]
    assert (names, dtypes[2]) == ([activation, weight], dynamic)
    if asked[1].spec is not None:
        assert (asked[1].spec.granularity != qlab.PerTensor()) == per_channel
    assert tuple(qconfig) == (qconfig.activation, qconfig.weight)


# Modules.

DYNAMIC = {
    "Linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "LSTM": (lambda: nn.LSTM(6, 4, 2, bidirectional=True), (5, 3, 6)),
    "GRU": (lambda: nn.GRU(6, 4, batch_first=True), (5, 3, 6)),
    "RNNCell": (lambda: nn.RNNCell(6, 4), (3, 6)),
    "LSTMCell": (lambda: nn.LSTMCell(6, 4), (3, 6)),
    "GRUCell": (lambda: nn.GRUCell(6, 4), (3, 6)),
}


def first(value: Any) -> Tensor:
    return first(value[0]) if isinstance(value, tuple) else value


def check_dynamic(name: str) -> None:
    make, shape = DYNAMIC[name]
    torch.manual_seed(0)
    plain, x = make().eval(), random(*shape)
    plain.qconfig = q.default_dynamic_qconfig
    got = first(getattr(nnq.dynamic, name).from_float(plain)(x))
    assert 0 < float((got - first(plain(x))).abs().max()) < 0.05


def check_custom(name: str) -> None:
    torch.manual_seed(0)
    plain = nn.LSTM(6, 8) if name == "LSTM" else nn.MultiheadAttention(8, 2)
    x = random(5, 3, 6 if name == "LSTM" else 8)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant, self.layer = QuantStub(), DeQuantStub(), copy.deepcopy(plain)

        def forward(self, x: Tensor) -> Tensor:
            x = self.quant(x)
            return self.dequant(first(self.layer(*([x] if name == "LSTM" else [x, x, x]))))

    net = Net().eval()
    net.qconfig = q.get_default_qconfig("onednn")
    prepared = q.prepare(net)
    assert type(prepared.layer).__module__.startswith("qlab.nn.quantizable")
    torch.testing.assert_close(prepared(x), net(x), rtol=1e-4, atol=1e-5)
    converted = q.convert(prepared)
    assert type(converted.layer) is getattr(nnq, name)
    y, want = converted(x), net(x)
    assert 0 < float((y - want).square().sum() / want.square().sum()) < 0.05


def check_table(name: str) -> None:
    torch.manual_seed(0)
    plain = getattr(nn, name)(9, 8).eval()
    plain.qconfig = q.float_qparams_weight_only_qconfig
    made, index = getattr(nnq, name).from_float(plain), torch.randint(0, 9, (3, 4))
    weight = plain.weight.detach()
    step = float((weight.amax(1) - weight.amin(1)).max()) / 255
    assert float((made(index) - plain(index)).detach().abs().max()) <= 0.51 * step


def check_arithmetic(name: str) -> None:
    made = getattr(nnq, name)()
    if name == "QFunctional":
        made.scale, made.zero_point = 0.1, 128
        within(made.add(T, T), 2 * T.dequantize())
        within(made.mul(T, T), T.dequantize() ** 2)
        within(made.cat([T, T], 1), torch.cat([T.dequantize()] * 2, 1))
        within(made.add_relu(T, T), (2 * T.dequantize()).relu())
        return
    x, y = random(3, 3), random(3, 3, seed=1)
    _same(made.add(x, y), x + y)
    _same(made.matmul(x, y), x @ y)
    _same(made.mul_scalar(x, 2.0), x * 2)


def check_module(found: Any, name: str) -> None:
    """A module class: in training form, fused, on codes, dynamic, or one that is taken apart."""
    if issubclass(found, QuantizationAware):
        if found.__module__ == "qlab.nn.qat.dynamic":
            aware.test_the_dynamic_linear_layer_needs_a_dynamic_qconfig_and_becomes_a_dynamic_one()
            return
        aware.test_without_rounding_it_computes_what_the_float_module_does(found)
        with torch.enable_grad():
            aware.test_it_shares_its_parameters_and_trains_them(found)
    elif found in PARTS:
        from tests.qlab.nn.intrinsic.test_fused import test_parts_run_in_turn

        test_parts_run_in_turn(found)
    elif row := next((row for row in STATIC if row.static is found), None):
        every.test_it_computes_what_the_float_module_does(row, "quint8")
    elif any(row.dynamic is found for row in ROWS):
        if name == "LinearReLU":
            _dynamic_relu(found)
        else:
            check_dynamic(name)
    elif any(found in (row.custom or ()) for row in ROWS):
        check_custom(name)
    elif name in ("Embedding", "EmbeddingBag"):
        check_table(name)
    else:
        check_arithmetic(name)


def _dynamic_relu(found: Any) -> None:
    import qlab.nn.intrinsic as nni

    torch.manual_seed(0)
    plain = nni.LinearReLU(nn.Linear(6, 4), nn.ReLU()).eval()
    plain.qconfig = q.default_dynamic_qconfig
    x = random(5, 6)
    with torch.no_grad():
        got = found.from_float(plain)(x)
    assert float((got - plain(x).detach()).abs().max()) < 0.05 and float(got.min()) == 0.0


def _bn_switch(name: str) -> None:
    from qlab.nn.intrinsic import qat

    made = qat.ConvBn2d(2, 3, 1, qconfig=q.default_qat_qconfig)
    made.apply(qat.update_bn_stats if name.startswith("freeze") else qat.freeze_bn_stats)
    made.apply(getattr(qat, name))
    before = made.bn.running_mean.clone()
    made(random(4, 2, 3, 3))
    assert torch.equal(before, made.bn.running_mean) == name.startswith("freeze")


@torch.no_grad()
def check(place: str, name: str, found: Any) -> None:
    """Runs what a public name must do.

    Raises:
        KeyError: Nothing says what it must do.
    """
    if place == "qlab.QTensor":
        METHODS[name]()
    elif place == "qlab.nn.quantized.functional":
        FUNCTIONAL[name]()
    elif name in ("update_bn_stats", "freeze_bn_stats"):
        _bn_switch(name)
    elif place in ("qlab.quantization.observer", "qlab.quantization.fake_quantize"):
        usual = check_observer if place.endswith("observer") else check_fake_quantizer
        OBSERVERS.get(name, partial(usual, found))()
    elif name == "QConfig":
        assert q.QConfig(q.MinMaxObserver, q.MinMaxObserver).weight is q.MinMaxObserver
        for known in QCONFIGS:
            check_qconfig(known, getattr(q, known))
    elif place == "qlab.quantization.qconfig":
        check_qconfig(name, found)
    elif place.startswith("qlab.nn"):
        check_module(found, name)
    else:
        FUNCTIONS[name]()
