"""Families of quantized modules, whose members differ by their operator and its arguments only.

A member is a few declarations: the float module it stands for, the operator of `qlab.ops`, and the
constructor arguments that the operator takes. It is constructed as the float module is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from qlab.nn.quantized.base import Output, QuantizedModule
from qlab.nn.quantized.holder import OUTPUT, qparams_of_numbers
from qlab.qparams import QParams


class SharedModule(QuantizedModule):
    """One input; the output keeps its scale and zero point.

    Args:
        *args: The arguments of the float module of the same name.
        **kwargs: Likewise.

    Attributes:
        op: Takes codes, their `QParams` and `fields` by name.
    """

    output_of = Output.INPUT
    op: ClassVar[Callable[..., Tensor]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._take_arguments(*args, **kwargs)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """The operator on codes."""
        return type(self).op(x, x_qparams, **self._arguments_of(self))


class ObservedModule(QuantizedModule):
    """One or two inputs; the output has a scale and zero point of its own.

    Args:
        scale: Scale of the output, real units per code.
        zero_point: Zero point of the output, a quint8 code.
        *args: The arguments of the float module of the same name.
        **kwargs: Likewise.

    Attributes:
        op: Takes codes and `QParams` of each input, the output's `QParams`, and `fields` by name.
    """

    op: ClassVar[Callable[..., Tensor]]

    def __init__(self, scale: float = 1.0, zero_point: int = 0, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._take_arguments(*args, **kwargs)
        self.set_qparams(OUTPUT, qparams_of_numbers(scale, zero_point))

    def _compute(self, *inputs: Any) -> Tensor:
        return type(self).op(*inputs, self.output_qparams, **self._arguments_of(self))

    compute: Callable[..., Tensor] = _compute  # as an attribute, so that members name their inputs
