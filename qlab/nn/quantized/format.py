"""`CodeFormat`: how a tensor's codes are to be read, apart from the numbers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import FormatError, QlabError
from qlab.granularity import Granularity, granularity_from_dict, granularity_to_dict
from qlab.qparams import QParams


@dataclass(frozen=True)
class CodeFormat:
    """A `QParams` without its tensors: what a module's configuration says of scale and zero point.

    Attributes:
        dtype: The quantized data type.
        granularity: Which elements share a scale.
        quant_min: Smallest code in use.
        quant_max: Largest code in use.
    """

    dtype: QDType
    granularity: Granularity
    quant_min: int
    quant_max: int

    @classmethod
    def of(cls, qparams: QParams) -> CodeFormat:
        """The format of some quantization parameters."""
        return cls(qparams.dtype, qparams.granularity, qparams.quant_min, qparams.quant_max)

    def with_values(self, scale: Tensor, zero_point: Tensor) -> QParams:
        """Quantization parameters of this format; the tensors are shared, not copied."""
        return QParams(
            scale, zero_point, self.dtype, self.granularity, self.quant_min, self.quant_max
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `from_dict`."""
        return {
            "dtype": self.dtype.name,
            "granularity": granularity_to_dict(self.granularity),
            "quant_min": self.quant_min,
            "quant_max": self.quant_max,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CodeFormat:
        """Inverse of `to_dict`.

        Raises:
            FormatError: Keys are missing or unknown, or a value makes no sense.
        """
        match data:
            case {
                "dtype": str(dtype),
                "granularity": dict(granularity),
                "quant_min": int(low),
                "quant_max": int(high),
                **rest,
            } if not rest:
                try:
                    return cls(as_qdtype(dtype), granularity_from_dict(granularity), low, high)
                except QlabError as error:
                    raise FormatError(f"Not a format of codes: {error}") from error
        raise FormatError(
            "Not a format of codes",
            expected="the keys dtype, granularity, quant_min and quant_max",
            received=repr(data),
        )
