"""Depthwise convolutions by the compiled loop: the codes of the exact kernel, where it wins."""

from unittest.mock import Mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qlab import ops
from qlab.dtypes import float8_e4m3fn, integer, qint8, quint8
from qlab.errors import UnsupportedError
from qlab.granularity import PerAxis
from qlab.ops import compiled, depthwise, onednn
from qlab.qparams import QParams
from tests.qlab.ops.examples import codes

pytestmark = pytest.mark.skipif(compiled.unavailable() is not None, reason="needs Numba")

C = 64
X, Y = QParams.per_tensor(0.02, 7, quint8), QParams.per_tensor(0.5, 3, quint8)
W = QParams.per_tensor(0.01, 0, qint8)
UINT4 = integer(4, signed=False)
IMAGE, KERNEL = codes(quint8, 1, C, 6, 5), codes(qint8, C, 1, 3, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(2, 70), st.integers(3, 9), st.integers(3, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.tuples(st.integers(low, 2), st.integers(low, 2)) for low in (1, 0, 1)]),
    st.tuples(st.sampled_from([quint8, qint8]), st.sampled_from([quint8, qint8, UINT4])),
    st.booleans(), st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_codes_equal_the_exact_ones(shape, kernel, options, types, relu, bias, seed):
    torch.manual_seed(seed)
    channels = shape[1]
    x, weight = codes(types[0], *shape), codes(qint8, channels, 1, *kernel)
    x_qparams = QParams.per_tensor(0.02, types[0].quant_min + 100, types[0])
    w_qparams = QParams(torch.rand(channels) + 0.01, torch.zeros(channels).int(), qint8, PerAxis(0))
    y_qparams = QParams.per_tensor(0.02 * 74**2 * 0.03, types[1].quant_min + 5, types[1])
    added = 10 * torch.randn(channels) if bias else None
    stride, padding, dilation = options
    axes = zip(shape[2:], kernel, padding, dilation, strict=True)
    assume(all(size + 2 * p > d * (k - 1) for size, k, p, d in axes))
    arguments = x, x_qparams, weight, w_qparams, added, y_qparams
    more = {"stride": stride, "padding": padding, "dilation": dilation, "relu": relu}
    results = []
    for name in ("compiled", "reference"):
        with pytest.MonkeyPatch.context() as patch, ops.use(name):
            patch.setattr(depthwise, "_CHANNELS", 2)
            results.append(ops.conv2d(*arguments, **more, groups=channels))
    assert torch.equal(*results)


OBSTACLES = {
    "63 channels, fewer than 64": {
        "x": IMAGE[:, :63], "weight": KERNEL[:63], "groups": 63,
    },
    "a group has more than one channel": {"weight": codes(qint8, C, 2, 3, 3), "groups": C // 2},
    "not a depthwise convolution": {"weight": codes(qint8, C, C, 3, 3), "groups": 1},
    "the output is real numbers": {"y_qparams": None},
    "the output's type is not an integer of at most 8 bits": {
        "y_qparams": QParams.per_tensor(0.5, 3, integer(16, signed=True))
    },
    "an operand is empty": {"x": IMAGE[:0]},
    "a zero point of the weight is not 0": {"w_qparams": QParams.per_tensor(0.1, 3, qint8)},
    "the weight is stored as torch.uint8": {"weight": KERNEL.view(torch.uint8), "w_qparams": X},
    "a product of scales is not finite": {
        "x_qparams": QParams.per_tensor(1e30, 7, quint8),
        "w_qparams": QParams.per_tensor(1e30, 0, qint8),
    },
    "the input's type is not an integer": {
        "x": IMAGE.float().to(torch.float8_e4m3fn),
        "x_qparams": QParams.per_tensor(0.1, 0, float8_e4m3fn),
    },
    "products, more than": {"x": codes(quint8, 1, C, 60, 60)},
}  # fmt: skip


@pytest.fixture
def with_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "unavailable", lambda: None)


def call(**changes):
    arguments = {"x": IMAGE, "x_qparams": X, "weight": KERNEL, "w_qparams": W, "y_qparams": Y}
    arguments = {**arguments, "bias": None, "groups": C, "padding": 1, **changes}
    names = ("x", "x_qparams", "weight", "w_qparams", "bias", "y_qparams")
    return tuple(arguments.pop(name) for name in names), arguments


@pytest.mark.usefixtures("with_onednn")
@pytest.mark.parametrize("why", OBSTACLES)
def test_what_the_loop_leaves_to_others(why):
    given, options = call(**OBSTACLES[why])
    with ops.use("compiled"), pytest.raises(UnsupportedError, match=why):
        ops.conv2d(*given, **options)


@pytest.mark.usefixtures("with_onednn")
def test_it_runs_where_it_wins():
    given, options = call()
    assert ops.kernel_for("conv2d", *given, **options) == "compiled"
    large, options = call(x=codes(quint8, 1, C, 60, 60))
    assert ops.kernel_for("conv2d", *large, **options) != "compiled"


def test_without_vnni_it_runs_at_any_size(monkeypatch):
    monkeypatch.setattr(onednn, "unavailable", lambda: "this CPU has no VNNI instructions")
    given, options = call(x=codes(quint8, 1, C, 60, 60))
    assert ops.kernel_for("conv2d", *given, **options) == "compiled"


@pytest.mark.usefixtures("with_onednn")
def test_changed_weights_and_layouts_are_noticed():
    packed = ops.PackedWeight()
    given, options = call(weight=KERNEL.clone())
    x, weight = given[0].contiguous(memory_format=torch.channels_last), given[2]
    first = ops.conv2d(x, *given[1:], **options, packed=packed)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.conv2d(*given, **options, packed=packed), first)
    weight.neg_()
    assert not torch.equal(ops.conv2d(*given, **options, packed=packed), first)
    with ops.use("reference"):
        want = ops.conv2d(*given, **options)
    assert torch.equal(ops.conv2d(*given, **options, packed=packed), want)


def test_a_weight_is_turned_once_where_the_input_is_padded_in_every_call(
    monkeypatch: pytest.MonkeyPatch,
):
    turned = Mock(wraps=depthwise._pack)
    monkeypatch.setattr(depthwise, "_pack", turned)
    given, options = call(padding_mode="reflect", weight=KERNEL.clone())
    packed = ops.PackedWeight()
    with ops.use("compiled"):
        first, second = (ops.conv2d(*given, **options, packed=packed) for _ in range(2))
        assert turned.call_count == 1
        given[2].neg_()
        third = ops.conv2d(*given, **options, packed=packed)
    assert turned.call_count == 2 and torch.equal(first, second)
    with ops.use("reference"):
        assert torch.equal(third, ops.conv2d(*given, **options))
