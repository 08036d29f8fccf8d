"""Worked lines: formulas with the actual numbers in them, each with its meaning on hover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pages.common.format import count, plain, short
from pages.common.glossary import TERMS

if TYPE_CHECKING:
    from qlab.qparams import QParams
    from qlab.stats import TensorStats

STYLE = "font-family:monospace;font-size:1.05rem;line-height:1.8;overflow-wrap:anywhere"


def lines(*each: str) -> str:
    """HTML of lines of a calculation."""
    return f'<div style="{STYLE}">{"<br>".join(each)}</div>'


def hover(shown: str, meaning: str) -> str:
    """A term with its meaning on hover."""
    return f'<abbr title="{plain(meaning)}" style="text-decoration:underline dotted">{shown}</abbr>'


def scale_of(stats: TensorStats, qparams: QParams, *, symmetric: bool) -> str:
    """How a tensor's extrema became a scale."""
    low, high = (float(end) for end in (stats.min_val, stats.max_val))
    steps = qparams.quant_max - qparams.quant_min
    scale = hover(f"<b>{short(qparams.scale_value)}</b>", f"s: {TERMS['scale']}")
    if symmetric:
        shown = f"max(|{short(low)}|, |{short(high)}|) / ({count(steps)} / 2)"
        return lines(f"<b>symmetric</b> &nbsp; s = {shown} = {scale}")
    shown = f"({short(max(high, 0.0))} − {in_brackets(min(low, 0.0))}) / {count(steps)}"
    return lines(f"<b>affine</b> &nbsp; s = {shown} = {scale}")


def in_brackets(value: float) -> str:
    """A number, in brackets where it is negative, to be multiplied or taken away."""
    return f"({short(value)})" if value < 0 else short(value)


def signed(value: float) -> str:
    """A number with its sign, to be added: `+ 0.3`, `− 0.3`; a whole number with all its digits."""
    shown = count(abs(value)) if isinstance(value, int) else short(abs(value))
    return f"{'−' if value < 0 else '+'} {shown}"
