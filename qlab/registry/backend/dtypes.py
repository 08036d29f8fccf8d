"""Which data types a backend takes: for input, output, weight and bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import UnknownNameError

DType = QDType | torch.dtype | None


@dataclass
class DTypeWithConstraints:
    """A data type, and what a backend asks of scale, zero point and codes.

    Attributes:
        dtype: A quantized type, a floating-point type, or None for any.
        quant_min_lower_bound: Smallest code that may be used.
        quant_max_upper_bound: Largest code that may be used.
        scale_min_lower_bound: The least that an observer's ``eps`` must be, real units per code.
        scale_max_upper_bound: Kept, not checked, as in the reference.
        scale_exact_match: The only scale, for an output of a fixed range.
        zero_point_exact_match: The only zero point, likewise.
    """

    dtype: DType = None
    quant_min_lower_bound: int | float | None = None
    quant_max_upper_bound: int | float | None = None
    scale_min_lower_bound: int | float | None = None
    scale_max_upper_bound: int | float | None = None
    scale_exact_match: float | None = None
    zero_point_exact_match: int | None = None

    def __post_init__(self) -> None:
        floating = isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point
        if self.dtype is not None and not floating:
            self.dtype = as_qdtype(self.dtype)

    @property
    def quantized(self) -> bool:
        """Whether it asks for codes."""
        return isinstance(self.dtype, QDType)


Given = DType | str | DTypeWithConstraints
_ROLES = ("input_dtype", "output_dtype", "weight_dtype")


@dataclass(init=False)
class DTypeConfig:
    """One combination of data types that a backend takes.

    Attributes:
        input_dtype_with_constraints: Of the input.
        output_dtype_with_constraints: Of the output.
        weight_dtype_with_constraints: Of the weight.
        bias_dtype: Of the bias.
        is_dynamic: Whether the input is quantized as it comes.
    """

    input_dtype_with_constraints: DTypeWithConstraints
    output_dtype_with_constraints: DTypeWithConstraints
    weight_dtype_with_constraints: DTypeWithConstraints
    bias_dtype: torch.dtype | None
    is_dynamic: bool | None

    def __init__(
        self,
        input_dtype: Given = None,
        output_dtype: Given = None,
        weight_dtype: Given = None,
        bias_dtype: torch.dtype | None = None,
        is_dynamic: bool | None = None,
    ) -> None:
        self.input_dtype_with_constraints = _constrained(input_dtype)
        self.output_dtype_with_constraints = _constrained(output_dtype)
        self.weight_dtype_with_constraints = _constrained(weight_dtype)
        self.bias_dtype = bias_dtype
        self.is_dynamic = is_dynamic

    @property
    def input_dtype(self) -> DType:
        """The data type of the input."""
        return self.input_dtype_with_constraints.dtype

    @property
    def output_dtype(self) -> DType:
        """The data type of the output."""
        return self.output_dtype_with_constraints.dtype

    @property
    def weight_dtype(self) -> DType:
        """The data type of the weight."""
        return self.weight_dtype_with_constraints.dtype

    @classmethod
    def from_dict(cls, dtype_config_dict: Mapping[str, Any]) -> Self:
        """From the reference's dict form: data types, or dicts of `DTypeWithConstraints`.

        Raises:
            UnknownNameError: A key that is not known.
        """
        known = (*_ROLES, "bias_dtype", "is_dynamic")
        check_keys(cls, dtype_config_dict, known)
        given = dict(dtype_config_dict)
        for role in _ROLES:
            if isinstance(given.get(role), Mapping):
                names = [field.name for field in fields(DTypeWithConstraints)]
                check_keys(DTypeWithConstraints, given[role], names)
                given[role] = DTypeWithConstraints(**given[role])
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """The reference's dict form; what is not set is left out."""
        given: dict[str, Any] = {}
        for role in _ROLES:
            constrained = getattr(self, f"{role}_with_constraints")
            if constrained.dtype is not None:
                given[role] = constrained
        if self.bias_dtype is not None:
            given["bias_dtype"] = self.bias_dtype
        if self.is_dynamic is not None:
            given["is_dynamic"] = self.is_dynamic
        return given


def _constrained(given: Any) -> DTypeWithConstraints:
    return given if isinstance(given, DTypeWithConstraints) else DTypeWithConstraints(given)


def check_keys(owner: type, given: Mapping[str, Any], known: Any) -> None:
    """Raises `UnknownNameError` for a key that ``owner`` does not know."""
    for key in given:
        if key not in known:
            raise UnknownNameError.of(f"entry of {owner.__name__}", key, known)
