"""Padding of codes is PyTorch's padding of numbers, for every mode, type and number of axes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from qlab.errors import ShapeError
from qlab.ops.padding import pad_codes

MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


@given(st.data(), st.integers(1, 3), st.sampled_from(sorted(MODES)))
def test_as_in_pytorch(data: st.DataObject, n: int, mode: str) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=n, max_size=n))
    widest = {"reflect": lambda size: size - 1, "circular": lambda size: size}
    limit = widest.get(mode, lambda size: 7)
    pads = [tuple(data.draw(st.integers(0, limit(s))) for _ in range(2)) for s in sizes]
    dtype = data.draw(st.sampled_from([torch.uint8, torch.int8, torch.int16, torch.int32]))
    x = torch.randint(0, 100, (2, 3, *sizes)).to(dtype)
    flat = [p for pair in reversed(pads) for p in pair]
    value = 7 if mode == "zeros" else None
    expected = F.pad(x.double(), flat, MODES[mode], value).to(dtype)
    assert torch.equal(pad_codes(x, pads, mode, 7), expected)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_float8_codes(mode: str) -> None:
    x = torch.randn(1, 2, 5).to(torch.float8_e4m3fn)
    expected = F.pad(x.float(), (1, 2), MODES[mode])
    assert torch.equal(pad_codes(x, [(1, 2)], mode, 0).float(), expected)


@pytest.mark.parametrize("mode, most", [("reflect", 3), ("circular", 4)])
def test_more_than_the_input_has_is_refused(mode: str, most: int) -> None:
    message = rf"conv1d: {mode} padding is wider.*at most {most} elements.*0 before and 5 after"
    with pytest.raises(ShapeError, match=message):
        pad_codes(torch.zeros(1, 1, 4, dtype=torch.uint8), [(0, 5)], mode, 0, "conv1d")


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_an_empty_axis_has_nothing_to_copy(mode: str) -> None:
    with pytest.raises(ShapeError, match="padding is wider than the input"):
        pad_codes(torch.zeros(1, 1, 0, dtype=torch.uint8), [(1, 1)], mode, 0)
