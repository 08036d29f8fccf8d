"""Quantized data types: their codes, their storage, their names."""

import pytest
import torch

import qlab.dtypes
from qlab.dtypes import QDType, all_dtypes, as_qdtype, integer, qint8, qint32, quint8
from qlab.errors import ArgumentError, DTypeError, UnknownNameError

WIDTHS = [2, 3, 4, 5, 6, 7, 8, 16]


@pytest.mark.parametrize("bits", WIDTHS)
def test_integers_have_all_codes_of_their_width(bits: int):
    unsigned, signed = integer(bits, signed=False), integer(bits, signed=True)
    assert (unsigned.quant_min, unsigned.quant_max) == (0, 2**bits - 1)
    assert (signed.quant_min, signed.quant_max) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (unsigned.name, signed.name) == (f"quint{bits}", f"qint{bits}")
    for dtype in (unsigned, signed):
        assert dtype.levels == 2**bits
        assert not dtype.is_float
        assert as_qdtype(dtype.name) is dtype


@pytest.mark.parametrize("dtype", all_dtypes(), ids=repr)
def test_storage_holds_every_code(dtype: QDType):
    ends = torch.tensor([dtype.quant_min, dtype.quant_max], dtype=torch.float64)
    assert torch.equal(ends.to(dtype.storage).to(torch.float64), ends)


def test_known_values():
    assert (quint8.quant_min, quint8.quant_max, quint8.storage) == (0, 255, torch.uint8)
    assert (qint8.quant_min, qint8.quant_max, qint8.storage) == (-128, 127, torch.int8)
    assert (qint32.quant_min, qint32.quant_max) == (-(2**31), 2**31 - 1)
    assert repr(quint8) == "qlab.quint8"
    assert len({d.name for d in all_dtypes()}) == len(all_dtypes()) == 19


@pytest.mark.parametrize(("name", "largest"), [("float8_e4m3fn", 448), ("float8_e5m2", 57344)])
def test_float8_is_bounded_by_its_largest_value(name: str, largest: int):
    dtype = as_qdtype(name)
    assert dtype.is_float
    assert (dtype.quant_min, dtype.quant_max, dtype.levels) == (-largest, largest, 256)
    assert getattr(qlab.dtypes, name) is dtype


@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [
        (quint8, quint8),
        ("qint8", qint8),
        (torch.uint8, quint8),
        (torch.int8, qint8),
        (torch.int16, integer(16, signed=True)),
        (torch.int32, qint32),
        (torch.float8_e5m2, qlab.dtypes.float8_e5m2),
    ],
    ids=str,
)
def test_is_read_from_any_spelling(spelling, dtype: QDType):
    assert as_qdtype(spelling) is dtype


def test_unknown_spellings_are_refused():
    with pytest.raises(UnknownNameError, match=r"data type 'int4'.*Did you mean 'qint4'"):
        as_qdtype("int4")
    for other in (torch.float32, 8, None):
        with pytest.raises(DTypeError, match=r"Not a quantized data type.*Known: quint2"):
            as_qdtype(other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bits", "signed", "message"),
    [
        (1, True, r"No signed quantized integer has 1 bits.*or 32"),
        (32, False, "No unsigned quantized integer has 32 bits"),
        (9, False, "2, 3, 4, 5, 6, 7, 8 or 16 bits"),
    ],
)
def test_other_widths_are_refused(bits: int, signed: bool, message: str):
    with pytest.raises(ArgumentError, match=message):
        integer(bits, signed=signed)
