"""Quantized activation functions.

Those that clamp keep the input's scale and zero point; the others have their own.
"""

from __future__ import annotations

from torch import Tensor, nn

from qlab import ops
from qlab.nn.quantized.families import ObservedModule, SharedModule
from qlab.qparams import QParams


class ReLU(SharedModule):
    """``max(x, 0)``: codes below the zero point become the zero point."""

    float_types = (nn.ReLU,)
    op = staticmethod(ops.relu)


class ReLU6(SharedModule):
    """``min(max(x, 0), 6)``: codes clamped between the zero point and the code of 6."""

    float_types = (nn.ReLU6,)
    op = staticmethod(ops.relu6)


class Hardtanh(SharedModule):
    """``min(max(x, min_val), max_val)``: codes clamped between those of the bounds."""

    float_types = (nn.Hardtanh,)
    fields = ("min_val", "max_val")
    op = staticmethod(ops.hardtanh)


class Dropout(SharedModule):
    """The identity: nothing is dropped outside training."""

    float_types = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    fields = ("p",)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """``x``."""
        return x


class Hardswish(ObservedModule):
    """``x · min(max(x + 3, 0), 6) / 6``."""

    float_types = (nn.Hardswish,)
    op = staticmethod(ops.hardswish)


class Hardsigmoid(ObservedModule):
    """``min(max(x + 3, 0), 6) / 6``."""

    float_types = (nn.Hardsigmoid,)
    op = staticmethod(ops.hardsigmoid)


class Sigmoid(ObservedModule):
    """``1 / (1 + exp(-x))``."""

    float_types = (nn.Sigmoid,)
    op = staticmethod(ops.sigmoid)


class Tanh(ObservedModule):
    """``tanh(x)``."""

    float_types = (nn.Tanh,)
    op = staticmethod(ops.tanh)


class ELU(ObservedModule):
    """``x`` if positive, else ``alpha · (exp(x) - 1)``."""

    float_types = (nn.ELU,)
    fields = ("alpha",)
    op = staticmethod(ops.elu)


class LeakyReLU(ObservedModule):
    """``x`` if positive, else ``negative_slope · x``."""

    float_types = (nn.LeakyReLU,)
    fields = ("negative_slope",)
    op = staticmethod(ops.leaky_relu)


class GELU(ObservedModule):
    """``x · Φ(x)``, with Φ the normal distribution function or its ``"tanh"`` approximation."""

    float_types = (nn.GELU,)
    fields = ("approximate",)
    op = staticmethod(ops.gelu)


class Softmax(ObservedModule):
    """``exp(x) / Σ exp(x)`` along an axis.

    Args:
        dim: The axis; None means the first of 0, 1 or 3 axes and the second otherwise.
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
    """

    float_types = (nn.Softmax,)
    fields = ("dim",)
    dim: int | None

    def __init__(self, dim: int | None = None, scale: float = 1.0, zero_point: int = 0) -> None:
        super().__init__(scale, zero_point, dim)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """``exp(x) / Σ exp(x)`` on codes."""
        dim = self.dim if self.dim is not None else int(x.dim() not in (0, 1, 3))
        return ops.softmax(x, x_qparams, self._own_output(), dim=dim)
