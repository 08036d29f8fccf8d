import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import qlab
from qlab import ops
from qlab.dtypes import float8_e4m3fn, integer, qint8, qint32, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    NonFiniteError,
    OperandError,
    QlabError,
    ShapeError,
    UnsupportedError,
)
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import QParams, fake_quantize, quantize
from qlab.qtensor import QTensor
from qlab.qtensor.tensor import KERNELS


def per_tensor(shape=(2, 3, 4), scale=0.1, zero_point=10, dtype=quint8):
    return qlab.quantize_per_tensor(torch.randn(shape), scale, zero_point, dtype)


def halves(values):
    return qlab.quantize_per_tensor(torch.tensor(values), 0.5, 0, quint8)


def per_channel(axis=0):
    x = torch.randn(4, 3, 2, 2)
    channels = x.shape[axis]
    scales, zero_points = torch.rand(channels) / 10 + 0.01, torch.arange(channels) - 1
    return qlab.quantize_per_channel(x, scales, zero_points, axis, qint8)


MOVES = {
    "view": lambda x: x.view(x.shape[0], -1),
    "reshape": lambda x: x.reshape(1, *x.shape),
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.permute(1, 2, 0, *range(3, x.dim())),
    "transpose": lambda x: x.transpose(0, 1),
    "contiguous": lambda x: x.transpose(0, 1).contiguous(),
    "select channel": lambda x: x[1],
    "select other axis": lambda x: x[:, 1],
    "slice": lambda x: x[1:, ::2],
    "slice to one": lambda x: x[1:2],
    "ellipsis": lambda x: x[..., 0],
    "indices": lambda x: x[torch.tensor([1, 0, 1])],
    "index_select": lambda x: x.index_select(0, torch.tensor([1, 0])),
    "expand": lambda x: x[None].expand(3, *x.shape),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "flip": lambda x: x.flip(0),
    "repeat": lambda x: x.repeat(1, 2, *[1] * (x.dim() - 2)),
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "to": lambda x: x.to("cpu", copy=True),
    "chunk": lambda x: x.chunk(2, 0)[1],
    "split": lambda x: x.split([1, x.shape[0] - 1])[1],
    "unbind": lambda x: x.unbind(1)[0],
}


@pytest.mark.parametrize("make", [per_tensor, per_channel], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moving_codes_moves_the_values_they_stand_for(move, make):
    q = make()
    moved = move(q)
    assert isinstance(moved, QTensor)
    assert torch.equal(moved.dequantize(), move(q.dequantize()))
    assert tuple(moved.shape) == tuple(moved.codes.shape)


@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    data=st.data(),
)
def test_channel_scales_follow_any_permutation_and_slice(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    start = data.draw(st.integers(0, shape[axis] - 1))
    scales = torch.rand(shape[axis]) + 0.01
    q = qlab.quantize_per_channel(
        torch.randn(shape), scales, torch.zeros(shape[axis], dtype=torch.int32), axis, qint8
    )
    real = q.dequantize()
    index = (slice(None),) * axis + (slice(start, None),)
    assert torch.equal(q[index].permute(order).dequantize(), real[index].permute(order))
    assert torch.equal(q.select(axis, start).dequantize(), real.select(axis, start))


def test_the_axis_of_the_channels_is_followed():
    q = per_channel(axis=1)
    assert q.q_per_channel_axis() == 1
    assert q.permute(1, 0, 2, 3).qparams.granularity == PerAxis(0)
    assert q[0].qparams.granularity == PerAxis(0)
    assert q[:, 0].qparams.granularity == PerTensor()
    assert q[:, :1].qparams.granularity == PerAxis(1)
    assert q[:, 1:].q_per_channel_scales().tolist() == q.q_per_channel_scales()[1:].tolist()


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (lambda q: q.flatten(), r"merge the channels .* with another axis"),
        (lambda q: q.reshape(2, 2, -1), r"spread the channels .* over several axes"),
        (lambda q: q[4:], "leaves no element"),
        (lambda q: q.as_strided((2, 2), (1, 1)), "as_strided needs one scale"),
        (lambda q: q.max(), "max needs one scale"),
        (lambda q: torch.cat([q, q]), "cat needs one scale"),
        (lambda q: q.q_scale(), r"q_scale\(\) asks for the one scale"),
    ],
    ids=["flatten", "split axis", "empty", "as_strided", "max", "cat", "q_scale"],
)
def test_what_channels_do_not_allow_is_refused(move, message):
    with pytest.raises(UnsupportedError, match=message):
        move(per_channel())


