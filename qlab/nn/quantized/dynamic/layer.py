"""What dynamically quantized linear layers and convolutions share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import DTypeError, FormatError
from qlab.nn.quantized.base import Output
from qlab.nn.quantized.holder import constant_in_traces
from qlab.nn.quantized.weighted import WeightedModule
from qlab.ops.traced import contract, described
from qlab.qtensor import QTensor


class DynamicLayer(WeightedModule):
    """A layer with a quantized weight that finds scale and zero point of every input itself.

    Attributes:
        input_dtype: What the input is quantized to: `qlab.quint8` or `qlab.qint8`.
        reduce_range: Use half of its codes, as the reference does.
    """

    output_of = Output.FLOAT
    input_dtype: QDType
    reduce_range: bool

    def _check_real(self, x: Any) -> None:
        if not isinstance(x, Tensor) or isinstance(x, QTensor) or not x.is_floating_point():
            raise DTypeError(
                f"{self._get_name()} takes real numbers and quantizes them itself",
                expected="a floating-point tensor",
                received=str(x.dtype) if type(x) is Tensor else type(x).__name__,
                fix="Call .dequantize() first (in a model: insert DeQuantStub before it).",
            )

    def _traced(self, x: Tensor) -> Tensor:
        """The layer as a compiler sees it."""
        self.know()
        scale, zero_point = self.weight_qparams.scale, self.weight_qparams.zero_point
        layer = self.get_buffer("weight_codes"), scale, zero_point, self.bias()
        return contract(self._cache["call"], x.to(torch.float32), *layer).to(x.dtype)

    @constant_in_traces
    def know(self) -> bool:
        """As every module; and the call in words."""
        options = {"dtype": self.input_dtype.name, "reduce_range": self.reduce_range}
        options |= self._options()
        name = f"{type(self).op.__name__}_dynamic"
        self._cache["call"] = described(name, None, self.weight_qparams, None, options)
        return True

    def config(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values; `from_config` reads it back."""
        own = {"input_dtype": self.input_dtype.name, "reduce_range": self.reduce_range}
        return {**super().config(), **own}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """As in `QuantizedModule`, with ``input_dtype`` and ``reduce_range``."""
        rest = dict(config)
        input_dtype, reduce_range = rest.pop("input_dtype", None), rest.pop("reduce_range", None)
        if not (isinstance(input_dtype, str) and isinstance(reduce_range, bool)):
            raise FormatError(
                f"Not a configuration of {cls.__name__}",
                expected="input_dtype as text and reduce_range as true or false",
                received=repr(config),
            )
        made = super().from_config(rest)
        made.input_dtype, made.reduce_range = as_qdtype(input_dtype), reduce_range
        return made

    def _get_name(self) -> str:
        return f"DynamicQuantized{type(self).__name__}"
