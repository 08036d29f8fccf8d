"""What a qconfig asks of a dynamically quantized layer, read in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlab.dtypes import QDType, as_qdtype, quint8
from qlab.errors import UncalibratedError, UnsupportedError
from qlab.nn.quantized.observed import qparams_of
from qlab.observers import Factory, default_weight_observer
from qlab.qconfig import default_dynamic_qconfig
from qlab.qparams import quantize
from qlab.qtensor import QTensor

WeightDType = QDType | torch.dtype
"""A quantized data type, or ``torch.float16``."""


@dataclass(frozen=True)
class DynamicRequest:
    """How a layer is to be quantized dynamically.

    Attributes:
        weight: Makes the observer of each weight.
        weight_dtype: What weights are stored as.
        input_dtype: What inputs are quantized to.
    """

    weight: Factory
    weight_dtype: WeightDType
    input_dtype: QDType

    @classmethod
    def of(cls, mod: nn.Module) -> DynamicRequest:
        """Reads the ``qconfig`` of a module; None, or no weight in it, means the default.

        Raises:
            UncalibratedError: The module has no attribute ``qconfig``.
            UnsupportedError: The weight is to stay in float32.
        """
        if "qconfig" not in vars(mod):
            raise UncalibratedError(
                f"{type(mod).__name__} has no qconfig",
                fix="Call quantize_dynamic on the model, or set module.qconfig = "
                "default_dynamic_qconfig.",
            )
        qconfig: Any = mod.qconfig or default_dynamic_qconfig
        weight = qconfig.weight or default_weight_observer
        weight_dtype = _dtype_of(weight)
        if weight_dtype is torch.float32:
            raise UnsupportedError(
                f"{type(mod).__name__}: a dynamically quantized layer has a quantized weight",
                expected="a weight observer for integers, or of dtype torch.float16",
                received=repr(weight),
            )
        return cls(weight, weight_dtype, cls.input_dtype_of(qconfig.activation))

    @staticmethod
    def input_dtype_of(activation: Factory | None) -> QDType:
        """What inputs are quantized to in every call; quint8 where nothing else is asked for."""
        dtype = _dtype_of(activation)
        return dtype if isinstance(dtype, QDType) else quint8

    def quantized(self, weight: Tensor) -> Tensor:
        """A weight as `QTensor`, by an observer of its own; as it is for ``torch.float16``."""
        weight = weight.detach().to(torch.float32)
        if self.weight_dtype is torch.float16:
            return weight
        observer = self.weight()
        observer(weight)
        qparams = qparams_of(observer)
        assert qparams is not None
        qparams = qparams.to(weight.device)
        return QTensor(quantize(weight, qparams), qparams)


def _dtype_of(factory: Factory | None) -> WeightDType:
    """What a factory's observer quantizes to; ``torch.float32`` for nothing."""
    observer = None if factory is None else factory()
    if observer is None or isinstance(observer, nn.Identity):
        return torch.float32
    dtype = observer.dtype
    floating = isinstance(dtype, torch.dtype) and dtype in (torch.float16, torch.float32)
    return dtype if floating else as_qdtype(dtype)
