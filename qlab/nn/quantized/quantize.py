"""The way into codes and out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qlab import ops
from qlab.dtypes import QDType, as_qdtype, quint8
from qlab.errors import ArgumentError, DTypeError
from qlab.nn.quantized.base import Output, QuantizedModule
from qlab.nn.quantized.holder import OUTPUT, qparams_of_numbers
from qlab.nn.stubs import DeQuantStub, QuantStub
from qlab.qparams import QParams
from qlab.qtensor import QTensor


class Quantize(QuantizedModule):
    """Real numbers → codes: ``clamp(rint(x / scale + zero_point))``.

    Gives a `QTensor`; after ``bind_inputs()`` without arguments, as in a converted graph, a plain
    tensor of codes.

    Args:
        scale: Real units per code; a number or a tensor of one.
        zero_point: The code that stands for 0.0.
        dtype: Quantized data type of the output.
        factory_kwargs: ``device`` of the buffers; a ``dtype`` among them changes nothing.
    """

    float_types = (QuantStub,)
    own_memory = True

    def __init__(
        self,
        scale: float | Tensor = 1.0,
        zero_point: int | Tensor = 0,
        dtype: QDType | str | torch.dtype = quint8,
        factory_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            numbers = float(scale), int(zero_point)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                "Quantize: scale and zero point are numbers",
                expected="a number, or a tensor of one, each",
                received=f"scale={scale!r}, zero_point={zero_point!r}",
            ) from error
        self.set_qparams(OUTPUT, qparams_of_numbers(*numbers, as_qdtype(dtype)))
        self.to((factory_kwargs or {}).get("device"))

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803  # pyright: ignore[reportIncompatibleMethodOverride]
        """Floating-point tensor of any shape → `QTensor` or codes of that shape.

        Raises:
            DTypeError: Not floating point, or quantized already.
        """
        if torch.compiler.is_compiling():
            self.know()
        if isinstance(X, QTensor):
            raise DTypeError(
                "Quantize: the tensor is quantized already",
                expected="real numbers",
                received=repr(X.qdtype),
                fix="Remove this Quantize (or QuantStub), or dequantize before it.",
            )
        output = self._own_output()
        codes = ops.quantize(X, output)
        return codes if self.input_qparams is not None else QTensor(codes, output)


class DeQuantize(QuantizedModule):
    """Codes → real numbers: ``(q - zero_point) · scale``, float32.

    Without bound inputs it passes real numbers through as they are, since in an eager model the
    module before it may have stayed in float.
    """

    float_types = (DeQuantStub,)
    output_of = Output.FLOAT

    def forward(self, Xq: Tensor) -> Tensor:  # noqa: N803  # pyright: ignore[reportIncompatibleMethodOverride]
        """`QTensor`, or codes if inputs are bound → float32 of the same shape."""
        if torch.compiler.is_compiling():
            self.know()
        if not isinstance(Xq, Tensor):
            raise self._not_quantized((Xq,))
        passes = self.input_qparams is None and not isinstance(Xq, QTensor)
        return Xq if passes and Xq.is_floating_point() else super().forward(Xq)

    def compute(self, x: Tensor, x_qparams: QParams) -> Tensor:
        """``(q - zero_point) · scale``."""
        return ops.dequantize(x, x_qparams)