def test_groups_are_not_torn_apart():
    qparams = QParams(
        torch.full((2, 2), 0.1), torch.zeros(2, 2, dtype=torch.int32), qint8, PerGroup(4)
    )
    q = QTensor(torch.zeros(2, 8, dtype=torch.int8), qparams)
    assert torch.equal(q.clone().codes, q.codes)
    with pytest.raises(UnsupportedError, match="tear groups apart"):
        q.t()
    with pytest.raises(UnsupportedError, match=r"qscheme\(\) has no name"):
        q.qscheme()
    with pytest.raises(UnsupportedError, match=r"q_per_channel_axis\(\) asks for"):
        q.q_per_channel_axis()


@pytest.mark.parametrize("dtype", [quint8, qint8, integer(4, signed=True), float8_e4m3fn])
def test_order_is_that_of_the_values(dtype):
    q = qlab.quantize_per_tensor(torch.randn(2, 3, 4, 6) * 2, 0.3, 0, dtype)
    real = q.dequantize()
    assert torch.equal(q.max().dequantize(), real.max())
    assert torch.equal(q.min(1)[0].dequantize(), real.min(1)[0])
    assert torch.equal(q.amax((0, 1)).dequantize(), real.amax((0, 1)))
    values, indices = q.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(values.dequantize(), real.sort(dim=-1, descending=True)[0])
    assert torch.equal(real.gather(-1, indices), values.dequantize())
    values, indices = q.topk(3)
    assert torch.equal(values.dequantize(), real.topk(3)[0])
    assert torch.equal(real.gather(-1, indices), values.dequantize())
    assert real.flatten()[q.argmax()] == real.max()
    pooled, where = F.max_pool2d(q, 2, return_indices=True)
    assert torch.equal(pooled.dequantize(), F.max_pool2d(real, 2))
    assert torch.equal(real.flatten(2).gather(2, where.flatten(2)), pooled.dequantize().flatten(2))


@pytest.mark.parametrize("compare", [torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge])
def test_comparisons_are_of_values(compare):
    a, b = per_tensor(), per_tensor(scale=0.05, zero_point=100)
    assert torch.equal(compare(a, b), compare(a.dequantize(), b.dequantize()))
    assert torch.equal(compare(a, 0.3), compare(a.dequantize(), 0.3))
    assert torch.equal(compare(torch.zeros(4), a), compare(torch.zeros(4), a.dequantize()))


def test_equal_asks_for_codes_and_parameters():
    q = per_tensor()
    assert torch.equal(q, q.clone())
    assert not torch.equal(q, QTensor(q.codes, QParams.per_tensor(0.2, 10, quint8)))
    assert not torch.equal(q, q.flip(0))
    assert not torch.equal(q, q.dequantize())
    assert torch.allclose(q, q.dequantize())


def test_mean_is_quantized_with_the_same_scale():
    q = per_tensor((2, 3, 5, 5))
    mean = q.mean((2, 3))
    assert mean.qparams is q.qparams
    assert (mean.dequantize() - q.dequantize().mean((2, 3))).abs().max() <= q.q_scale() / 2 + 1e-6
    assert torch.equal(F.adaptive_avg_pool2d(q, 1).flatten(1).codes, mean.codes)


