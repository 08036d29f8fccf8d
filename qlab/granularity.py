"""Which elements of a tensor share one scale and zero point."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from numbers import Integral

import torch
from torch import Tensor

from qlab.errors import ArgumentError, ShapeError, UnknownNameError


def _check_axis(axis: int, shape: torch.Size | tuple[int, ...], owner: str) -> int:
    if not isinstance(axis, Integral):
        raise ArgumentError(f"{owner}: an axis is a whole number", received=repr(axis))
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(
            f"{owner}: the tensor has no axis {axis}",
            expected=f"an axis from {-len(shape)} to {len(shape) - 1}",
            received=f"shape {tuple(shape)}",
        )
    return axis % len(shape)


class Granularity(ABC):
    """Maps a tensor's shape to the shape of its scales."""

    @abstractmethod
    def scale_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scale tensor for a tensor of ``shape``.

        Raises:
            ShapeError: The shape lacks the axis, or the axis does not divide into groups.
        """

    @abstractmethod
    def expand(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """Views one value per scale so that it broadcasts against a tensor of ``shape``.

        Args:
            values: Scales or zero points, shape ``scale_shape(shape)``.
            shape: The tensor's shape.
        """

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """Gathers the elements that share a scale: shape ``(number of scales, elements each)``.

        Row ``i`` belongs to element ``i`` of the flattened scale tensor.
        """

    def check_values(self, values: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
        """Raises `ShapeError` unless ``values`` has the shape ``scale_shape(shape)``."""
        expected = self.scale_shape(shape)
        if tuple(values.shape) != expected:
            raise ShapeError(
                f"The {what} does not fit the tensor of shape {tuple(shape)} under {self}",
                expected=f"shape {expected}",
                received=f"shape {tuple(values.shape)}",
            )


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One scale for the whole tensor: any shape → ``()``."""

    def scale_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        return ()

    def expand(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        return values

    def rows(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1)


@dataclass(frozen=True)
class PerAxis(Granularity):
    """One scale per index of an axis: ``(8, 3, 5, 5)`` with axis 0 → ``(8,)``."""

    axis: int = 0

    def scale_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        return (shape[_check_axis(self.axis, shape, str(self))],)

    def expand(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        view = [1] * len(shape)
        view[_check_axis(self.axis, shape, str(self))] = -1
        return values.reshape(view)

    def rows(self, x: Tensor) -> Tensor:
        axis = _check_axis(self.axis, x.shape, str(self))
        moved = x.movedim(axis, 0)
        return moved.reshape(x.shape[axis], math.prod(moved.shape[1:]))


@dataclass(frozen=True)
class PerGroup(Granularity):
    """One scale per run of ``group_size`` neighbours along an axis.

    ``(8, 64)`` with groups of 16 along axis 1 → ``(8, 4)``. The axis must divide evenly.
    """

    group_size: int
    axis: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.group_size, Integral) or self.group_size < 1:
            raise ArgumentError(
                "PerGroup: the group size must be positive, and a whole number",
                received=repr(self.group_size),
            )

    def scale_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        axis = _check_axis(self.axis, shape, str(self))
        if shape[axis] % self.group_size:
            raise ShapeError(
                f"{self}: axis {axis} does not divide into groups",
                expected=f"a length divisible by {self.group_size}",
                received=f"length {shape[axis]} in shape {tuple(shape)}",
                fix="Choose a group size that divides the axis, or PerAxis.",
            )
        return (*shape[:axis], shape[axis] // self.group_size, *shape[axis + 1 :])

    def expand(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        axis = _check_axis(self.axis, shape, str(self))
        return values.repeat_interleave(self.group_size, dim=axis)

    def rows(self, x: Tensor) -> Tensor:
        self.scale_shape(x.shape)
        axis = _check_axis(self.axis, x.shape, str(self))
        split = x.unflatten(axis, (-1, self.group_size)).movedim(axis + 1, -1)
        return split.reshape(-1, self.group_size)


def granularities_of(shape: tuple[int, ...], scales: tuple[int, ...]) -> list[Granularity]:
    """Every granularity that gives scales of one shape for tensors of another.

    ``(8, 8)`` with scales ``(8,)`` → one per row, one per column.
    """
    candidates: list[Granularity] = [PerTensor(), *map(PerAxis, range(len(shape)))]
    if len(scales) == len(shape):
        for axis, (size, groups) in enumerate(zip(shape, scales, strict=True)):
            if groups and size % groups == 0:
                candidates.append(PerGroup(size // groups, axis))
    return [found for found in candidates if _gives(found, shape, scales)]


def _gives(granularity: Granularity, shape: tuple[int, ...], scales: tuple[int, ...]) -> bool:
    try:
        return granularity.scale_shape(shape) == scales
    except ShapeError:
        return False


class QScheme(Enum):
    """The reference's names for granularity and symmetry together."""

    PER_TENSOR_AFFINE = "per_tensor_affine"
    PER_TENSOR_SYMMETRIC = "per_tensor_symmetric"
    PER_CHANNEL_AFFINE = "per_channel_affine"
    PER_CHANNEL_SYMMETRIC = "per_channel_symmetric"
    PER_CHANNEL_AFFINE_FLOAT_QPARAMS = "per_channel_affine_float_qparams"

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is fixed at the middle of the codes."""
        return self in (QScheme.PER_TENSOR_SYMMETRIC, QScheme.PER_CHANNEL_SYMMETRIC)

    @property
    def per_channel(self) -> bool:
        """Whether each index of an axis has its own scale."""
        return self not in (QScheme.PER_TENSOR_AFFINE, QScheme.PER_TENSOR_SYMMETRIC)

    def granularity(self, ch_axis: int = 0) -> Granularity:
        """The granularity this scheme means, with channels along ``ch_axis``."""
        return PerAxis(ch_axis) if self.per_channel else PerTensor()

    def __repr__(self) -> str:
        return f"qlab.{self.value}"

    __str__ = __repr__

    @classmethod
    def parse(cls, value: object) -> QScheme:
        """Reads a scheme from a member, its name, or the ``torch`` constant of that name.

        Raises:
            UnknownNameError: No scheme has this name.
        """
        if isinstance(value, cls):
            return value
        name = str(value).removeprefix("torch.")
        for member in cls:
            if member.value == name:
                return member
        raise UnknownNameError.of("quantization scheme", name, [m.value for m in cls])


per_tensor_affine = QScheme.PER_TENSOR_AFFINE
per_tensor_symmetric = QScheme.PER_TENSOR_SYMMETRIC
per_channel_affine = QScheme.PER_CHANNEL_AFFINE
per_channel_symmetric = QScheme.PER_CHANNEL_SYMMETRIC
per_channel_affine_float_qparams = QScheme.PER_CHANNEL_AFFINE_FLOAT_QPARAMS


def granularity_to_dict(granularity: Granularity) -> dict[str, int | str]:
    """JSON form of a granularity, read back by `granularity_from_dict`."""
    match granularity:
        case PerTensor():
            return {"kind": "per_tensor"}
        case PerAxis(axis):
            return {"kind": "per_axis", "axis": axis}
        case PerGroup(group_size, axis):
            return {"kind": "per_group", "group_size": group_size, "axis": axis}
    raise UnknownNameError.of(
        "granularity", type(granularity).__name__, ["PerTensor", "PerAxis", "PerGroup"]
    )


def granularity_from_dict(data: dict[str, int | str]) -> Granularity:
    """Inverse of `granularity_to_dict`.

    Raises:
        UnknownNameError: An unknown ``kind``.
    """
    match data:
        case {"kind": "per_tensor"}:
            return PerTensor()
        case {"kind": "per_axis", "axis": int(axis)}:
            return PerAxis(axis)
        case {"kind": "per_group", "group_size": int(size), "axis": int(axis)}:
            return PerGroup(size, axis)
    raise UnknownNameError.of("granularity", data, ["per_tensor", "per_axis", "per_group"])
