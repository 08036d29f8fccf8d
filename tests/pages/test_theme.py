"""The palette is the theme's own, in both themes."""

import re
from dataclasses import fields

import pytest

from pages.common import theme


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_meaning_has_its_own_colour(name: str):
    palette = theme.palette(name)
    colours = [getattr(palette, field.name) for field in fields(palette)]
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    assert len(set(colours)) == len(colours)


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_what_carries_meaning_stands_out(name: str):
    palette = theme.palette(name)
    assert contrast(palette.text, palette.background) >= 7
    for meaning in ("float_", "quantized", "accumulated", "clipped"):
        assert contrast(getattr(palette, meaning), palette.background) >= 3, meaning
    assert contrast(palette.local, palette.accumulated) >= 2


def test_a_faint_colour_keeps_its_hue():
    assert theme.faint("#0072b2", 0.25) == "rgba(0,114,178,0.25)"
