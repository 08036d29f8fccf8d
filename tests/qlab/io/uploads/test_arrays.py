"""Calibration data from arrays, named tensors and images."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from qlab.errors import ArgumentError, FormatError, QlabError, ShapeError, UnsupportedError
from qlab.io.uploads import Limits, UploadedData
from qlab.io.uploads.arrays import collect, read_arrays
from tests.upload_files import npy, npz, pack, png

LIMITS = Limits()


def read(content: bytes, name: str = "data") -> UploadedData:
    return collect(*read_arrays(content, name, LIMITS))


@pytest.mark.parametrize("dtype", ["f4", ">f8", "<i4", "u1", ">u2", "?", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_layout(dtype: str, order: str) -> None:
    array = np.asarray(np.arange(24).reshape(4, 3, 2) % 2, dtype, order=order)
    data = read(npy(array))
    assert data.inputs["input"].tolist() == array.tolist()
    assert len(data) == 4 and data.labels is None


def test_named_arrays_with_labels_in_batches() -> None:
    x, y = np.random.rand(5, 2).astype("f4"), np.arange(5, dtype="i4")
    data = read(npz(images=x, labels=y))
    batches = data.batches(2, labelled=True)
    assert [len(b[0]) for b in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([b[1] for b in batches]), torch.arange(5))
    assert torch.equal(torch.cat(data.batches(3)), torch.from_numpy(x))


def test_several_inputs_are_batches_by_name() -> None:
    tensors = {"ids": torch.arange(4), "mask": torch.ones(4, 2), "label": torch.zeros(4).long()}
    data = read(safetensors.torch.save(tensors))
    assert [sorted(b) for b in data.batches(2)] == [["ids", "mask"]] * 2
    assert sorted(data.batches(2, labelled=True)[0]) == ["ids", "labels", "mask"]


def test_images_with_their_folders_as_classes() -> None:
    images = {
        f"{folder}/{index}.png": png(np.full((4, 6, 3), value, dtype=np.uint8))
        for folder, value in (("cat", 0), ("dog", 255))
        for index in range(2)
    }
    data = read(pack(images, ""))
    assert data.inputs["input"].shape == (4, 3, 4, 6) and data.inputs["input"].max() == 1
    assert data.labels is not None and data.labels.tolist() == [0, 0, 1, 1]
    assert data.classes == ("cat", "dog")
    grey = read(pack({"a.png": png(np.zeros((4, 6), dtype=np.uint8))}, ""))
    assert grey.inputs["input"].shape == (1, 1, 4, 6) and grey.labels is None


_HEADER = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (npy(np.zeros((0, 2))), ShapeError, "holds no samples"),
        (npy(np.float32(1)), ShapeError, "holds no samples"),
        (npz(a=np.zeros(2), b=np.zeros(3)), ShapeError, "different numbers of samples"),
        (npy(np.array([1.0, np.nan])), FormatError, "NaN or infinite"),
        (npy(np.zeros(2, "c8")), UnsupportedError, "a dtype that no model takes"),
        (npy(np.array(["a"])), UnsupportedError, "a dtype that no model takes"),
        (npy(np.zeros(4))[:-1], FormatError, "does not hold what its header says"),
        (_HEADER + b"{'descr': '<f4', 'shape': (2684354560,), 'fortran_order': False}".ljust(118),
         FormatError, "10737418240 bytes"),
        (_HEADER + b"{'descr': '<f4', 'shape': (-1,), 'fortran_order': False}".ljust(118),
         FormatError, "no valid shape"),
        (_HEADER + b"__import__('os').abort()".ljust(118), FormatError, "no readable header"),
        (_HEADER + b"{'descr': ('".ljust(118), FormatError, "no readable header"),
        (b"\x93NUMPY\x09\x00", FormatError, "no readable header"),
        (pack({"a.txt": b"x"}, ""), FormatError, "neither only arrays nor only images"),
        (pack({"a.png": b"x"}, ""), FormatError, "cannot be read"),
        (pack({"a.png": png(np.zeros((2, 2), "u1")), "b.png": png(np.zeros((3, 2), "u1"))}, ""),
         ShapeError, "different sizes"),
    ],
)  # fmt: skip
def test_data_that_is_none_is_refused(content: bytes, kind: type[QlabError], message: str) -> None:
    with pytest.raises(kind, match=message):
        read(content)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    content = pack({"a.png": png(np.zeros((100, 100), "u1"))}, "")
    with pytest.raises(FormatError, match=r"is too large.*Limits\(pixels"):
        read_arrays(content, "images.zip", Limits(pixels=9_999))
    with pytest.raises(FormatError, match="images take too much memory"):
        read_arrays(content, "images.zip", Limits(unpacked_bytes=30_000))


def test_batches_of_one_size_leave_the_rest_out() -> None:
    data = read(npy(np.zeros((5, 2))))
    assert [len(b) for b in data.batches(2, whole=True)] == [2, 2]
    with pytest.raises(ArgumentError, match=r"fewer samples than one batch.*6.*5"):
        data.batches(6, whole=True)


def test_batches_need_labels_and_a_size() -> None:
    data = read(npy(np.zeros(3)))
    with pytest.raises(ArgumentError, match="has no labels"):
        data.batches(labelled=True)
    with pytest.raises(ArgumentError, match="at least one sample"):
        data.batches(0)