CLAMPS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp min": lambda x: x.clamp(min=0.1),
    "clamp max": lambda x: torch.clamp_max(x, 0.1),
    "max_pool1d": lambda x: F.max_pool1d(x[0], 2),
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "dropout": lambda x: F.dropout(x, training=False),
}
VALUES = {
    "mean": lambda x: x.mean((2, 3)),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool3d": lambda x: F.avg_pool3d(x, 2),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x[0], 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "bilinear": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=False),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "elu": F.elu,
    "threshold": lambda x: F.threshold(x, 0.2, 0.1),
    "masked_fill": lambda x: x.masked_fill(torch.arange(6) > 2, 0.33),
}


@pytest.mark.parametrize("dtype", [quint8, qint8, float8_e4m3fn])
@pytest.mark.parametrize("function", CLAMPS.values(), ids=CLAMPS)
def test_functions_that_select_values_are_exact(function, dtype):
    q = qlab.quantize_per_tensor(torch.randn(2, 3, 4, 6), 0.1, 0, dtype)
    selected = function(q)
    assert selected.qparams.same_as(q.qparams)
    bounded = function(q.dequantize())
    assert torch.equal(selected.dequantize(), fake_quantize(bounded, q.qparams))


@pytest.mark.parametrize("dtype", [quint8, qint8])
@pytest.mark.parametrize("function", VALUES.values(), ids=VALUES)
def test_functions_of_values_keep_the_scale_and_are_half_a_step_off(function, dtype):
    q = qlab.quantize_per_tensor(torch.randn(2, 3, 4, 6), 0.05, 60, dtype)
    result = function(q)
    assert result.qparams.same_as(q.qparams)
    assert (result.dequantize() - function(q.dequantize())).abs().max() <= 0.05 / 2 + 1e-5


@pytest.mark.parametrize(
    ("function", "dtype", "expected"),
    [
        (torch.sigmoid, quint8, (1 / 256, 0)),
        (torch.sigmoid, qint8, (1 / 256, -128)),
        (F.hardsigmoid, quint8, (1 / 256, 0)),
        (torch.tanh, quint8, (2 / 256, 128)),
        (torch.tanh, qint8, (2 / 256, 0)),
        (torch.tanh, integer(4, signed=False), (2 / 16, 8)),
    ],
)
def test_functions_with_a_fixed_range_have_fixed_parameters(function, dtype, expected):
    q = qlab.quantize_per_tensor(torch.randn(3, 4), 0.1, 3, dtype)
    result = function(q)
    assert (result.q_scale(), result.q_zero_point()) == expected
    exact = function(q.dequantize())
    assert (result.dequantize() - exact).abs().max() <= result.q_scale() + 1e-6


def test_in_place_functions_change_the_tensor_and_its_views():
    q = per_tensor((2, 3))
    view, real = q.view(-1), q.dequantize()
    assert F.relu(q, inplace=True) is q
    assert torch.equal(q.dequantize(), real.relu())
    assert torch.equal(view.dequantize(), real.relu().view(-1))
    q.clamp_(max=0.2)
    assert q.max().item() <= 0.2 + 1e-6


def test_functions_refuse_channels_and_tensors_as_bounds():
    with pytest.raises(UnsupportedError, match="relu needs one scale"):
        F.relu(per_channel())
    with pytest.raises(UnsupportedError, match="clamp of a quantized tensor takes numbers"):
        per_tensor().clamp(torch.zeros(4))
    with pytest.raises(UnsupportedError, match="no fixed scale in float8"):
        torch.sigmoid(per_tensor(zero_point=0, dtype=float8_e4m3fn))


def test_joining_requantizes_to_the_first():
    a, b = per_tensor(), per_tensor(scale=0.05, zero_point=100)
    joined = torch.cat([a, b, a], dim=1)
    assert joined.qparams is a.qparams
    assert torch.equal(joined[:, :3].codes, a.codes)
    assert torch.equal(joined[:, 3:6].codes, quantize(b.dequantize(), a.qparams))
    assert torch.equal(torch.stack([a, a])[1].codes, a.codes)


