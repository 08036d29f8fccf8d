"""Observers that keep statistics of all data, and choose the range from them."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from qlab.dtypes import quint8
from qlab.errors import ArgumentError
from qlab.granularity import QScheme, per_tensor_affine, per_tensor_symmetric
from qlab.observers.base import (
    DTypeLike,
    ObserverOptions,
    UniformQuantizationObserverBase,
)
from qlab.qparams import EPS, QParams
from qlab.ranges import MSE, Entropy, Percentile
from qlab.stats import TensorStats


class StatsObserver(UniformQuantizationObserverBase):
    """Base of the observers whose policy needs more than the extrema.

    Arguments and errors: `UniformQuantizationObserverBase`.

    Attributes:
        stats: What the tensor looked like over all batches. Part of the state dict.
    """

    schemes = (per_tensor_affine, per_tensor_symmetric)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stats = TensorStats(histogram=self.policy.needs_histogram)

    def observe(self, x: Tensor) -> None:
        self.stats.update(x)
        self._copy_extrema()

    def _copy_extrema(self) -> None:
        self.min_val.copy_(self.stats.min_val)
        self.max_val.copy_(self.stats.max_val)

    def _chosen(self) -> QParams:
        self.require_data()
        return self.spec.qparams(self.stats).to(self.min_val.device)

    def reset_min_max_vals(self) -> None:
        """Forgets all data."""
        self.stats = TensorStats(histogram=self.policy.needs_histogram)
        self._copy_extrema()

    def get_extra_state(self) -> dict[str, Tensor]:
        """The statistics as plain tensors, for the state dict."""
        return self.stats.state_dict()

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Reads what `get_extra_state` wrote."""
        self.stats = TensorStats.from_state_dict(state)


class HistogramObserver(StatsObserver):
    """The range with the least expected squared error, from a histogram of all data.

    The histogram's bins are fixed and finer than 0.8 % of their value everywhere
    (`qlab.stats.TensorStats`): no range to grow, no dependence on the order of batches, and an
    outlier costs no resolution elsewhere.

    Args:
        bins: Length of `histogram`. In the reference the range is searched over these bins; here
            they change nothing.
        dtype: As in `UniformQuantizationObserverBase`, like the others that are not named here.

    Raises:
        ArgumentError: ``bins`` is not positive.

    The reference's ``torch.ao.quantization.observer.HistogramObserver`` minimises the same error
    over fewer candidates; the two ranges may differ.
    """

    def __init__(
        self,
        bins: int = 2048,
        dtype: DTypeLike = quint8,
        qscheme: QScheme | Any = per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: dict[str, Any] | None = None,
        eps: float = EPS,
        is_dynamic: bool = False,
    ) -> None:
        if not isinstance(bins, int) or bins < 1:
            raise ArgumentError("HistogramObserver: at least one bin", received=repr(bins))
        super().__init__(
            *(dtype, qscheme, reduce_range, quant_min, quant_max, factory_kwargs, eps, is_dynamic),
            policy=MSE(),
        )
        self.bins = bins

    @property
    def histogram(self) -> Tensor:
        """How many values lie in each of ``bins`` even bins from ``min_val`` to ``max_val``.

        float32 ``(bins,)`` on the device of the buffers, for charts; all 0 without data. Where a
        bin of the statistics straddles an edge its count is split in proportion.
        """
        if not self.stats.count:
            return self.min_val.new_zeros(self.bins)
        _, counts = self.stats.histogram().display(self.bins)
        return torch.from_numpy(counts).to(self.min_val)


class MSEObserver(StatsObserver):
    """The range with the least expected squared error; see `qlab.ranges.MSE`.

    Args:
        options: As in `UniformQuantizationObserverBase`.
    """

    def __init__(self, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(**options, policy=MSE())


class PercentileObserver(StatsObserver):
    """The range that leaves out the same share of the data at either end.

    Args:
        percent: Upper end of the range as a percentile, above 50 and at most 100.
        options: As in `UniformQuantizationObserverBase`.
    """

    def __init__(self, percent: float = 99.99, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(**options, policy=Percentile(percent))
        self.percent = percent


class EntropyObserver(StatsObserver):
    """The range whose codes diverge least from the data; see `qlab.ranges.Entropy`.

    Args:
        bins: How many even bins of magnitude are compared.
        options: As in `UniformQuantizationObserverBase`.
    """

    def __init__(self, bins: int = 2048, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(**options, policy=Entropy(bins))
        self.bins = bins
