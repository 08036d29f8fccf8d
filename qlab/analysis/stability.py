"""How far calibrated ranges still move with more data, from statistics that are there already."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from qlab.analysis.calibration import Calibration
from qlab.errors import UnknownNameError
from qlab.ranges import MovingAverage, TensorSpec, expected_error
from qlab.stats import TensorStats

#: A range has settled where half of the batches would have given the same SQNR within so many dB:
#: a twelfth of what one bit is worth (6.02 dB).
THRESHOLD_DB = 0.5
#: With fewer batches a half of them is one batch, and its chance too large to say anything.
LEAST_BATCHES = 4
#: From so many batches on the normal approximation of the trend test holds.
TREND_BATCHES = 8
#: Share of false alarms among the reported trends (Benjamini and Hochberg).
FALSE_TRENDS = 0.01
_MOST_DOUBLINGS = 6
_ENDLESS_BATCHES = 16  # with fewer, that a doubling changes more than the last may be chance
_CURVE_POINTS = 200


@dataclass(frozen=True, eq=False)
class Stability:
    """Whether calibration saw enough data, by layer.

    Attributes:
        table: One row per layer, indexed by its name:
            ``low``, ``high``: its range so far;
            ``growth``: how much wider it is than the mean range of half of the batches, over all
            choices of that half, in steps of 8 bits;
            ``change``: by how many dB the tensor's SQNR would differ with that narrower range;
            ``order``: standard deviation of the moving-average range's width over all orders of
            the batches, in steps; ``order_change``: SQNR in dB between a range one standard
            deviation wider and one narrower;
            ``trend``: ``"rising"``, ``"falling"`` or ``""``: whether batches grow with their place
            in the data (Mann-Kendall); ``p``: its probability without any trend, NaN with fewer
            than 8 batches;
            ``moving``: whether ``change`` is above 0.5 dB;
            ``more_samples``: about how many more samples would settle it; 0 where it has settled,
            infinity where more data would not do in reason, NaN where that cannot be told.
        batches: How many batches were seen.
        samples: How many samples.
        settled: Whether no range moves any more; None where there are too few batches to tell.
        verdict: All this in words.
    """

    table: pd.DataFrame
    batches: int
    samples: int
    settled: bool | None
    verdict: str
    _statistics: Mapping[str, TensorStats] = field(repr=False)

    @property
    def moving(self) -> tuple[str, ...]:
        """The layers whose ranges still move, the worst first."""
        by_change: Any = self.table.sort_values("change", ascending=False)
        return tuple(map(str, by_change.index[by_change["moving"]]))

    @property
    def trending(self) -> tuple[str, ...]:
        """The layers whose batches grow or shrink with their place in the data."""
        table: Any = self.table
        return tuple(map(str, table.index[table["trend"] != ""]))

    def curve(self, name: str) -> pd.DataFrame:
        """A layer's range over the number of batches, for a chart; at most 200 points.

        Columns, by number of batches: ``low``, ``high``: extrema so far, in the order seen;
        ``low_mean``, ``high_mean``, ``low_std``, ``high_std``: their mean and standard deviation
        over all choices of so many batches; ``low_average``, ``high_average``: the moving average
        in the order seen.

        Raises:
            UnknownNameError: No such layer.
        """
        if name not in self._statistics:
            raise UnknownNameError.of("layer", name, self._statistics)
        return range_over_batches(self._statistics[name])


def range_over_batches(stats: TensorStats) -> pd.DataFrame:
    """A tensor's range over the number of batches; columns as those of `Stability.curve`.

    It reads the extrema of every batch and nothing else, so it is cheap during a pass, too.
    """
    low, high = _extrema(stats)
    count = len(low)
    sizes = np.unique(np.linspace(1, count, min(count, _CURVE_POINTS)).round().astype(int))
    low_mean, low_std = _of_subsets(-low, sizes)
    high_mean, high_std = _of_subsets(high, sizes)
    at = sizes - 1
    return pd.DataFrame(
        {
            "low": np.minimum.accumulate(low)[at],
            "high": np.maximum.accumulate(high)[at],
            "low_mean": -low_mean,
            "high_mean": high_mean,
            "low_std": low_std,
            "high_std": high_std,
            "low_average": _averages(low)[at],
            "high_average": _averages(high)[at],
        },
        index=pd.Index(sizes, name="batches"),
    )


def measure_stability(calibration: Calibration, nodes: Mapping[str, str]) -> Stability:
    """Reads the extrema of every batch; no data is run.

    Batches count as exchangeable: all means and deviations are over all choices or orders of
    them, exactly, by order statistics, so nothing is drawn at random. What the range means for
    the error follows from the histogram, for affine 8-bit codes.

    Args:
        calibration: What calibration saw.
        nodes: By the name of each layer to judge, the node whose statistics give its range.
    """
    statistics = {
        name: calibration.statistics[node]
        for name, node in nodes.items()
        if node in calibration.statistics and calibration.statistics[node].count
    }
    samples = calibration.samples
    rows = [{"layer": name} | _row(stats, samples) for name, stats in statistics.items()]
    table = pd.DataFrame(rows, columns=["layer", *_COLUMNS]).set_index("layer")
    real = _real_trends(table["p"].to_numpy(dtype=float))
    table["trend"] = [t if keep else "" for t, keep in zip(table["trend"], real, strict=True)]
    enough = calibration.batches >= LEAST_BATCHES
    settled = not bool(table["moving"].any()) if enough else None
    stability = Stability(table, calibration.batches, samples, settled, "", statistics)
    return Stability(table, calibration.batches, samples, settled, _verdict(stability), statistics)


_COLUMNS = (
    "low", "high", "growth", "change", "order", "order_change", "trend", "p", "moving",
    "more_samples",
)  # fmt: skip


def _row(stats: TensorStats, samples: int) -> dict[str, object]:
    low, high = _extrema(stats)
    count = len(low)
    lows, highs = _mean_ranges(low, high)
    sqnr = [_sqnr(stats, *ends) for ends in zip(lows, highs, strict=True)]
    step = float(_SPEC.choose(*map(torch.tensor, (lows[-1], highs[-1]))).scale)
    change = _difference(sqnr[2], sqnr[1])
    moving = count >= LEAST_BATCHES and change > THRESHOLD_DB
    centre, spread = _average_over_orders(low, high)
    wide, narrow = (_sqnr(stats, centre[0] - d, centre[1] + d) for d in (spread / 2, -spread / 2))
    trend, p = _trend(low, high)
    return {
        "low": lows[-1],
        "high": highs[-1],
        "growth": ((highs[-1] - lows[-1]) - (highs[1] - lows[1])) / step,
        "change": change if count > 1 else math.nan,
        "order": spread / step if count > 1 else math.nan,
        "order_change": _difference(wide, narrow) if count > 1 else math.nan,
        "trend": trend,
        "p": p,
        "moving": moving,
        "more_samples": _more(samples, change, _difference(sqnr[1], sqnr[0]), count),
    }


def _mean_ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean bounds over all choices of a quarter of the batches, of half of them, and of all."""
    count = len(low)
    sizes = np.array([max(count // 4, 1), max(count // 2, 1), count])
    lows, highs = -_of_subsets(-low, sizes)[0], _of_subsets(high, sizes)[0]
    return lows + 0.0, highs + 0.0


def range_change(stats: TensorStats) -> float:
    """``change`` of `Stability.table` for one tensor [dB]; NaN with fewer than two batches."""
    if stats.batch_index.numel() < 2:
        return math.nan
    lows, highs = _mean_ranges(*_extrema(stats))
    return _difference(_sqnr(stats, lows[2], highs[2]), _sqnr(stats, lows[1], highs[1]))


_SPEC = TensorSpec.uint8_activation()


def _extrema(stats: TensorStats) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each batch, float64, in the order of the batches."""
    return stats.batch_min.double().numpy(), stats.batch_max.double().numpy()


def _of_subsets(values: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the largest of ``k`` values, over all choices of k.

    The i-th smallest of B is the largest of a choice with probability C(i-1, k-1) / C(B, k):
    k/B for the largest, and from one to the next smaller a factor (i-k) / (i-1).
    """
    ordered, count = np.sort(values)[::-1], len(values)
    rank = np.arange(count, 1, -1)
    factors = np.clip(rank - sizes[:, None], 0, None) / np.maximum(rank - 1, 1)
    shares = np.cumprod(np.concatenate([sizes[:, None] / count, factors], axis=1), axis=1)
    mean = shares @ ordered
    variance = shares @ (ordered - ordered[0]) ** 2 - (mean - ordered[0]) ** 2
    return mean, np.sqrt(np.clip(variance, 0, None))


def _averages(values: np.ndarray) -> np.ndarray:
    """The moving average after each batch."""
    constant, average, found = MovingAverage().constant, values[0], []
    for value in values:
        average = average + constant * (value - average)
        found.append(average)
    return np.array(found)


def _average_over_orders(low: np.ndarray, high: np.ndarray) -> tuple[tuple[float, float], float]:
    """Mean bounds of the moving average over all orders, and its width's standard deviation.

    A weighted sum of B values in random order with weights of sum 1 has their mean, and their
    population variance times (B·Σw² - 1) / (B - 1).
    """
    count, constant = len(low), MovingAverage().constant
    weights = constant * (1 - constant) ** np.arange(count - 1, -1, -1.0)
    weights[0] /= constant
    share = (count * float(weights @ weights) - 1) / (count - 1) if count > 1 else 0.0
    spread = math.sqrt(max(share, 0.0)) * float((high - low).std())
    return (float(low.mean()), float(high.mean())), spread


def _sqnr(stats: TensorStats, low: float, high: float) -> float:
    low, high = min(low, 0.0), max(high, 0.0)  # a range holds 0; bounds narrowed past it do too
    ends = torch.tensor([low, high], dtype=torch.float32)
    return expected_error(stats, _SPEC.choose(ends[0], ends[1])).sqnr_db


def _difference(a: float, b: float) -> float:
    return 0.0 if a == b else abs(a - b)


def _more(samples: int, change: float, before: float, batches: int) -> float:
    """Samples until a doubling changes less than the threshold, if each changes as much less
    than the one before it as the last did."""
    if batches < LEAST_BATCHES:
        return math.nan
    if change <= THRESHOLD_DB:
        return 0.0
    if not change < before:
        return math.inf if batches >= _ENDLESS_BATCHES else math.nan
    doublings = math.ceil(math.log(THRESHOLD_DB / change) / math.log(change / before))
    return math.inf if doublings > _MOST_DOUBLINGS else float(samples * (2**doublings - 1))


def _trend(low: np.ndarray, high: np.ndarray) -> tuple[str, float]:
    """Direction and two-sided p-value of the Mann-Kendall test on the batches' widths.

    Source: H. B. Mann, Nonparametric tests against trend, Econometrica 13, 1945; ties as in
    M. G. Kendall, Rank correlation methods.
    """
    width = high - low
    count = len(width)
    if count < TREND_BATCHES:
        return "", math.nan
    later_above = sum(int(np.sign(width[i + 1 :] - width[i]).sum()) for i in range(count - 1))
    ties = np.unique(width, return_counts=True)[1].astype(float)
    variance = count * (count - 1) * (2 * count + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()
    if variance <= 0 or later_above == 0:
        return "", 1.0
    z = (abs(later_above) - 1) / math.sqrt(variance / 18)
    return "rising" if later_above > 0 else "falling", math.erfc(z / math.sqrt(2))


def _real_trends(p: np.ndarray) -> np.ndarray:
    """Which of many tests to believe, with at most a share `FALSE_TRENDS` of false alarms."""
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    allowed = FALSE_TRENDS * np.arange(1, len(order) + 1) / max(len(order), 1)
    below = np.flatnonzero(p[order] <= allowed)
    real = np.zeros(len(p), dtype=bool)
    if len(below):
        real[order[: below[-1] + 1]] = True
    return real


def _verdict(found: Stability) -> str:
    seen = f"{found.samples} samples in {found.batches} batches"
    if found.settled is None:
        return (
            f"Cannot tell from {seen}: how much ranges move shows between batches. Calibrate with "
            f"at least {LEAST_BATCHES} batches, the same samples in smaller ones if need be."
        )
    moving, total = found.moving, len(found.table)
    if not moving:
        words = (
            f"Enough data: half of the {seen} would have given every range's error within "
            f"{THRESHOLD_DB} dB."
        )
    else:
        change = f"{found.table.loc[moving[0], 'change']:.1f}".replace("-", "−")
        words = (
            f"{len(moving)} of {total} ranges still move, {moving[0]!r} most: half of the {seen} "
            f"would change its error by {change} dB. {_advice(found)}"
        )
    if found.trending:
        words += (
            f" Batches grow or shrink with their place in the data in {len(found.trending)} of "
            f"{total} layers ({found.trending[0]!r} first): shuffle the calibration data."
        )
    return words


def _advice(found: Stability) -> str:
    more = found.table.loc[list(found.moving), "more_samples"]
    known = more[np.isfinite(more.to_numpy(dtype=float))]
    endless = [name for name in found.moving if math.isinf(more[name])]
    advice = "More samples will tell how many are needed."
    if len(known):
        advice = f"About {int(known.max())} more samples would settle {len(known)} of them."
    if endless:
        advice += (
            f" {endless[0]!r} has too heavy a tail for the smallest and largest value to settle: "
            "choose a percentile or the least squared error."
        )
    return advice