def test_copy_from_float_quantizes_in_place():
    q = per_tensor()
    x = torch.randn(3, 4)
    assert q.copy_(x) is q
    expected = quantize(x, q.qparams).expand(2, 3, 4)
    assert torch.equal(q.codes, expected)


def test_copy_from_quantized_takes_the_parameters_over():
    q, source = per_tensor(), per_tensor(scale=0.05, zero_point=100)
    q.copy_(source)
    assert torch.equal(q, source)
    assert q.codes is not source.codes


def test_copy_into_a_view_keeps_the_parameters_of_the_whole():
    q, source = per_tensor(), per_tensor((3, 4), scale=0.05, zero_point=100)
    before = q.clone()
    q[0] = source
    assert q.qparams is before.qparams
    assert torch.equal(q[1], before[1])
    assert torch.equal(q[0].codes, quantize(source.dequantize(), q.qparams))


def test_assignment_quantizes():
    q = per_tensor()
    q[0, 0] = 0.52
    q[1][q[1] > 0] = -0.5
    q[1, 1, 1:] = 0
    assert torch.allclose(q[0, 0], torch.full((4,), 0.5))
    assert q[1].max() <= 0
    assert q[1, 1, 1:].tolist() == [0.0, 0.0, 0.0]


def test_padding_pads_with_the_code_of_the_value():
    q = per_tensor()
    assert torch.equal(F.pad(q, (1, 2)).dequantize(), F.pad(q.dequantize(), (1, 2)))
    assert F.pad(q, (1, 0), value=-0.3)[0, 0, 0].item() == pytest.approx(-0.3)


def test_resize_keeps_shape_and_codes_together():
    q = qlab.quantize_per_tensor(torch.arange(6.0).reshape(2, 3), 1.0, 0, quint8)
    assert q.resize_(2, 2) is q
    assert q.shape == q.codes.shape == (2, 2)
    assert q.dequantize().tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_data_is_replaced_as_a_whole():
    q, other = per_tensor(), per_tensor((5,), scale=0.5)
    q.data = other
    assert torch.equal(q, other)
    assert q.shape == (5,)
    with pytest.raises(DTypeError, match="data of a quantized tensor is a quantized tensor"):
        q.data = torch.zeros(5)


def test_reading_out():
    q = qlab.quantize_per_tensor(torch.tensor([[0.5, 1.0]]), 0.5, 3, qint8)
    assert (q.q_scale(), q.q_zero_point()) == (0.5, 3)
    assert q.qscheme() is qlab.per_tensor_affine
    assert (q.dtype, q.qdtype, q.is_quantized) == (qint8, qint8, True)
    assert q.int_repr().tolist() == [[4, 5]]
    assert q.tolist() == [[0.5, 1.0]]
    assert q[0, 1].item() == 1.0
    assert bool(q[0, 1])
    assert torch.equal(torch.dequantize(q), q.dequantize())
    assert torch.equal(torch.int_repr(q), q.int_repr())
    q.int_repr().fill_(0)
    assert q.tolist() == [[0.5, 1.0]]


def test_reading_channels():
    q = per_channel(axis=-3)
    assert q.qscheme() is qlab.per_channel_affine
    assert q.q_per_channel_axis() == 1
    assert q.q_per_channel_scales().dtype == torch.float64
    assert q.q_per_channel_zero_points().tolist() == [-1, 0, 1]


def test_repr_shows_values_and_parameters():
    q = qlab.quantize_per_tensor(torch.tensor([[[-1.0]], [[0.5]]]), 0.1, 2, quint8)
    values = "[[[-0.2000]],\n\n         [[ 0.5000]]]"
    assert repr(q) == f"QTensor({values}, dtype=qlab.quint8, scale=0.1, zero_point=2)"
    assert "granularity=PerAxis(axis=0)" in repr(per_channel())


