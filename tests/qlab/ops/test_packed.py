"""The cache of packed weights is right whatever changes, and is never copied."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.errors import DTypeError, NonFiniteError, ShapeError
from qlab.ops import contractions
from qlab.ops.packed import SHAPES
from qlab.qparams import QParams
from tests.qlab.ops.examples import W, X, Y, codes

IMAGE = codes(quint8, 1, 4, 9, 9)
KERNEL = codes(qint8, 6, 4, 3, 3)


def test_a_packed_weight_is_rebuilt_when_the_weight_changes() -> None:
    weight, packed = KERNEL.clone(), ops.PackedWeight()

    def run() -> torch.Tensor:
        return ops.conv2d(IMAGE, X, weight, W, None, Y, packed=packed)

    first = run()
    weight.neg_()
    assert torch.equal(run(), ops.conv2d(IMAGE, X, weight, W, None, Y))
    weight = KERNEL.clone()
    assert torch.equal(run(), first)


def test_another_view_of_the_same_memory_is_another_weight() -> None:
    packed, turned = ops.PackedWeight(), KERNEL.transpose(2, 3)
    ops.conv2d(IMAGE, X, KERNEL, W, None, Y, packed=packed)
    y = ops.conv2d(IMAGE, X, turned, W, None, Y, packed=packed)
    with ops.use("reference"):
        assert torch.equal(y, ops.conv2d(IMAGE, X, turned, W, None, Y))


def test_a_transposed_weight_is_packed_as_it_reads() -> None:
    x, weight = codes(quint8, 3, 8), codes(qint8, 8, 6).T
    y = ops.linear(x, X, weight, W, None, Y, packed=ops.PackedWeight())
    with ops.use("reference"):
        assert torch.equal(y, ops.linear(x, X, weight, W, None, Y))


def pickled(packed: ops.PackedWeight) -> ops.PackedWeight:
    return pickle.loads(pickle.dumps(packed))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_copies_of_a_packed_weight_are_empty(duplicate) -> None:
    packed = ops.PackedWeight()
    ops.conv2d(IMAGE, X, KERNEL, W, None, Y, packed=packed)
    assert "empty" not in repr(packed)
    assert repr(duplicate(packed)) == "PackedWeight(empty)"
    packed.clear()
    assert repr(packed) == "PackedWeight(empty)"


def test_one_packed_weight_serves_changing_shapes_and_parameters() -> None:
    packed = ops.PackedWeight()
    for size in (9, 5, 7):
        for zero_point in (0, 200):
            x = codes(quint8, 2, 4, size, size)
            x_qparams = QParams.per_tensor(0.02, zero_point, quint8)
            y = ops.conv2d(x, x_qparams, KERNEL, W, None, Y, padding=1, packed=packed)
            assert torch.equal(y, ops.conv2d(x, x_qparams, KERNEL, W, None, Y, padding=1))


def test_a_packed_layer_is_checked_anew_when_its_bias_changes() -> None:
    packed, bias = ops.PackedWeight(), torch.zeros(6)
    ops.conv2d(IMAGE, X, KERNEL, W, bias, Y, packed=packed)
    bias[2] = torch.nan
    with pytest.raises(NonFiniteError, match="the bias must be finite"):
        ops.conv2d(IMAGE, X, KERNEL, W, bias, Y, packed=packed)


def test_a_packed_layer_notices_every_change_of_the_call() -> None:
    """Each call differs from the one before in one respect; none is answered by its memory."""
    packed = ops.PackedWeight()
    call: dict[str, Any] = {"x": IMAGE, "x_qparams": X, "y_qparams": Y, "stride": [1, 1]}
    changes: list[dict[str, Any]] = [
        {"relu": True},
        {"stride": [1, 2]},
        {"dilation": 2},
        {"padding": 1},
        {"y_qparams": None},
        {"x": IMAGE[:, :, 1:]},
        {"padding_mode": "reflect"},
        {"x_qparams": QParams.per_tensor(0.01, 3, quint8)},
        {"bias": torch.ones(6)},
        {"x": IMAGE.view(torch.int8), "x_qparams": QParams.per_tensor(0.01, 3, qint8)},
    ]
    for change in changes:
        call |= change
        arguments = (call["x"], call["x_qparams"], KERNEL, W, call.get("bias"), call["y_qparams"])
        names = call.keys() - {"x", "x_qparams", "y_qparams", "bias"}
        options = {name: call[name] for name in names}
        for _ in range(2):
            y = ops.conv2d(*arguments, **options, packed=packed)
            assert torch.equal(y, ops.conv2d(*arguments, **options)), change


def test_a_list_of_strides_may_be_changed_in_place() -> None:
    packed, stride = ops.PackedWeight(), [1, 1]
    for step in (1, 2, 3):
        stride[0] = step
        y = ops.conv2d(IMAGE, X, KERNEL, W, None, Y, stride=stride, packed=packed)
        assert y.shape[2] == (9 - 3) // step + 1


def test_a_packed_layer_follows_the_forced_kernel() -> None:
    packed = ops.PackedWeight()
    ops.reset_counts()
    for name in ("reference", "simulated", "reference"):
        with ops.use(name):
            ops.conv2d(IMAGE, X, KERNEL, W, None, Y, packed=packed)
    assert ops.counts() == {("conv2d", "reference"): 2, ("conv2d", "simulated"): 1}


def test_a_packed_layer_checks_each_new_input() -> None:
    packed = ops.PackedWeight()
    ops.conv2d(IMAGE, X, KERNEL, W, None, Y, packed=packed)
    with pytest.raises(DTypeError, match="the input does not hold codes"):
        ops.conv2d(IMAGE.float(), X, KERNEL, W, None, Y, packed=packed)
    with pytest.raises(ShapeError, match="channels, weight and groups"):
        ops.conv2d(IMAGE[:, :3], X, KERNEL, W, None, Y, packed=packed)


def test_nothing_of_a_packed_layer_outlives_it() -> None:
    weight, packed = KERNEL.clone(), ops.PackedWeight()
    ops.conv2d(IMAGE, X, weight, W, None, Y, packed=packed)
    alive = weakref.ref(weight)
    gc.disable()
    try:
        del weight, packed
        assert alive() is None
    finally:
        gc.enable()


def test_weights_made_in_inference_mode_can_be_packed() -> None:
    with torch.inference_mode():
        weight, packed = KERNEL.clone(), ops.PackedWeight()
        first = ops.conv2d(IMAGE, X, weight, W, None, Y, packed=packed)
        assert torch.equal(first, ops.conv2d(IMAGE, X, weight, W, None, Y, packed=packed))


def test_shapes_that_alternate_are_bound_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    bound, binds = [], contractions._bound
    monkeypatch.setattr(contractions, "_bound", lambda *a: bound.append(a) or binds(*a))
    packed, images = ops.PackedWeight(), [codes(quint8, 1, 4, n, 9) for n in (3, 5, 7, 9, 11)]

    def run(x: torch.Tensor) -> None:
        y = ops.conv2d(x, X, KERNEL, W, None, Y, packed=packed)
        assert torch.equal(y, ops.conv2d(x, X, KERNEL, W, None, Y))

    for _ in range(3):
        for x in images[:SHAPES]:
            run(x)
    assert len(bound) == SHAPES
    run(images[0])  # now the second is the one used longest ago
    run(images[4])
    run(images[0])
    assert len(bound) == SHAPES + 1
    run(images[1])
    assert len(bound) == SHAPES + 2


def test_no_shape_of_a_former_call_is_kept() -> None:
    packed, weight = ops.PackedWeight(), KERNEL.clone()
    for size in (5, 7, 9):
        ops.conv2d(codes(quint8, 1, 4, size, size), X, weight, W, None, Y, packed=packed)
    assert len(packed._entries["bound"].values) == 3
    weight.neg_()
    ops.conv2d(IMAGE, X, weight, W, None, Y, packed=packed)
    assert len(packed._entries["bound"].values) == 1


def test_threads_that_share_a_layer_get_their_own_shapes() -> None:
    packed, images = ops.PackedWeight(), [codes(quint8, 1, 4, n, 9) for n in range(3, 9)]
    wanted = [ops.conv2d(x, X, KERNEL, W, None, Y) for x in images]

    def run(index: int) -> bool:
        y = ops.conv2d(images[index], X, KERNEL, W, None, Y, packed=packed)
        return torch.equal(y, wanted[index])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, [index % 6 for index in range(120)]))
