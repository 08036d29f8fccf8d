"""A logger that keeps means instead of every value."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qlab.analysis.suite.modules import Logger
from qlab.qtensor import QTensor


class MeanShadowLogger(Logger):
    """Keeps the mean over calls of what a module and its float shadow give.

    ``stats["quantized"]`` and ``stats["float"]``, in real numbers and of the output's shape; None
    before the first call. For a `Shadow`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stats: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forgets what was seen."""
        self.stats.update({"float": None, "quantized": None})
        self.count = 0
        self.float_sum: Tensor | None = None
        self.quant_sum: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Takes in what the quantized module (``x``) and the float one (``y``) give."""
        real, plain = (x.dequantize() if isinstance(x, QTensor) else x).detach(), y.detach()
        self.count += 1
        self.quant_sum = real if self.quant_sum is None else self.quant_sum + real
        self.float_sum = plain if self.float_sum is None else self.float_sum + plain
        self.stats["quantized"] = self.quant_sum / self.count
        self.stats["float"] = self.float_sum / self.count