@pytest.mark.parametrize("make", [per_tensor, per_channel], ids=["per tensor", "per channel"])
def test_saving_and_loading_runs_no_code(make):
    q = make()
    file = io.BytesIO()
    torch.save({"q": q}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["q"]
    assert torch.equal(loaded, q)
    assert loaded.qparams.granularity == q.qparams.granularity


def test_modules_hold_and_move_quantized_tensors():
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(per_tensor(), requires_grad=False)
    module.register_buffer("state", per_channel())
    moved = copy.deepcopy(module).to("cpu")
    assert torch.equal(moved.weight.dequantize(), module.weight.dequantize())
    assert torch.equal(moved.get_buffer("state"), module.get_buffer("state"))


def test_deepcopy_shares_nothing():
    q = per_tensor()
    twin = copy.deepcopy(q)
    twin[:] = 0.0
    assert torch.equal(twin.qparams.scale, q.qparams.scale)
    assert not torch.equal(twin, q)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda q: q + 1, "add"),
        (lambda q: torch.ones(4) * q, "mul"),
        (lambda q: -q, "neg"),
        (lambda q: F.linear(q, torch.randn(2, 4)), "linear"),
        (lambda q: F.conv1d(q, torch.randn(2, 3, 1)), "conv1d"),
        (lambda q: q @ q.transpose(1, 2), "matmul"),
        (lambda q: q.softmax(-1), "softmax"),
        (lambda q: q.add_(q), "add_"),
        (lambda q: torch.rand_like(q), "rand_like"),
    ],
    ids=["add", "mul", "neg", "linear", "conv1d", "matmul", "softmax", "add_", "rand_like"],
)
def test_other_operations_are_refused_by_name(operation, name):
    with pytest.raises(UnsupportedError, match=rf"^{name} is not supported.*\.dequantize\(\)"):
        operation(per_tensor())


def test_casts_gradients_and_plain_targets_are_refused():
    q = per_tensor()
    with pytest.raises(UnsupportedError, match="cannot be cast"):
        q.half()
    with pytest.raises(UnsupportedError, match="has no gradient"):
        q.requires_grad_()
    assert not q.requires_grad_(False).requires_grad
    with pytest.raises(UnsupportedError, match="copy_ of a plain and a quantized tensor"):
        torch.zeros(2, 3, 4).copy_(q)
    with pytest.raises(DTypeError, match="copy_ between different quantized types"):
        q.copy_(per_tensor(dtype=qint8))


def test_construction_checks_storage_and_shape():
    with pytest.raises(DTypeError, match="not stored as qint8"):
        QTensor(torch.zeros(3, dtype=torch.uint8), QParams.per_tensor(1.0, 0, qint8))
    qparams = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), qint8, PerAxis(0))
    with pytest.raises(ShapeError, match="scale does not fit"):
        QTensor(torch.zeros(3, dtype=torch.int8), qparams)


def test_quantizing_checks_its_arguments():
    x = torch.randn(3)
    with pytest.raises(ArgumentError, match="scale must be positive"):
        qlab.quantize_per_tensor(x, 0.0, 0, quint8)
    with pytest.raises(ArgumentError, match="zero point must be a code"):
        qlab.quantize_per_tensor(x, 1.0, -1, quint8)
    with pytest.raises(DTypeError, match="Not a quantized data type"):
        qlab.quantize_per_tensor(x, 1.0, 0, torch.float64)
    with pytest.raises(DTypeError, match="takes real numbers"):
        qlab.quantize_per_tensor(x.int(), 1.0, 0, quint8)
    with pytest.raises(ArgumentError, match="zero point must be a code"):
        qlab.quantize_per_channel(x, torch.ones(3), torch.full((3,), -1), 0, quint8)
    with pytest.raises(NonFiniteError, match="zero point must be finite"):
        qlab.quantize_per_channel(x, torch.ones(3), torch.full((3,), torch.inf), 0, quint8)
    with pytest.raises(ArgumentError, match="scale must be positive"):
        qlab.quantize_per_channel(x, -torch.ones(3), torch.zeros(3), 0, quint8)
    with pytest.raises(ShapeError, match="no axis 1"):
        qlab.quantize_per_channel(x, torch.ones(3), torch.zeros(3), 1, quint8)


