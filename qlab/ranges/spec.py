"""`TensorSpec`: how to quantize one tensor."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype, integer, qint8, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    FormatError,
    NonFiniteError,
    UncalibratedError,
    check_type,
)
from qlab.granularity import (
    Granularity,
    PerAxis,
    PerGroup,
    PerTensor,
    granularity_from_dict,
    granularity_to_dict,
)
from qlab.qparams import EPS, QParams, check_float, check_quant_range, choose_qparams
from qlab.ranges.policies import MinMax, policy_from_dict
from qlab.ranges.policy import RangePolicy
from qlab.stats import TensorStats


@dataclass(frozen=True)
class TensorSpec:
    """How to quantize one tensor; hashable, with a JSON form.

    >>> spec = TensorSpec.int8_weight()
    >>> spec.with_bits(4).describe()
    'int4 symmetric per channel, min-max'
    >>> spec.qparams_of(torch.tensor([[0.0, 1.0], [-4.0, 2.0]])).scale * 127.5
    tensor([1., 4.])

    Attributes:
        dtype: Type of the codes; a name such as ``"qint8"`` is read as the type.
        symmetric: Fix the zero point at the middle code; float8 is always symmetric.
        granularity: Which elements share a scale.
        policy: How the range is chosen.
        quant_min: Smallest code to use; the type's own if None.
        quant_max: Largest code to use; the type's own if None.
        reduce_range: Halve the codes, for kernels whose sums saturate.
        eps: Smallest scale, real units per code.
        float_zero_point: Let the zero point be any real number (the reference's scheme for the
            rows of an embedding).

    Raises:
        UnknownNameError: No data type has this name.
        DTypeError: A field has the wrong type, or ``reduce_range`` was asked of float8.
        ArgumentError: The codes do not fit the data type, ``eps`` is not positive, a fixed zero
            point is no code, or a float zero point was asked of a symmetric or float8 type.
        UnsupportedError: The policy does not exist for the data type.
    """

    dtype: QDType = quint8
    symmetric: bool = False
    granularity: Granularity = field(default_factory=PerTensor)
    policy: RangePolicy = field(default_factory=MinMax)
    quant_min: int | None = None
    quant_max: int | None = None
    reduce_range: bool = False
    eps: float = EPS
    float_zero_point: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", as_qdtype(self.dtype))
        for name, kind in (("granularity", Granularity), ("policy", RangePolicy)):
            if not isinstance(value := getattr(self, name), kind):
                raise DTypeError(
                    f"TensorSpec: the {name} has the wrong type",
                    expected=f"an instance of {kind.__name__}",
                    received=repr(value),
                )
        check_type("TensorSpec", "eps", self.eps, (int, float), "a positive number")
        if not self.eps > 0:
            raise ArgumentError("TensorSpec: eps must be positive", received=self.eps)
        if self.float_zero_point and (self.symmetric or self.dtype.is_float):
            raise ArgumentError(
                "TensorSpec: a float zero point belongs to affine integers",
                received=f"{self.dtype.name}, symmetric={self.symmetric}",
            )
        check_quant_range(self.dtype, *self.limits)
        self.policy.check(self)

    @classmethod
    def int8_weight(cls, *, policy: RangePolicy | None = None, axis: int = 0) -> TensorSpec:
        """The usual spec of a weight: int8, symmetric, one scale per output channel."""
        return cls(qint8, True, PerAxis(axis), policy or MinMax())

    @classmethod
    def uint8_activation(cls, *, policy: RangePolicy | None = None) -> TensorSpec:
        """The usual spec of an activation: uint8, affine, one scale per tensor."""
        return cls(quint8, policy=policy or MinMax())

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code in use."""
        low = self.dtype.quant_min if self.quant_min is None else self.quant_min
        high = self.dtype.quant_max if self.quant_max is None else self.quant_max
        whole = (self.quant_min, self.quant_max) == (None, None)
        if not self.reduce_range or (whole and self.dtype.storage == torch.int32):
            return low, high  # 32 bits have room for any sum: the reference leaves them too
        if self.dtype.is_float:
            raise DTypeError("reduce_range applies to integer types", received=self.dtype.name)
        return low // 2, high // 2

    def choose(self, min_val: Tensor, max_val: Tensor) -> QParams:
        """Scale and zero point that cover a range; see `qlab.qparams.choose_qparams`."""
        given = self.reduce_range or (self.quant_min, self.quant_max) != (None, None)
        low, high = self.limits if given else (None, None)
        return choose_qparams(
            min_val,
            max_val,
            self.dtype,
            symmetric=self.symmetric,
            granularity=self.granularity,
            quant_min=low,
            quant_max=high,
            eps=self.eps,
            float_zero_point=self.float_zero_point,
        )

    def qparams(self, stats: TensorStats) -> QParams:
        """Scale and zero point from what a tensor looked like.

        A constant c gives the range from 0 to c, an all-zero tensor the scale ``eps``.

        Args:
            stats: With ``channel_axis`` where scales are per axis.

        Returns:
            One scale for `PerTensor`, under every policy; one per channel for `PerAxis`, under
            `MinMax` and `Fixed`. On the CPU.

        Raises:
            UncalibratedError: No data was seen.
            NonFiniteError: Only NaN and infinities were seen, in all or in one channel.
            UnsupportedError: Statistics do not hold what granularity and policy need.
        """
        return self.policy.qparams(stats, self)

    def qparams_of(self, tensor: Tensor) -> QParams:
        """Scale and zero point for a tensor at hand, such as a weight.

        A constant c gives the range from 0 to c, an all-zero tensor the scale ``eps``. NaN and
        infinities are left out; where scales are per axis or group they count as 0.

        Args:
            tensor: Any floating dtype, device and shape that the granularity fits.

        Returns:
            Scales of shape ``granularity.scale_shape(tensor.shape)`` on the tensor's device.

        Raises:
            DTypeError: The tensor is not floating point.
            ShapeError: The granularity does not fit the shape.
            UncalibratedError: The tensor is empty.
            NonFiniteError: No finite value in the tensor, or among those that share a scale.
        """
        if isinstance(self.granularity, PerTensor):
            stats = TensorStats(histogram=self.policy.needs_histogram)
            stats.update(tensor)
            return self.qparams(stats).to(tensor.device)
        rows, shape = self._rows(tensor), self.granularity.scale_shape(tensor.shape)
        if not rows.shape[0]:
            nothing = torch.zeros(shape, device=tensor.device)
            return self.choose(nothing, nothing)
        return self.policy.row_qparams(rows, self, shape).to(tensor.device)

    def _rows(self, tensor: Tensor) -> Tensor:
        check_float(tensor, "TensorSpec.qparams_of")
        rows = self.granularity.rows(tensor.detach().to(torch.float32))
        if rows.shape[0] and not rows.shape[1]:
            raise UncalibratedError(
                "No range to choose from: the tensor is empty",
                received=f"shape {tuple(tensor.shape)}",
            )
        if not rows.numel() or all(bool(end.isfinite()) for end in rows.aminmax()):
            return rows
        finite = rows.isfinite()
        empty = (~finite.any(1)).nonzero().flatten().tolist()
        if empty:
            raise NonFiniteError(
                "No range to choose from: every value that shares a scale is NaN or infinite",
                received=f"scales {empty}",
                fix="Look at how the tensor was made.",
            )
        return rows.where(finite, 0.0)

    def with_bits(self, bits: int) -> TensorSpec:
        """The same spec in another width, over all its codes.

        Args:
            bits: 2 to 8 or 16 (32 when signed); float8 becomes a signed integer.

        Raises:
            ArgumentError: No integer has this width.
        """
        dtype = integer(bits, signed=self.dtype.signed)
        return replace(self, dtype=dtype, quant_min=None, quant_max=None)

    def describe(self) -> str:
        """The spec in words, such as ``"int8 symmetric per channel, min-max"``."""
        words = [self.dtype.name.removeprefix("q")]
        if not self.dtype.is_float:
            words.append("symmetric" if self.symmetric else "affine")
        match self.granularity:
            case PerAxis(axis):
                words.append("per channel" if axis == 0 else f"per index of axis {axis}")
            case PerGroup(size):
                words.append(f"per group of {size}")
            case _:
                words.append("per tensor")
        low, high = self.limits
        if self.limits != (self.dtype.quant_min, self.dtype.quant_max):
            words.append(f"in codes {low} to {high}")
        if self.float_zero_point:
            words.append("with float zero points")
        return f"{' '.join(words)}, {self.policy.label}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `from_dict`."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "dtype": self.dtype.name,
            "granularity": granularity_to_dict(self.granularity),
            "policy": self.policy.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TensorSpec:
        """Inverse of `to_dict`; fields left out have their defaults.

        Raises:
            FormatError: An unknown field.
            UnknownNameError: An unknown data type, granularity or policy.
        """
        known = {f.name for f in fields(cls)}
        if unknown := data.keys() - known:
            raise FormatError(
                "A TensorSpec has no such field",
                expected=", ".join(f.name for f in fields(cls)),
                received=", ".join(sorted(unknown)),
            )
        read = {
            "dtype": as_qdtype,
            "granularity": granularity_from_dict,
            "policy": policy_from_dict,
        }
        return cls(**{name: read.get(name, lambda v: v)(value) for name, value in data.items()})
