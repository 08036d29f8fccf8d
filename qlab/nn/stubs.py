"""The stubs that mark, in a float model, where codes begin and end."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qlab.errors import ArgumentError
from qlab.ops import checks


class _Stub(nn.Module):
    def __init__(self, qconfig: Any = None) -> None:
        super().__init__()
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``."""
        return x


class QuantStub(_Stub):
    """The identity, until convert makes it `qlab.nn.quantized.Quantize`.

    Args:
        qconfig: The quantization configuration of the tensor that passes; without it the one
            propagated from the parent module holds.
    """


class DeQuantStub(_Stub):
    """The identity, until convert makes it `qlab.nn.quantized.DeQuantize`.

    Args:
        qconfig: Kept as the reference does; dequantizing needs none.
    """


class QuantWrapper(nn.Module):
    """A module between the two stubs: real numbers in, real numbers out.

    Args:
        module: The module to wrap; its ``qconfig`` and mode are taken over.
    """

    quant: QuantStub
    dequant: DeQuantStub
    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        checks.model("QuantWrapper", module)
        qconfig = getattr(module, "qconfig", None)
        self.add_module("quant", QuantStub(qconfig))
        self.add_module("dequant", DeQuantStub(qconfig))
        self.add_module("module", module)
        self.train(module.training)

    def forward(self, *inputs: Tensor, **kwargs: Any) -> Tensor:
        """``dequant(module(quant(x)))``; only the first input is quantized here."""
        if not inputs:
            raise ArgumentError("QuantWrapper: the input to quantize comes by place", received=0)
        first, *rest = inputs
        return self.dequant(self.module(self.quant(first), *rest, **kwargs))
