"""The names of colours stand for the theme's own, and those are told apart in both themes."""

import re
import tomllib

import pytest

from pages.common import theme

MEANINGS = ("FLOAT", "QUANTIZED", "LOCAL", "ACCUMULATED", "CLIPPED", "STALE")


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_meaning_has_its_own_colour(name):
    colours = [theme.resolve(getattr(theme, meaning), name) for meaning in MEANINGS]
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
def test_what_carries_meaning_stands_out(name):
    shown = tomllib.loads(theme.THEME_FILE.read_text())["theme"][name]
    assert contrast(shown["textColor"], shown["backgroundColor"]) >= 7
    for meaning in ("FLOAT", "QUANTIZED", "ACCUMULATED", "CLIPPED"):
        colour = theme.resolve(getattr(theme, meaning), name)
        assert contrast(colour, shown["backgroundColor"]) >= 3, meaning
    assert contrast(theme.NEUTRAL, shown["backgroundColor"]) >= 3
    local, accumulated = (theme.resolve(c, name) for c in (theme.LOCAL, theme.ACCUMULATED))
    assert contrast(local, accumulated) >= 2
