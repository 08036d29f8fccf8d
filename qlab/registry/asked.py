"""What a qconfig asks for one tensor, read from the factory it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from qlab.errors import DTypeError
from qlab.granularity import PerAxis
from qlab.observers import ActivationPostProcess, Factory, spec_from
from qlab.ranges import Fixed, TensorSpec
from qlab.registry.rows import OutputKind, OutputRule, Row


@dataclass(frozen=True)
class Asked:
    """What a factory of observers asks for a tensor.

    Attributes:
        spec: How to quantize it; None leaves it in floating point.
        dynamic: Whether scale and zero point are to be found anew for every input.
    """

    spec: TensorSpec | None
    dynamic: bool = False


def asked_by(factory: Factory | None) -> Asked:
    """Reads a factory by making one observer.

    Args:
        factory: What a `QConfig` holds: an observer or fake-quantize class of qlab or of one's
            own, with arguments filled in or not; ``torch.nn.Identity`` or None.

    Raises:
        DTypeError: It makes no observer; names it.
    """
    made: Any = nn.Identity() if factory is None else factory()
    if isinstance(made, nn.Identity):
        return Asked(None)
    dynamic = bool(getattr(made, "is_dynamic", False))
    if isinstance(made, ActivationPostProcess):
        return Asked(made.spec, dynamic)
    if not callable(getattr(made, "calculate_qparams", None)):
        raise DTypeError(
            "A qconfig holds something that makes no observer",
            expected="a class or factory of observers, which have calculate_qparams()",
            received=repr(factory),
        )
    return Asked(spec_from(made), dynamic)


def weight_spec(row: Row, asked: TensorSpec | None) -> TensorSpec | None:
    """The spec of an operator's weight: as asked, with axis 0 read as that of output channels."""
    if asked is None or asked.granularity != PerAxis(0):
        return asked
    return replace(asked, granularity=PerAxis(row.weight_axis))


def output_spec(rule: OutputRule, asked: TensorSpec) -> TensorSpec:
    """The spec of an operator's output: as asked, or the range that its mathematics fixes."""
    if rule.kind is not OutputKind.FIXED or isinstance(asked.policy, Fixed):
        return asked
    fixed = rule.fixed_qparams(asked.dtype)
    return TensorSpec(asked.dtype, policy=Fixed(fixed.scale_value, fixed.zero_point_value))
