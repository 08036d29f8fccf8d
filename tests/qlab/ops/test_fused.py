"""conv2d_add and linear_gelu: one requantization, against float64 and between kernels."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from qlab import ops
from qlab.dtypes import QDType, integer, qint8, quint8
from qlab.errors import ArgumentError, DTypeError, ShapeError, UnknownNameError
from qlab.ops import fused, onednn
from qlab.qparams import QParams
from tests.qlab.ops.examples import W, X, Y, codes, per_channel

KERNELS = ["reference", *(["onednn"] if onednn.unavailable() is None else [])]
OTHER = QParams.per_tensor(0.3, 90, quint8)
TYPES = st.sampled_from([quint8, qint8, integer(4, signed=False)])
LAST = torch.channels_last


@st.composite
def sums(draw: st.DrawFn) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of conv2d_add: groups, strides, padding, types and layouts of all kinds."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    groups, kernel = draw(st.sampled_from([1, 1, 2, 4])), draw(st.sampled_from([1, 2, 3]))
    c, out = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 9))
    size = draw(st.tuples(st.integers(3, 8), st.integers(3, 8)))
    options = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, (kernel - 1) // 2)),
    }
    x = codes(quint8, draw(st.integers(1, 3)), c, *size)
    weight, w_qparams = codes(qint8, out, c // groups, kernel, kernel), per_channel(out)
    bias = torch.randn(out) if draw(st.booleans()) else None
    shape = F.conv2d(x.float(), weight.float(), groups=groups, **options).shape
    kinds = draw(TYPES), draw(TYPES)
    if draw(st.booleans()):
        kinds = (kinds[0],) * 2
    spread = 0.05 * 0.01 * 60 * 70 * (c // groups) ** 0.5 * kernel
    o_qparams, y_qparams = (
        QParams.per_tensor(
            spread / draw(st.integers(5, 80)),
            draw(st.integers(kind.quant_min, kind.quant_max)),
            kind,
        )
        for kind in kinds
    )
    other = codes(kinds[0], *(1 if draw(st.integers(0, 9)) == 0 else n for n in shape))
    if draw(st.booleans()):
        other = other.contiguous(memory_format=LAST)
    arguments = x, X, weight, w_qparams, bias, other, o_qparams, y_qparams
    return arguments, {**options, "groups": groups, "relu": draw(st.booleans())}


def exact(arguments: tuple[Any, ...], relu: bool, **options: Any) -> Tensor:
    """The formula of the docstring in NumPy, from sums of int64 in float64."""
    x, x_qparams, weight, w_qparams, bias, other, o, y = arguments
    steps = x.double() - x_qparams.zero_point_value
    total = F.conv2d(steps, weight.double(), **options).numpy().astype(np.float32)
    by = (x_qparams.scale * w_qparams.scale).numpy()
    real = total * by.reshape(1, -1, 1, 1)
    if bias is not None:
        real = real + bias.numpy().reshape(1, -1, 1, 1)
    wide = (other.numpy().astype(np.float64) - o.zero_point_value) * float(o.scale)
    both = (real.astype(np.float64) + wide).astype(np.float32)
    both = np.maximum(both, np.float32(0)) if relu else both
    inverse = np.float32(1) / y.scale.numpy()
    found = np.rint(both * inverse + np.float32(y.zero_point_value))
    return torch.from_numpy(found.clip(y.quant_min, y.quant_max)).to(y.dtype.storage)


@settings(max_examples=150, deadline=None)
@given(sums())
def test_every_kernel_rounds_the_exact_sum_once(example: tuple[Any, dict[str, Any]]):
    arguments, options = example
    wanted, before = exact(arguments, **options), arguments[5].clone()
    for kernel in {"reference", ops.kernel_for("conv2d_add", *arguments, **options)}:
        with ops.use(kernel):
            found = ops.conv2d_add(*arguments, **options)
        assert found.dtype == wanted.dtype and torch.equal(found, wanted), kernel
    assert torch.equal(arguments[5], before), "the second operand was written to"


@settings(max_examples=40, deadline=None)
@given(sums())
def test_a_sum_is_within_half_a_step_of_the_true_one(example: tuple[Any, dict[str, Any]]):
    """Two operators in turn round twice, and lose up to half a step of each scale."""
    (x, x_qparams, weight, w_qparams, bias, other, o, y), options = example
    relu = options.pop("relu")
    w = weight.double() * w_qparams.scale.double().reshape(-1, 1, 1, 1)
    steps = (x.double() - x_qparams.zero_point_value) * x_qparams.scale.double()
    wide = None if bias is None else bias.double()
    true = F.conv2d(steps, w, wide, **options)
    true = true + (other.double() - o.zero_point_value) * o.scale.double()
    true = true.relu() if relu else true
    codes_ = ops.conv2d_add(
        x, x_qparams, weight, w_qparams, bias, other, o, y, relu=relu, **options
    )
    found = (codes_.double() - y.zero_point_value) * y.scale.double()
    ends = (codes_ == y.quant_min) | (codes_ == y.quant_max)
    assert ((found - true).abs() <= 0.501 * y.scale.double())[~ends].all()


def layer(**changes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    torch.manual_seed(0)
    given = {
        "x": codes(quint8, 2, 3, 6, 5), "x_qparams": X, "weight": codes(qint8, 4, 3, 3, 3),
        "w_qparams": W, "bias": torch.randn(4), "other": codes(quint8, 2, 4, 6, 5),
        "other_qparams": OTHER, "y_qparams": QParams.per_tensor(2.0, 120, quint8), "padding": 1,
    }  # fmt: skip
    given |= changes
    names = list(given)[:8]
    return tuple(given.pop(name) for name in names), given


def test_real_numbers_come_out_where_no_scale_is_given():
    arguments, options = layer(y_qparams=None)
    found = ops.conv2d_add(*arguments, **options)
    real = ops.conv2d(*arguments[:5], None, **options)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, real + (arguments[5].float() - 90) * 0.3)


def test_a_packed_layer_is_bound_once_and_follows_its_weight(monkeypatch: pytest.MonkeyPatch):
    arguments, options = layer()
    bound, binds = [], fused._bound_sum
    monkeypatch.setattr(fused, "_bound_sum", lambda *a: bound.append(a) or binds(*a))
    packed, wanted = ops.PackedWeight(), ops.conv2d_add(*arguments, **options)
    for _ in range(3):
        assert torch.equal(ops.conv2d_add(*arguments, **options, packed=packed), wanted)
    ready = packed.ready_sum
    assert len(bound) == 1 and ready is not None
    x, weight, bias, other = arguments[0], arguments[2], arguments[4], arguments[5]
    assert ready.serves(x, other, None, weight, bias)
    assert torch.equal(ready.run(x, other), wanted)
    assert torch.equal(ready.run(x, other.contiguous(memory_format=LAST)), wanted)
    assert not ready.serves(x, other[:1], None, weight, bias)
    assert not ready.serves(x, other.to(torch.int8), None, weight, bias)
    assert not ready.serves(x[:1], other, None, weight, bias)
    weight.neg_()
    assert not ready.serves(x, other, None, weight, bias)
    changed = ops.conv2d_add(*arguments, **options, packed=packed)
    assert len(bound) == 2 and torch.equal(changed, ops.conv2d_add(*arguments, **options))
    packed.clear()
    assert packed.ready_sum is None


@settings(max_examples=60, deadline=None)
@given(sums())
def test_a_dead_operand_gives_the_same_codes(example: tuple[Any, dict[str, Any]]):
    arguments, options = example
    x, other = arguments[0], arguments[5]
    packed, before, wanted = ops.PackedWeight(), other.clone(), exact(arguments, **options)
    assert torch.equal(ops.conv2d_add(*arguments, **options, packed=packed), wanted)
    ready = packed.ready_sum
    assert ready is not None
    for _ in range(2):
        assert torch.equal(ready.run(x, other), wanted) and torch.equal(other, before)
    assert torch.equal(ready.run(x, other, True), wanted)


@pytest.mark.skipif(len(KERNELS) == 1, reason=str(onednn.unavailable()))
def test_the_sum_is_written_where_a_dead_operand_lies():
    arguments, options = layer()
    x, other = arguments[0], arguments[5].contiguous(memory_format=LAST)
    packed, before = ops.PackedWeight(), other.clone()
    ops.conv2d_add(*arguments, **options, packed=packed)
    ready = packed.ready_sum
    assert ready is not None
    found = ready.run(x, other)
    assert torch.equal(other, before) and not torch.equal(found, before)
    ready.run(x, other, True)
    assert torch.equal(other, found), "the operand was copied, in vain"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_layer_that_pads_its_input_itself_may_be_packed(kernel: str):
    arguments, options = layer(padding_mode="circular")
    packed = ops.PackedWeight()
    with ops.use(kernel):
        wanted = ops.conv2d_add(*arguments, **options)
        for _ in range(2):
            assert torch.equal(ops.conv2d_add(*arguments, **options, packed=packed), wanted)
    assert packed.ready_sum is None


def test_kernels_are_counted():
    arguments, options = layer()
    ops.reset_counts()
    kernel = ops.kernel_for("conv2d_add", *arguments, **options)
    ops.conv2d_add(*arguments, **options)
    ops.conv2d_add(*arguments, **options, packed=ops.PackedWeight())
    assert ops.counts() == {("conv2d_add", kernel): 2}
    assert kernel == KERNELS[-1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"other": torch.randn(2, 4, 6, 5)}, DTypeError, "second operand does not hold codes"),
        ({"other_qparams": per_channel(4)}, DTypeError, "does not hold codes of qint8"),
        (
            {"other": codes(qint8, 2, 4, 6, 5), "other_qparams": per_channel(4)},
            ShapeError, "second operand needs one scale for the whole tensor",
        ),
        ({"other": codes(quint8, 2, 4, 3, 5)}, ShapeError, r"broadcast.*\(2, 4, 6, 5\)"),
        ({"x": codes(quint8, 2, 5, 6, 5)}, ShapeError, "conv2d_add: channels, weight and groups"),
        ({"other": torch.empty(2, 4, 6, 5, dtype=torch.uint8, device="meta")}, ArgumentError,
         "conv2d_add: the operands are on different devices.*meta"),
    ],
)  # fmt: skip
def test_operands_that_do_not_fit_are_refused(changes, error, message):
    arguments, options = layer(**changes)
    with pytest.raises(error, match=message):
        ops.conv2d_add(*arguments, **options)


# linear_gelu


def gelu64(x: Tensor, x_qparams: QParams, w: Tensor, w_qparams: QParams, bias: Any, how: str):
    """The layer's real outputs in float64."""
    steps = (x.double() - x_qparams.zero_point_value) * x_qparams.scale.double()
    real = steps @ (w.double() * w_qparams.scale.double().reshape(-1, 1)).T
    return F.gelu(real if bias is None else real + bias.double(), approximate=how)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 40)),
    st.sampled_from(["none", "tanh"]), st.booleans(), TYPES, st.sampled_from([quint8, qint8]),
    st.integers(0, 2**16),
)  # fmt: skip
def test_gelu_of_the_exact_sum_is_rounded_once(
    sizes: tuple[int, int, int], how: str, biased: bool, kind: QDType, given: QDType, seed: int
):
    torch.manual_seed(seed)
    rows, depth, outputs = sizes
    x_qparams = QParams.per_tensor(0.05, given.quant_min + 117, given)
    x, weight, w_qparams = codes(given, rows, depth), codes(qint8, outputs, depth), W
    bias = torch.randn(outputs) if biased else None
    true = gelu64(x, x_qparams, weight, w_qparams, bias, how)
    scale = float(true.max() - true.min()) / (kind.levels - 1) + 1e-3
    y = QParams.per_tensor(scale, kind.quant_min + min(kind.levels - 1, int(0.2 / scale)), kind)
    for kernel in KERNELS:
        with ops.use(kernel):
            made = ops.linear_gelu(x, x_qparams, weight, w_qparams, bias, y, approximate=how)
        assert made.dtype == kind.storage
        found = (made.double() - y.zero_point_value) * scale
        ends = (made == y.quant_min) | (made == y.quant_max)
        assert ((found - true).abs() <= 0.51 * scale)[~ends].all(), kernel