def test_lists_are_quantized_one_by_one():
    tensors = [torch.randn(2), torch.randn(3)]
    both = qlab.quantize_per_tensor(tensors, torch.tensor([0.1, 0.2]), torch.tensor([0, 5]), quint8)
    assert [q.q_zero_point() for q in both] == [0, 5]
    real = qlab.dequantize(both)
    assert torch.equal(real[1], fake_quantize(tensors[1], both[1].qparams))
    with pytest.raises(ShapeError, match="one scale and one zero point"):
        qlab.quantize_per_tensor(tensors, torch.tensor([0.1]), torch.tensor([0, 5]), quint8)


def test_dequantize_passes_real_numbers_and_refuses_bare_codes():
    assert qlab.dequantize(torch.ones(2, dtype=torch.float16)).dtype == torch.float32
    with pytest.raises(DTypeError, match="plain integer tensor has no scale"):
        qlab.dequantize(torch.ones(2, dtype=torch.uint8))


def test_wide_codes_stay_exact():
    q = qlab.quantize_per_tensor(torch.tensor([2.0**30, -3.0]), 1.0, 0, qint32)
    assert q.int_repr().tolist() == [2**30, -3]
    assert q.max().int_repr().item() == 2**30


def test_the_operator_table_can_be_read():
    names = qlab.qtensor.supported_operations()
    assert names == tuple(sorted(names))
    assert {"aten.view", "aten.cat", "aten.topk"} <= set(names)
    assert "aten.add" not in names


def test_pooling_a_channels_last_tensor_to_one_pixel():
    codes = torch.randint(0, 255, (2, 3, 4, 4), dtype=torch.uint8)
    qparams = QParams.per_tensor(0.1, 7, quint8)
    pooled = F.adaptive_avg_pool2d(
        QTensor(codes.contiguous(memory_format=torch.channels_last), qparams), 1
    )
    assert torch.equal(pooled.codes, ops.adaptive_avg_pool2d(codes, qparams, 1))


def test_what_is_no_tensor_is_refused():
    with pytest.raises(DTypeError, match=r"dequantize: not a tensor.*NoneType"):
        qlab.dequantize(None)
    with pytest.raises(DTypeError, match=r"the scales are no tensor.*list"):
        qlab.quantize_per_channel(torch.zeros(2, 3), [0.1, 0.2], torch.zeros(2), 0, qlab.qint8)


def test_dynamic_quantization_covers_the_range_of_its_input():
    x = torch.tensor([-1.0, 0.5, 3.0])
    for dtype, reduce_range, steps in (("quint8", False, 255), ("qint8", True, 127)):
        q = qlab.quantize_per_tensor_dynamic(x, dtype, reduce_range)
        assert q.q_scale() == pytest.approx(4 / steps)
        torch.testing.assert_close(q.dequantize(), x, rtol=0, atol=0.5 * 4 / steps + 1e-6)
        assert int(q.int_repr().max()) - int(q.int_repr().min()) == steps
    half = qlab.quantize_per_tensor_dynamic(x, torch.float16, True)
    assert half.dtype == torch.float16 and torch.equal(half.float(), x)
    with pytest.raises(DTypeError, match="dynamic quantization"):
        qlab.quantize_per_tensor_dynamic(torch.tensor([1, 2]), qlab.quint8, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: q.view(7), r"^view: PyTorch refuses.*\(2, 3\); shape '\[7\]' is invalid"),
        (lambda q: q.reshape(5, 5), r"^reshape: .*invalid for input of size 6"),
        (lambda q: q[5], r"^__getitem__: .*index 5 is out of bounds"),
        (lambda q: q.__setitem__(9, 1.0), r"^__setitem__: .*index 9 is out of bounds"),
        (lambda q: q.copy_(torch.ones(5)), r"^copy_: .*expanded size of the tensor \(3\)"),
        (lambda q: q.as_strided((9, 9), (9, 1)), r"^as_strided: .*out of bounds for storage"),
        (lambda q: q.as_strided((2,), (-1,)), r"^as_strided: .*Negative strides"),
        (lambda q: q.resize_(-3), r"^resize_: .*overflow"),
        (lambda q: q.topk(100), r"^topk: .*k out of range"),
        (lambda q: q.sort(dim=9), r"^sort: .*Dimension out of range"),
        (lambda q: q.mean(dim=9), r"^mean: .*Dimension out of range"),
        (lambda q: q.expand(4), r"^expand: .*number of sizes provided"),
        (lambda q: q == torch.ones(7), r"^__eq__: .*must match the size"),
        (lambda q: q.to("nope"), r"^to: .*device"),
        (lambda q: q.select(0, 2**70), r"^select: .*Overflow"),
    ],
)
def test_arguments_that_no_tensor_takes_are_refused_in_words(call, message):
    q = halves([[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]])
    before = copy.deepcopy(q)
    with pytest.raises(OperandError, match=message):
        call(q)
    assert q.equal(before) and q.shape == before.shape


