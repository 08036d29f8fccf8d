import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.dtypes import integer
from qlab.errors import FormatError
from qlab.io.packing import is_packed, pack, unpack


@given(
    bits=st.integers(2, 7),
    signed=st.booleans(),
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple),
    seed=st.integers(0, 1000),
)
def test_packed_codes_come_back(bits, signed, shape, seed):
    dtype = integer(bits, signed=signed)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(dtype.quant_min, dtype.quant_max + 1, shape, generator=generator)
    codes = codes.to(dtype.storage)
    packed = pack(codes, dtype)
    assert packed.numel() == -(-codes.numel() * bits // 8)
    assert torch.equal(unpack(packed, dtype, shape), codes)


def test_only_types_below_a_byte_are_packed():
    assert is_packed(integer(7, signed=True))
    assert not is_packed(integer(8, signed=True))


def test_a_wrong_number_of_bytes_is_refused():
    with pytest.raises(FormatError, match=r"qint4.*2 bytes.*3 elements"):
        unpack(torch.zeros(3, dtype=torch.uint8), integer(4, signed=True), (4,))
