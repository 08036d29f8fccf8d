"""One tensor through every observer: what *Observers* shows, as the engine computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pages.common.format import number, percent
from qlab.analysis import grid

if TYPE_CHECKING:
    from torch import Tensor

    from qlab.ranges import QuantizationError, RangeChoice, TensorSpec
    from qlab.stats import TensorStats

#: Values of a made-up tensor, seen in so many batches: the moving average follows batches.
SIZE, BATCHES, SEED = 20_000, 10, 0
POINTS = 64
SQNR = "SQNR [dB] ↑"
Draw = Callable[[np.random.Generator, int], np.ndarray]
DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Laplace": lambda rng, n: rng.laplace(size=n),
    "Student t, 3 degrees": lambda rng, n: rng.standard_t(3, size=n),
    "after a ReLU": lambda rng, n: np.maximum(rng.normal(size=n), 0),
    "two humps": lambda rng, n: rng.normal(size=n) * 0.4 + np.where(rng.random(n) < 0.5, -2.0, 2.0),
    "skewed (log-normal)": lambda rng, n: rng.lognormal(size=n),
}


@dataclass(frozen=True)
class Outliers:
    """Values far out that are mixed into a tensor.

    Attributes:
        count: How many.
        strength: Their magnitude in units of the tensor's root mean square.
    """

    count: int
    strength: float


@dataclass(frozen=True)
class Contest:
    """A tensor, the observers' choices on it and the cost of every threshold.

    Attributes:
        stats: What the tensor looks like, outliers included.
        choices: One per observer.
        clip: What the person's own threshold costs.
        thresholds: Magnitudes at which to clip, ascending, shape (points,).
        sqnr: What each of them costs [dB], same shape: `"rounding"` and `"clipping"` if that were
            the only error, and both `"together"`.
    """

    stats: TensorStats
    choices: tuple[RangeChoice, ...]
    clip: RangeChoice
    thresholds: np.ndarray
    sqnr: dict[str, np.ndarray]


def values(distribution: str, times: float = 1.0) -> Tensor:
    """A made-up tensor, float32 of `SIZE` values."""
    import torch

    drawn = DISTRIBUTIONS[distribution](np.random.default_rng(SEED), SIZE)
    return torch.from_numpy(drawn * times).float()


@lru_cache(maxsize=64)
def made_up(distribution: str, outliers: Outliers) -> TensorStats:
    """Statistics of a tensor drawn from a distribution, its outliers in the last batch."""
    from qlab.stats import TensorStats

    stats = TensorStats()
    for batch in values(distribution).reshape(BATCHES, -1):
        stats.update(batch)
    if outliers.count:
        stats.update(_outliers(stats, outliers), batch=BATCHES - 1)
    return stats


def with_outliers(stats: TensorStats, outliers: Outliers) -> TensorStats:
    """Statistics of a layer's tensor with outliers mixed in; the argument stays as it is."""
    from qlab.stats import TensorStats

    if not outliers.count:
        return stats
    values, axis = _outliers(stats, outliers), stats.channel_axis
    if axis is not None:  # every channel gets as many, at least one
        channels = stats.channel_min.numel()
        values = values[: max(1, outliers.count // channels)]
        values = values.expand(channels, -1)
        values = values.T if axis < 0 else values.reshape([1] * axis + list(values.shape))
    return stats.merge(TensorStats.of(values, channel_axis=axis))


def _outliers(stats: TensorStats, outliers: Outliers) -> Tensor:
    """Values of one magnitude, signs in turn; positive where the tensor has no negative ones."""
    import torch

    size = outliers.strength * (stats.sum_of_squares / stats.count) ** 0.5
    signs = torch.ones(outliers.count)
    if stats.min_val < 0:
        signs[1::2] = -1
    return signs * size


def largest(stats: TensorStats) -> float:
    """The largest magnitude of a tensor; 1 if it is all zero."""
    return max(-float(stats.min_val), float(stats.max_val)) or 1.0


def hold(stats: TensorStats, spec: TensorSpec, share: float) -> Contest:
    """Asks the engine.

    Args:
        stats: What the tensor looks like.
        spec: Data type and scheme, one scale for the whole tensor.
        share: The person's clip threshold as a share of the largest magnitude, above 0.
    """
    from qlab.ranges import clipped_at, range_choices

    most = largest(stats)
    thresholds = most * np.geomspace(0.005, 1.0, POINTS)
    return Contest(
        stats=stats,
        choices=range_choices(stats, spec),
        clip=clipped_at(stats, spec, most * share),
        thresholds=thresholds,
        sqnr=_sqnr([clipped_at(stats, spec, float(t)).error for t in thresholds]),
    )


def _sqnr(errors: list[QuantizationError]) -> dict[str, np.ndarray]:
    rounding, clipping = (
        np.array([replace(e, **{other: 0.0}).sqnr_db for e in errors])
        for other in ("clipping", "rounding")
    )
    together = np.array([error.sqnr_db for error in errors])
    return {"rounding": rounding, "clipping": clipping, "together": together}


#: Title and term of the glossary of the table's columns of words.
COLUMNS = {
    "observer": ("Observer", "observer"),
    "range": ("Range", "range"),
    "rounding": ("Rounding", "rounding share"),
    "clipping": ("Clipping", "clipping share"),
    "clipped values": ("Clipped values ↓", "clipped share"),
}


def table(held: Contest) -> pd.DataFrame:
    """Every observer in numbers, the best first, and the person's own threshold among them."""
    rows = []
    for choice in (*held.choices, held.clip):
        low, high = (float(end) for end in grid.bounds(choice.qparams))
        error, total = choice.error, choice.error.total or 1.0
        rows.append(
            {
                "observer": "▸ yours" if choice is held.clip else choice.label,
                "range": f"{number(low)} … {number(high)}",
                SQNR: error.sqnr_db,
                "rounding": percent(error.rounding / total),
                "clipping": percent(error.clipping / total),
                "clipped values": percent(error.clipped_share),
            }
        )
    return pd.DataFrame(rows).sort_values(SQNR, ascending=False, kind="stable")