def test_what_does_not_compare_is_a_type_error_as_python_wants_it():
    q = halves([0.5])
    assert (q == "a") is False
    with pytest.raises(TypeError, match="not supported between"):
        q < None  # noqa: B015
    with pytest.raises(DTypeError, match=r"^__setitem__: .*can't assign a str"):
        q[0] = "a"


def test_what_is_no_refusal_of_arguments_stays_as_it_is(monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setitem(KERNELS, torch.ops.aten.mean, exhausted)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        halves([1.0]).mean()


def test_a_quantized_tensor_without_data_can_be_printed():
    meta = halves([[0.0, 0.5]]).to("meta")
    assert meta.shape == (1, 2) and meta.dtype is quint8
    assert repr(meta) == "QTensor(..., device='meta', size=(1, 2), dtype=qlab.quint8)"


def test_the_storage_is_not_exchanged_alone():
    q = halves([1.0])
    with pytest.raises(UnsupportedError, match=r"set_ is not supported.*q\.data = other"):
        q.set_(halves([2.0]))


X, S = torch.ones(2), torch.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qlab.quantize_per_tensor(None, 0.1, 0, quint8), r"input is no tensor.*NoneType"),
        (
            lambda: qlab.quantize_per_tensor([X, None], S, S, quint8),
            r"input is not a tensor.*NoneType",
        ),
        (lambda: qlab.quantize_per_tensor([X, X], "a", S, quint8), r"scales and zero points"),
        (lambda: qlab.quantize_per_tensor(X, None, 0, quint8), r"A scale is a number.*scale=None"),
        (lambda: qlab.quantize_per_tensor(X, 0.1, None, quint8), r"whole number.*zero_point=None"),
        (
            lambda: qlab.quantize_per_tensor(X, 0.1, 1.5, quint8),
            r"zero point must be a whole number",
        ),
        (lambda: qlab.quantize_per_tensor(X, torch.ones(3), 0, quint8), r"A scale is a number"),
        (
            lambda: qlab.quantize_per_tensor_dynamic(None, torch.float16, False),
            r"input is not a tensor.*NoneType",
        ),
        (lambda: qlab.dequantize("abc"), r"dequantize: not a tensor.*str"),
        (
            lambda: qlab._empty_affine_quantized(None, dtype=quint8),
            r"_empty_affine_quantized: .*tuple of ints",
        ),
        (
            lambda: qlab._make_per_tensor_quantized_tensor(None, 1.0, 0),
            r"_make_per_tensor_quantized_tensor: the input is not a tensor",
        ),
    ],
)
def test_makers_of_quantized_tensors_name_what_they_cannot_take(call, message):
    with pytest.raises(QlabError, match=message):
        call()
