"""What a quantized tensor answers about itself: type, size, storage, casts."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from qlab.dtypes import QDType
from qlab.errors import UnsupportedError
from qlab.qparams import QParams


class Answers(Tensor):
    """The questions about a tensor that torch would answer of float32, which has no storage here.

    They are answered of the codes, as the reference's quantized tensors answer them.
    """

    codes: Tensor
    qparams: QParams

    @property
    def dtype(self) -> QDType:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The quantized data type, such as ``qlab.quint8``; also named ``qdtype``."""
        return self.qparams.dtype

    def is_floating_point(self) -> bool:
        """False but for float8: so that a module's ``half()`` leaves quantized tensors alone."""
        return self.qparams.dtype.is_float

    def is_signed(self) -> bool:
        """Whether codes below zero exist."""
        return self.qparams.dtype.signed

    def element_size(self) -> int:
        """Bytes of one code in memory."""
        return self.codes.element_size()

    @property
    def itemsize(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Bytes of one code in memory."""
        return self.codes.element_size()

    @property
    def nbytes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Bytes of all codes in memory, without scales."""
        return self.codes.nbytes

    def untyped_storage(self) -> torch.UntypedStorage:
        """The bytes of the codes."""
        return self.codes.untyped_storage()

    def storage(self) -> torch.TypedStorage:
        """The codes as a typed storage, which torch itself warns against."""
        return self.codes.storage()

    def data_ptr(self) -> int:
        """Address of the first code."""
        return self.codes.data_ptr()

    def type(self, dtype: Any = None, non_blocking: bool = False, **kwargs: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``"qlab.QUInt8Tensor"``: the name that the reference has with ``torch`` before it.

        Raises:
            UnsupportedError: A type to cast to is given.
        """
        if dtype is not None:
            self._no_cast(dtype)
        name = self.qparams.dtype.name.replace("quint", "QUInt").replace("qint", "QInt")
        return f"qlab.{'cuda.' if self.is_cuda else ''}{name}Tensor"

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """The tensor on another device, or with another memory format.

        Raises:
            UnsupportedError: Another data type is asked for.
        """
        places: list[Any] = []
        for value in args:
            asked = value.dtype if isinstance(value, Tensor) else value
            if isinstance(asked, torch.dtype | QDType):
                self._check_cast(asked)
            if not isinstance(asked, torch.dtype | QDType) or isinstance(value, Tensor):
                places.append(value.device if isinstance(value, Tensor) else value)
        asked = kwargs.pop("dtype", None)
        if asked is not None:
            self._check_cast(asked)
        other = kwargs.pop("other", None)
        if other is not None:
            self._check_cast(other.dtype)
            places.insert(0, other.device)
        return super().to(*places, **kwargs) if places or kwargs else self

    def float(self, memory_format: Any = torch.preserve_format) -> NoReturn:
        """Raises `UnsupportedError`: real numbers are what ``dequantize()`` gives."""
        self._no_cast(torch.float32)

    def share_memory_(self) -> Any:
        """Moves codes and parameters into memory that processes share; the tensor itself."""
        for part in (self.codes, self.qparams.scale, self.qparams.zero_point):
            part.share_memory_()
        return self

    def is_shared(self) -> bool:
        """Whether the codes lie in memory that processes share."""
        return self.codes.is_shared()

    def __format__(self, format_spec: str) -> str:
        """A single element formats as its real number."""
        if self.dim() == 0 and format_spec:
            return format(self.item(), format_spec)
        return super().__format__(format_spec)

    def _check_cast(self, dtype: Any) -> None:
        if dtype != self.qparams.dtype:
            self._no_cast(dtype)

    def _no_cast(self, dtype: Any) -> NoReturn:
        raise UnsupportedError(
            "A quantized tensor cannot be cast to another dtype",
            expected=repr(self.qparams.dtype),
            received=f"{dtype}",
            fix="Call .dequantize().to(dtype), or quantize the float tensor anew.",
        )