@pytest.mark.parametrize("how", ["none", "tanh"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gelu_between_kernels_differs_by_a_step_on_few(kernel: str, how: str):
    torch.manual_seed(0)
    x, weight, bias = codes(quint8, 200, 96), codes(qint8, 256, 96), torch.randn(256)
    arguments = x, X, weight, per_channel(256), bias, QParams.per_tensor(0.05, 9, quint8)
    with ops.use("reference"):
        wanted = ops.linear_gelu(*arguments, approximate=how)
    with ops.use(kernel):
        found = ops.linear_gelu(*arguments, approximate=how)
    difference = (found.int() - wanted.int()).abs()
    assert difference.max() <= 1 and difference.count_nonzero() < found.numel() / 1000
    other = ops.linear_gelu(*arguments, approximate="tanh" if how == "none" else "none")
    assert not torch.equal(found, other), "the approximation makes no difference"


def test_gelu_of_a_packed_layer_and_of_real_outputs():
    torch.manual_seed(0)
    x, weight = codes(quint8, 3, 8), codes(qint8, 5, 8)
    packed = ops.PackedWeight()
    for y in (Y, None):
        wanted = ops.linear_gelu(x, X, weight, W, None, y)
        for _ in range(2):
            assert torch.equal(ops.linear_gelu(x, X, weight, W, None, y, packed=packed), wanted)
    assert wanted.dtype == torch.float32
    torch.testing.assert_close(wanted, F.gelu(ops.linear(x, X, weight, W, None, None)))


def test_unknown_approximations_and_misfits_are_refused():
    x, weight = codes(quint8, 3, 8), codes(qint8, 5, 8)
    with pytest.raises(UnknownNameError, match="linear_gelu approximation"):
        ops.linear_gelu(x, X, weight, W, None, Y, approximate="erf")
    with pytest.raises(ShapeError, match="linear_gelu: the input does not fit the weight"):
        ops.linear_gelu(x[:, :3], X, weight, W, None, Y)
