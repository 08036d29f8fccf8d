"""`QParams`: everything needed to turn real numbers into codes and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import ArgumentError, DTypeError, NonFiniteError, QlabError, ShapeError
from qlab.granularity import Granularity, PerTensor

_OWN = -(2**63)  # stands for "the data type's own limit"


def check_tensor(x: object, what: str, name: str = "input") -> None:
    """Raises `DTypeError` unless ``x``, the ``name`` of the operation ``what``, is a tensor."""
    if not isinstance(x, Tensor):
        raise DTypeError(
            f"{what}: the {name} is not a tensor",
            expected="a torch.Tensor",
            received=type(x).__name__,
        )


@dataclass(frozen=True, eq=False)
class QParams:
    """Everything needed to turn real numbers into codes and back: ``x ≈ (q - zero_point) * scale``.

    Attributes:
        scale: float32, shape ``granularity.scale_shape(tensor shape)``; real units per code.
        zero_point: int32, same shape; the code that stands for 0.0. All 0 for float8. float32, and
            then not always a code, where ranges need not contain 0 (embeddings).
        dtype: The quantized data type.
        granularity: Which elements share a scale.
        quant_min: Smallest code in use; the type's own if not given.
        quant_max: Largest code in use; the type's own if not given.
    """

    scale: Tensor
    zero_point: Tensor
    dtype: QDType
    granularity: Granularity = field(default_factory=PerTensor)
    quant_min: int = _OWN
    quant_max: int = _OWN

    def __post_init__(self) -> None:
        for name in ("scale", "zero_point"):
            check_tensor(getattr(self, name), "QParams", name.replace("_", " "))
        if not isinstance(self.dtype, QDType):
            object.__setattr__(self, "dtype", as_qdtype(self.dtype))
        if self.quant_min == _OWN:
            object.__setattr__(self, "quant_min", self.dtype.quant_min)
        if self.quant_max == _OWN:
            object.__setattr__(self, "quant_max", self.dtype.quant_max)
        check_quant_range(self.dtype, self.quant_min, self.quant_max)
        if self.scale.shape != self.zero_point.shape:
            raise ShapeError(
                "QParams: scale and zero point have different shapes",
                expected=f"zero point of shape {tuple(self.scale.shape)}",
                received=f"shape {tuple(self.zero_point.shape)}",
            )

    @classmethod
    def per_tensor(
        cls,
        scale: float | Tensor,
        zero_point: float | Tensor,
        dtype: QDType,
        device: torch.device | None = None,
    ) -> QParams:
        """One checked scale and zero point for a whole tensor.

        Args:
            scale: Positive, finite; real units per code. A number, or a tensor that holds one.
            zero_point: Whole, between the type's smallest and largest code; likewise.
            dtype: The quantized data type.
            device: Where the tensors are put.
        """
        try:
            numbers = float(scale), int(zero_point)
            tensors = (
                torch.tensor(numbers[0], dtype=torch.float32, device=device),
                torch.tensor(numbers[1], dtype=torch.int32, device=device),
            )
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ArgumentError(
                "A scale is a number, and a zero point a 32-bit whole number",
                received=f"scale={scale!r}, zero_point={zero_point!r}",
            ) from error
        if numbers[1] != zero_point:
            raise ArgumentError("A zero point must be a whole number", received=zero_point)
        made = cls(*tensors, dtype)
        made.check()
        return made

    def check(self) -> None:
        """Raises unless every scale is positive and finite and every zero point is a valid code.

        Raises:
            NonFiniteError: A scale, or a float zero point, is NaN or infinite.
            ArgumentError: A scale is not positive, or a zero point is out of range.
        """
        if not bool(torch.isfinite(self.scale).all()):
            raise NonFiniteError("A scale must be finite", received=self.scale.tolist())
        if bool((self.scale <= 0).any()):
            raise ArgumentError("A scale must be positive in float32", received=self.scale.tolist())
        if self.float_zero_point:
            if not bool(torch.isfinite(self.zero_point).all()):
                raise NonFiniteError(
                    "A zero point must be finite", received=self.zero_point.tolist()
                )
            return
        low, high = (0, 0) if self.dtype.is_float else (self.quant_min, self.quant_max)
        if bool(((self.zero_point < low) | (self.zero_point > high)).any()):
            raise ArgumentError(
                f"A zero point must be a code of {self.dtype.name}",
                expected=f"{low} to {high}",
                received=self.zero_point.tolist(),
            )

    @cached_property
    def sound(self) -> bool:
        """Whether `check` finds nothing wrong; of tensors without data nothing is known to be."""
        if self.scale.is_meta or self.zero_point.is_meta:
            return True
        if self.scale.dim() or self.float_zero_point or self.dtype.is_float:
            try:
                self.check()
            except QlabError:
                return False
            return True
        in_use = self.quant_min <= self.zero_point_value <= self.quant_max
        return 0.0 < self.scale_value < math.inf and in_use

    @property
    def float_zero_point(self) -> bool:
        """Whether zero points may be any real number, as for the rows of an embedding."""
        return self.zero_point.is_floating_point()

    @cached_property
    def scale_value(self) -> float:
        """The one scale of a per-tensor granularity as a Python number."""
        return float(self.scale)

    @cached_property
    def zero_point_value(self) -> int:
        """The one zero point of a per-tensor granularity as a Python number."""
        return int(self.zero_point)

    @cached_property
    def symmetric_around_zero(self) -> bool:
        """Whether every zero point is 0, which integer kernels ask of weights."""
        return not bool(self.zero_point.any())

    @property
    def per_tensor_granularity(self) -> bool:
        """Whether one scale covers the whole tensor."""
        return isinstance(self.granularity, PerTensor)

    def to(self, device: torch.device | str) -> QParams:
        """The same parameters with their tensors on ``device``."""
        return replace(self, scale=self.scale.to(device), zero_point=self.zero_point.to(device))

    def whole_range(self) -> QParams:
        """The same parameters with every code of the type in use.

        An observer's range of codes fixes its scale; what the integer network then sees may lie
        beyond it and is not clamped to it, as in the reference.
        """
        return replace(self, quant_min=_OWN, quant_max=_OWN)

    def same_as(self, other: QParams) -> bool:
        """Whether two sets of parameters map every number to the same code."""
        mine = self.dtype, self.granularity, self.quant_min, self.quant_max
        if mine != (other.dtype, other.granularity, other.quant_min, other.quant_max):
            return False
        plain = not (self.scale.dim() or self.float_zero_point or other.float_zero_point)
        if plain and not other.scale.dim():  # as numbers, which a compiler's trace can compare
            same_scale = self.scale_value == other.scale_value
            return same_scale and self.zero_point_value == other.zero_point_value
        return torch.equal(self.scale, other.scale) and torch.equal(
            self.zero_point, other.zero_point
        )


def check_quant_range(dtype: QDType, quant_min: int, quant_max: int) -> None:
    """Raises `ArgumentError` unless the codes lie in ``dtype`` and there are at least two."""
    whole = all(isinstance(code, int) for code in (quant_min, quant_max))
    if not whole or not dtype.quant_min <= quant_min < quant_max <= dtype.quant_max:
        raise ArgumentError(
            f"The range of codes does not fit {dtype.name}",
            expected=f"{dtype.quant_min} <= quant_min < quant_max <= {dtype.quant_max}",
            received=f"quant_min={quant_min}, quant_max={quant_max}",
        )


def reduced_range(dtype: QDType) -> tuple[int, int]:
    """The codes of ``dtype`` with one bit left unused, which old kernels need not to saturate.

    ``quint8`` → (0, 127); ``qint8`` → (-64, 63). Floor division, as in the reference.
    """
    if dtype.is_float:
        raise DTypeError("reduce_range applies to integer types", received=dtype.name)
    return dtype.quant_min // 2, dtype.quant_max // 2
