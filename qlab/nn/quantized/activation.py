"""Quantized activation functions.

Those that clamp keep the input's scale and zero point; the others have their own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qlab import ops
from qlab.errors import UncalibratedError
from qlab.nn.quantized.families import ObservedModule, SharedModule
from qlab.nn.quantized.holder import OUTPUT, qparams_of_numbers
from qlab.nn.quantized.observed import weight_qparams
from qlab.nn.quantized.weight import WeightModule
from qlab.qparams import QParams
from qlab.qtensor import QTensor


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
    """``1 / (1 + exp(-x))``.

    Args:
        output_scale: Scale of the output, real units per code.
        output_zero_point: Zero point of the output, a quint8 code.
    """

    float_types = (nn.Sigmoid,)
    op = staticmethod(ops.sigmoid)

    def __init__(self, output_scale: float = 1.0, output_zero_point: int = 0) -> None:
        super().__init__(output_scale, output_zero_point)


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


class PReLU(WeightModule):
    """``x`` if positive, else ``w · x`` with a quantized slope ``w`` for all or for each channel.

    A new module has a weight of zeros.

    Args:
        output_scale: Scale of the output, real units per code.
        output_zero_point: Zero point of the output, a quint8 code.
        num_parameters: Number of slopes: 1, or the number of channels.
    """

    float_types = (nn.PReLU,)
    fields = ("num_parameters",)
    num_parameters: int

    def __init__(
        self, output_scale: float = 1.0, output_zero_point: int = 0, num_parameters: int = 1
    ) -> None:
        super().__init__()
        self._take_arguments(num_parameters)
        self._start_weight((num_parameters,), qparams_of_numbers(1.0, 0))
        self.set_qparams(OUTPUT, qparams_of_numbers(output_scale, output_zero_point))

    def _take_reference_weight(self, mod: Any) -> None:
        qparams = weight_qparams(mod, mod.weight.detach(), observe=True)
        if qparams is None:
            raise UncalibratedError("PReLU: its qconfig leaves the weight in float")
        self._take_weight(mod, qparams)

    @property
    def weight(self) -> QTensor:
        """The quantized slopes, (num_parameters,); they share their codes with the module."""
        return self.quantized_weight

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """The operator on codes."""
        weight = (self.get_buffer("weight_codes"), self.weight_qparams)
        return ops.prelu(x, x_qparams, *weight, self._own_output())


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
