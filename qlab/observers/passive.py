"""Observers that choose nothing from the data: fixed, recording, or only a note to convert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import as_qdtype, quint8
from qlab.errors import UnsupportedError, check_type
from qlab.granularity import QScheme, per_tensor_affine
from qlab.observers.base import DTypeLike, ObserverBase
from qlab.ops import checks
from qlab.qparams import EPS, QParams
from qlab.ranges import Fixed, TensorSpec


class FixedQParamsObserver(ObserverBase):
    """A scale and a zero point that are known beforehand, such as those of a sigmoid.

    Args:
        scale: Positive, finite; real units per code.
        zero_point: A code of ``dtype``.
        dtype: The quantized data type.
        qscheme: Per tensor, affine or symmetric.
        quant_min: Smallest code to use; the type's own if None.
        quant_max: Largest code to use; the type's own if None.
        is_dynamic: Not supported; here because the reference has it.

    Raises:
        ArgumentError: A scale that is not positive and finite, or a zero point that is no code.
        UnsupportedError: A per-channel scheme, or ``is_dynamic``.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        scale: float,
        zero_point: int,
        dtype: DTypeLike = quint8,
        qscheme: QScheme | Any = per_tensor_affine,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
    ) -> None:
        self.qscheme = QScheme.parse(qscheme)
        if is_dynamic or self.qscheme.per_channel:
            raise UnsupportedError(
                "FixedQParamsObserver has one scale, known beforehand",
                expected="a per-tensor scheme and is_dynamic=False",
                received=f"{self.qscheme.value}, is_dynamic={is_dynamic}",
            )
        super().__init__(as_qdtype(dtype))
        kind = (int, float, Tensor)
        check_type("FixedQParamsObserver", "scale", scale, kind, "a positive number")
        check_type("FixedQParamsObserver", "zero_point", zero_point, kind, "a whole number")
        self._spec = TensorSpec(
            as_qdtype(dtype),
            self.qscheme.symmetric,
            policy=Fixed(float(scale), int(zero_point)),
            quant_min=quant_min,
            quant_max=quant_max,
        )
        self.quant_min, self.quant_max = self._spec.limits
        self.register_buffer("scale", torch.tensor([scale], dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor([zero_point], dtype=torch.int32))

    @property
    def spec(self) -> TensorSpec:
        """How the tensor is to be quantized."""
        return self._spec

    def qparams(self) -> QParams:
        """The fixed scale and zero point, on the device of the buffers."""
        scale, zero_point = self.scale.reshape(()), self.zero_point.reshape(())
        limits = self._spec.limits
        return QParams(scale, zero_point, self._spec.dtype, self._spec.granularity, *limits)

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns ``X``."""
        return X

    def extra_repr(self) -> str:
        return f"scale={self.scale}, zero_point={self.zero_point}"


class _NoQParamsObserver(ObserverBase):
    @property
    def spec(self) -> None:
        """None: there is no range to choose codes for."""
        return None

    def qparams(self) -> QParams:
        """Raises `UnsupportedError`: there is no scale and zero point."""
        raise UnsupportedError(
            f"{type(self).__name__} has no scale and zero point",
            fix="Use an observer with a range, such as MinMaxObserver or HistogramObserver.",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``."""
        return x


class PlaceholderObserver(_NoQParamsObserver):
    """Looks at nothing; marks what stays in floating point or is quantized anew for every input.

    Args:
        dtype: ``torch.float32``, ``torch.float16``, or the quantized type of a dynamic input.
        custom_op_name: Kept as ``custom_op``, as in the reference.
        compute_dtype: Older spelling of ``is_dynamic=True``.
        quant_min: Smallest code of a dynamic input.
        quant_max: Largest code of a dynamic input.
        qscheme: Scheme of a dynamic input.
        eps: Smallest scale of a dynamic input.
        is_dynamic: Whether scale and zero point shall be found anew for every input.
    """

    def __init__(
        self,
        dtype: DTypeLike = torch.float32,
        custom_op_name: str = "",
        compute_dtype: DTypeLike | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: QScheme | Any = None,
        eps: float | None = None,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic or compute_dtype is not None)
        self.custom_op = custom_op_name
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.qscheme = QScheme.parse(qscheme or per_tensor_affine)
        self.eps = EPS if eps is None else eps

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}, is_dynamic={self.is_dynamic}"


class NoopObserver(_NoQParamsObserver):
    """Looks at nothing; marks what is kept in floating point.

    Args:
        dtype: ``torch.float16`` or ``torch.float32``.
        custom_op_name: Kept as ``custom_op``, as in the reference.
    """

    def __init__(self, dtype: DTypeLike = torch.float16, custom_op_name: str = "") -> None:
        super().__init__(dtype)
        self.custom_op = custom_op_name


class ReuseInputObserver(_NoQParamsObserver):
    """Marks an operator whose output keeps the scale and zero point of its input."""

    def __init__(self) -> None:
        super().__init__(quint8)


class RecordingObserver(_NoQParamsObserver):
    """Keeps a copy of every tensor it sees, for debugging.

    Args:
        dtype: The quantized data type, kept for readers.
    """

    def __init__(self, dtype: DTypeLike = quint8) -> None:
        super().__init__(dtype)
        self.tensor_val: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Keeps a copy of ``x`` and returns ``x``."""
        checks.tensor("RecordingObserver", "input", x)
        self.tensor_val.append(x.detach().clone())
        return x

    def get_tensor_value(self) -> list[Tensor]:
        """Copies of all tensors seen, in order."""
        return self.tensor_val
