"""The affine map of one value: the knobs on *Learn*, and what the engine makes of them."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pages.common.format import count, number, plain, short
from pages.common.glossary import TERMS
from qlab.analysis.grid import codes_and_levels

if TYPE_CHECKING:
    from qlab.qparams import QParams
    from qlab.ranges import TensorSpec

BITS = (2, 3, 4, 5, 6, 7, 8)
SIGNS = ("signed", "unsigned")
SCHEMES = ("affine", "symmetric")
#: How the knobs stand at first; `learn_unit` is the scale around which the scale's knob moves.
START = {
    "learn_bits": 4,
    "learn_sign": "signed",
    "learn_scheme": "affine",
    "learn_unit": 0.1,
    "learn_scale": 0.1,
    "learn_zero_point": 0,
    "learn_value": 0.37,
}
CURVE_POINTS = 601
State = MutableMapping[Any, Any]


class Limits(NamedTuple):
    """Smallest value, largest value of each knob, and the step where it is not 1."""

    scale: tuple[float, float, float]
    zero_point: tuple[int, int]
    value: tuple[float, float, float]


@dataclass(frozen=True)
class Worked:
    """One value through the map.

    Attributes:
        qparams: Scale, zero point and codes.
        value: The real number x.
        code: Its code q.
        reconstruction: What the code stands for.
        clipped: Whether x lies outside the range of codes.
        codes, levels: Every code and the number it stands for.
        span: Both ends of the number line.
        curve: Values over the span and the error of each.
    """

    qparams: QParams
    value: float
    code: int
    reconstruction: float
    clipped: bool
    codes: np.ndarray
    levels: np.ndarray
    span: tuple[float, float]
    curve: tuple[np.ndarray, np.ndarray]

    @property
    def error(self) -> float:
        """Reconstruction minus value."""
        return self.reconstruction - self.value

    @property
    def bounds(self) -> tuple[float, float]:
        """From here to there a value only rounds: half a scale beyond the end levels."""
        half = self.qparams.scale_value / 2
        return float(self.levels[0]) - half, float(self.levels[-1]) + half


def prepare(state: State) -> Limits:
    """Fills in knobs that have no state yet, and moves those that the others left out of range."""
    for key, value in START.items():
        state.setdefault(key, value)
    limits = _limits(state)
    if state["learn_scheme"] == "symmetric":
        state["learn_zero_point"] = _middle(state)
    for key, (low, high) in (
        ("learn_scale", limits.scale[:2]),
        ("learn_zero_point", limits.zero_point),
        ("learn_value", limits.value[:2]),
    ):
        state[key] = min(max(state[key], low), high)
    return limits


def _limits(state: State) -> Limits:
    unit, dtype = state["learn_unit"], _dtype(state)
    end = unit * dtype.levels
    return Limits(
        (unit / 10, unit * 4, unit / 50), (dtype.quant_min, dtype.quant_max), (-end, end, end / 500)
    )


def _dtype(state: State) -> Any:
    from qlab import dtypes

    return dtypes.integer(state["learn_bits"], signed=state["learn_sign"] == "signed")


def _middle(state: State) -> int:
    import torch

    from qlab.qparams import choose_qparams

    one = torch.tensor(1.0)
    return choose_qparams(-one, one, _dtype(state), symmetric=True).zero_point_value


def fits(spec: TensorSpec) -> bool:
    """Whether a tensor's codes are ones that the knobs can be set to."""
    return not spec.dtype.is_float and spec.dtype.bits in BITS


def take(state: State, qparams: QParams, symmetric: bool) -> None:
    """Sets the knobs to what a layer uses: one scale and zero point of an integer type."""
    dtype = qparams.dtype
    state["learn_bits"] = dtype.bits
    state["learn_sign"] = "signed" if dtype.signed else "unsigned"
    state["learn_scheme"] = "symmetric" if symmetric else "affine"
    state["learn_unit"] = state["learn_scale"] = qparams.scale_value
    state["learn_zero_point"] = qparams.zero_point_value
    prepare(state)


def work(state: State) -> Worked:
    """Sends the value through the engine."""
    import torch

    from qlab.qparams import QParams, dequantize, fake_quantize, quantize
    from qlab.ranges import measured_error

    qparams = QParams.per_tensor(state["learn_scale"], state["learn_zero_point"], _dtype(state))
    low, high, _ = _limits(state).value
    value = torch.tensor(state["learn_value"], dtype=torch.float32)
    code = quantize(value, qparams)
    line = torch.linspace(low, high, CURVE_POINTS)
    codes, levels = codes_and_levels(qparams)
    return Worked(
        qparams=qparams,
        value=float(value),
        code=int(code),
        reconstruction=float(dequantize(code, qparams)),
        clipped=measured_error(value, qparams).clipped_share > 0,
        codes=codes,
        levels=levels,
        span=(low, high),
        curve=(line.numpy(), (fake_quantize(line, qparams) - line).numpy()),
    )


def formula(worked: Worked) -> str:
    """HTML of the worked numbers, each with its meaning on hover."""
    qparams = worked.qparams
    x = _hover(short(worked.value), "x: the real number")
    low, high = (
        _hover(count(end), "the smallest and the largest code")
        for end in (qparams.quant_min, qparams.quant_max)
    )
    scale = _hover(short(qparams.scale_value), f"s: {TERMS['scale']}")
    zero = _hover(count(qparams.zero_point_value), f"z: {TERMS['zero point']}")
    code = _hover(f"<b>{count(worked.code)}</b>", "q: the integer that is stored")
    back = _hover(f"<b>{short(worked.reconstruction)}</b>", "x̂: what the code stands for")
    kind = "clipping" if worked.clipped else "rounding"
    error = _hover(f"{kind} error {number(worked.error)}", "x̂ − x")
    return (
        '<div style="font-family:monospace;font-size:1.05rem;line-height:1.9">'
        f"q = clamp(round({x} / {scale}) + {zero}, {low}, {high}) = {code}"
        f"<br>→ ({count(worked.code)} − {zero}) · {scale} = {back} &nbsp; {error}</div>"
    )


def _hover(shown: str, meaning: str) -> str:
    return f'<abbr title="{plain(meaning)}" style="text-decoration:underline dotted">{shown}</abbr>'
