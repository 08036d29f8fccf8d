"""How a reference module knows its quantized weight: the float weight, and how to quantize it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype, quint8
from qlab.errors import ArgumentError, FormatError, UnsupportedError
from qlab.granularity import PerAxis, PerTensor, QScheme, per_channel_affine, per_tensor_affine
from qlab.qparams import QParams, quantize
from qlab.qtensor import QTensor

_KEYS = {"qscheme", "dtype", "scale", "zero_point", "axis", "quant_min", "quant_max"}


@dataclass(frozen=True)
class WeightForm:
    """How the codes of a weight are to be read, apart from scale and zero point.

    Attributes:
        qscheme: One scale per tensor or per channel; None leaves the weight in float.
        dtype: A quantized data type, or ``torch.float16``, to which the weight is rounded.
        axis: The axis of the channels.
    """

    qscheme: QScheme | None = per_tensor_affine
    dtype: QDType | torch.dtype = quint8
    axis: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> WeightForm:
        """From the reference's dict form, ``weight_qparams``.

        Raises:
            ArgumentError: ``qscheme`` or ``dtype`` is missing, or an entry is not known.
            UnknownNameError: There is no such scheme or type.
        """
        unknown = set(given) - _KEYS - {"is_decomposed"}
        if unknown or not {"qscheme", "dtype"} <= set(given):
            raise ArgumentError(
                "Not the parameters of a weight",
                expected=f"a dict of {', '.join(sorted(_KEYS))}",
                received=", ".join(map(repr, given)) or "no entries",
            )
        if given.get("is_decomposed"):
            raise UnsupportedError(
                "The decomposed form of a reference module does not exist",
                received="is_decomposed=True",
                fix="Leave it out: qlab's codes are plain integers already.",
            )
        scheme, dtype = given["qscheme"], given["dtype"]
        floating = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        return cls(
            None if scheme is None else QScheme.parse(scheme),
            dtype if floating else as_qdtype(dtype),
            int(given.get("axis", 0)),
        )

    @classmethod
    def of_qparams(cls, qparams: QParams) -> WeightForm:
        """The form of a weight's parameters.

        Raises:
            UnsupportedError: They are per group, which reference modules are not.
        """
        match qparams.granularity:
            case PerTensor():
                return cls(per_tensor_affine, qparams.dtype)
            case PerAxis(axis):
                return cls(per_channel_affine, qparams.dtype, axis)
        raise UnsupportedError(
            "A reference module has one scale per tensor or per channel",
            received=str(qparams.granularity),
        )

    @property
    def quantized(self) -> bool:
        """Whether the weight has codes."""
        return self.qscheme is not None and isinstance(self.dtype, QDType)

    def qparams(self, scale: Tensor, zero_point: Tensor) -> QParams:
        """The parameters of a weight of this form.

        Raises:
            QlabError: A scale is not positive and finite, or a zero point is not a code.
        """
        assert self.qscheme is not None and isinstance(self.dtype, QDType)
        if self.qscheme.per_channel:
            made = QParams(scale, zero_point, self.dtype, PerAxis(self.axis))
        else:
            made = QParams(scale.reshape(()), zero_point.reshape(()), self.dtype)
        made.check()
        return made

    def quantize(self, weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """A float weight as `QTensor`, or rounded to its floating-point dtype."""
        if self.quantized:
            qparams = self.qparams(scale, zero_point)
            return QTensor(quantize(weight.detach(), qparams), qparams)
        return weight.to(self.dtype) if isinstance(self.dtype, torch.dtype) else weight

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `from_dict`."""
        dtype = self.dtype.name if isinstance(self.dtype, QDType) else str(self.dtype)
        scheme = None if self.qscheme is None else self.qscheme.value
        return {"qscheme": scheme, "dtype": dtype, "axis": self.axis}

    @classmethod
    def from_dict(cls, data: Any) -> WeightForm:
        """Inverse of `to_dict`.

        Raises:
            FormatError: Keys are missing or unknown, or of another type.
        """
        match data:
            case {"qscheme": str() | None as scheme, "dtype": str(dtype), "axis": int(axis)}:
                halves = {str(torch.float16): torch.float16, str(torch.float32): torch.float32}
                scheme = None if scheme is None else QScheme.parse(scheme)
                return cls(scheme, halves.get(dtype) or as_qdtype(dtype), axis)
        raise FormatError(
            "Not the form of a weight",
            expected="the keys qscheme, dtype and axis",
            received=repr(data),
        )


def as_dict(qparams: QParams) -> dict[str, Any]:
    """A weight's parameters as the reference's ``weight_qparams``.

    Raises:
        UnsupportedError: They are per group, which reference modules are not.
    """
    form = WeightForm.of_qparams(qparams)
    return {
        "qscheme": form.qscheme,
        "dtype": form.dtype,
        "scale": qparams.scale,
        "zero_point": qparams.zero_point,
        "axis": form.axis,
    }
