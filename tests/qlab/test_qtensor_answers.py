"""What code written for the reference asks of a quantized tensor: its type, size and storage."""

import copy
import io
import multiprocessing

import pytest
import torch
from torch import nn

import qlab
from qlab.dtypes import float8_e4m3fn, integer
from qlab.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from qlab.qtensor import QTensor


def made(dtype=qlab.quint8, zero_point=10):
    return qlab.quantize_per_tensor(torch.linspace(-1, 2, 12).reshape(3, 4), 0.1, zero_point, dtype)


@pytest.mark.parametrize(
    ("dtype", "size", "name", "signed"),
    [
        (qlab.quint8, 1, "qlab.QUInt8Tensor", False),
        (qlab.qint8, 1, "qlab.QInt8Tensor", True),
        (qlab.qint32, 4, "qlab.QInt32Tensor", True),
        (integer(4, signed=False), 1, "qlab.QUInt4Tensor", False),
    ],
    ids=["quint8", "qint8", "qint32", "quint4"],
)
def test_type_and_size_are_those_of_the_codes(dtype, size, name, signed):
    q = made(dtype, 3)
    assert q.dtype is dtype and q.dtype != torch.float32
    assert q.dtype in (qlab.quint8, qlab.qint8, qlab.qint32, qlab.quint4x2)
    assert (q.element_size(), q.itemsize, q.nbytes) == (size, size, 12 * size)
    assert q.type() == name and q.is_signed() is signed
    assert not q.is_floating_point() and not torch.is_floating_point(q)
    assert q.untyped_storage().nbytes() == 12 * size
    assert q.data_ptr() == q.codes.data_ptr() != 0
    assert str(q.dtype) in repr(q)


def test_only_float8_is_floating_point():
    assert made(float8_e4m3fn, 0).is_floating_point()


def test_views_share_the_storage_of_the_codes():
    q = made()
    row = q[1]
    assert row.data_ptr() == q.data_ptr() + 4
    assert row.untyped_storage().data_ptr() == q.untyped_storage().data_ptr()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_a_typed_storage_holds_the_codes():
    q = made()
    assert list(q.storage()) == q.int_repr().flatten().tolist()


def test_what_is_like_a_quantized_tensor_has_its_parameters():
    q = made()
    for like in (torch.empty_like, torch.zeros_like, lambda x: torch.full_like(x, 0.7)):
        assert like(q).qparams.same_as(q.qparams) and like(q).shape == q.shape
    assert torch.zeros_like(q).dequantize().eq(0).all()
    assert torch.full_like(q, 0.7).int_repr().eq(17).all()
    real = torch.zeros_like(q, dtype=torch.float32)
    assert not isinstance(real, QTensor) and real.dtype == torch.float32


@pytest.mark.parametrize(
    "cast",
    [
        lambda q: q.float(),
        lambda q: q.to(torch.float32),
        lambda q: q.to("cpu", torch.float64),
        lambda q: q.to(dtype=torch.float16),
        lambda q: q.to(torch.ones(1)),
        lambda q: q.to(other=torch.ones(1)),
        lambda q: q.to(qlab.qint8),
        lambda q: q.type(torch.float32),
        lambda q: q.half(),
        lambda q: q.long(),
    ],
    ids=[
        "float",
        "to",
        "device too",
        "keyword",
        "other",
        "other=",
        "qint8",
        "type",
        "half",
        "long",
    ],
)
def test_a_cast_is_refused_and_says_what_to_do(cast):
    with pytest.raises(UnsupportedError, match=r"cannot be cast to another dtype.*dequantize"):
        cast(made())


def test_to_moves_and_takes_its_own_type():
    q = made()
    for moved in (q.to("cpu"), q.to(qlab.quint8), q.to(made()), q.to("cpu", qlab.quint8, copy=True),
                  q.to(device="cpu", dtype=qlab.quint8), q.to(other=made())):  # fmt: skip
        assert isinstance(moved, QTensor) and torch.equal(moved, q)
    assert q.to(qlab.quint8) is q
    assert q.to("cpu", copy=True).data_ptr() != q.data_ptr()


def test_casting_a_module_leaves_quantized_tensors_alone():
    module = nn.Linear(2, 2)
    module.register_buffer("q", made())
    cast = copy.deepcopy(module).half()
    assert cast.weight.dtype == torch.float16 and torch.equal(cast.q, module.q)
    assert sum(v.numel() * v.element_size() for v in module.state_dict().values()) == 16 + 8 + 12


def test_a_single_element_is_formatted_as_its_number():
    q = made()
    assert f"{q.max():.2f}" == "2.00" and f"{q[0]}" == repr(q[0])
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{q:.2f}"


def test_the_type_survives_saving_copying_and_compiling():
    q = made()
    file = io.BytesIO()
    torch.save(q, file)
    file.seek(0)
    for twin in (copy.deepcopy(q), copy.copy(q), torch.load(file, weights_only=True)):
        assert twin.dtype is qlab.quint8

    def twice(x):
        return x.dequantize() * (2 if x.dtype == qlab.quint8 else 3)

    compiled = torch.compile(twice, backend="eager", fullgraph=False)
    assert torch.equal(compiled(q), twice(q))
    torch.testing.assert_close(q, q.clone())


def _doubled(q, pipe):
    q.codes.mul_(2)
    pipe.send(str(q.dtype))


def test_processes_share_codes():
    q = made().share_memory_()
    assert q.is_shared()
    before = q.int_repr()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=_doubled, args=(q, there))
    worker.start()
    assert here.recv() == "qlab.quint8"
    worker.join()
    assert torch.equal(q.int_repr(), before * 2)


def test_codes_at_hand_become_quantized_tensors():
    codes = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    q = qlab._make_per_tensor_quantized_tensor(codes, 0.5, 2)
    assert q.dtype is qlab.quint8 and q.dequantize().tolist()[0] == [-1.0, -0.5, 0.0]
    codes.zero_()
    assert q.int_repr().sum() == 15
    scales, zeros = torch.tensor([0.5, 2.0]), torch.tensor([0, 1])
    rows = qlab._make_per_channel_quantized_tensor(q.int_repr().char(), scales, zeros, 0)
    assert rows.dtype is qlab.qint8 and rows.dequantize().tolist()[1] == [4.0, 6.0, 8.0]
    empty = qlab._empty_affine_quantized([2, 3], scale=0.5, zero_point=2, dtype=qlab.quint8)
    assert empty.copy_(q).equal(q) and empty.shape == (2, 3)
    wide = qlab._empty_per_channel_affine_quantized(
        2, 3, scales=scales, zero_points=zeros.float(), axis=0, dtype=qlab.quint8
    )
    assert wide.qscheme() is qlab.per_channel_affine_float_qparams and wide.shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: qlab._make_per_tensor_quantized_tensor(torch.ones(2), 1.0, 0), DTypeError,
         "Not a quantized data type"),
        (lambda: qlab._make_per_tensor_quantized_tensor(torch.ones(2).byte(), 1.0, -1),
         ArgumentError, "zero point"),
        (lambda: qlab._empty_affine_quantized(2, scale=0.0, dtype=qlab.qint8), ArgumentError,
         "scale"),
        (lambda: qlab._make_per_channel_quantized_tensor(
            torch.ones(2, 2).byte(), torch.ones(3), torch.zeros(3), 0), ShapeError, "scale"),
    ],
    ids=["float codes", "zero point", "scale", "channels"],
)  # fmt: skip
def test_codes_that_do_not_fit_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
