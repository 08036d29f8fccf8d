"""What a range policy needs to know of the codes that a range is chosen for."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from qlab.dtypes import QDType
from qlab.granularity import Granularity
from qlab.qparams import QParams


class Scheme(Protocol):
    """The part of a `TensorSpec` that range policies read."""

    @property
    def dtype(self) -> QDType:
        """The quantized data type."""
        ...

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is fixed at the middle code."""
        ...

    @property
    def granularity(self) -> Granularity:
        """Which elements share a scale."""
        ...

    @property
    def float_zero_point(self) -> bool:
        """Whether the zero point is any real number, so that ranges need not contain 0."""
        ...

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code in use."""
        ...

    def choose(self, min_val: Tensor, max_val: Tensor) -> QParams:
        """`qlab.qparams.choose_qparams` for these codes; any shape of range."""
        ...
