"""What a row of the registry says of an operator, and how a call becomes a module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, nn

from qlab.dtypes import QDType
from qlab.errors import ArgumentError, UnsupportedError
from qlab.nn.aware import QuantizationAware
from qlab.nn.lift import Lifter
from qlab.nn.quantized import QuantizedModule
from qlab.nn.quantized.reference.base import ReferenceModule
from qlab.qparams import QParams


class OutputKind(Enum):
    """Where the scale and zero point of an operator's output come from."""

    OBSERVED = "observed"
    SHARED = "shared"
    FIXED = "fixed"
    FLOAT = "float"


@dataclass(frozen=True)
class OutputRule:
    """How an operator's output is quantized.

    Attributes:
        kind: OBSERVED: by its own calibrated range. SHARED: it keeps the (first) input's scale
            and zero point. FIXED: by a range that the mathematics fixes. FLOAT: not at all.
        low: Smallest output of a FIXED rule, real units.
        high: The limit of a FIXED rule's outputs, real units; itself one step out of reach.
    """

    kind: OutputKind
    low: float = 0.0
    high: float = 1.0

    def fixed_qparams(self, dtype: QDType) -> QParams:
        """Scale and zero point that spread every code over ``[low, high)``.

        ``s = (high - low) / levels`` and ``z = quant_min - low / s``; for sigmoid in quint8
        1/256 and 0, for tanh 2/256 and 128, as in the reference. float8 is symmetric:
        ``s = max(|low|, |high|) / largest finite value``.

        Raises:
            ArgumentError: The rule is not FIXED.
        """
        if self.kind is not OutputKind.FIXED:
            raise ArgumentError(
                "Only a FIXED output rule has a scale of its own", received=self.kind.name
            )
        if dtype.is_float:
            return QParams.per_tensor(max(-self.low, self.high) / dtype.quant_max, 0, dtype)
        scale = (self.high - self.low) / dtype.levels
        return QParams.per_tensor(scale, dtype.quant_min - round(self.low / scale), dtype)


OBSERVED = OutputRule(OutputKind.OBSERVED)
SHARED = OutputRule(OutputKind.SHARED)
FLOAT = OutputRule(OutputKind.FLOAT)
UNIT_INTERVAL = OutputRule(OutputKind.FIXED, 0.0, 1.0)
SIGNED_UNIT_INTERVAL = OutputRule(OutputKind.FIXED, -1.0, 1.0)


@dataclass(frozen=True)
class Row:
    """One operator.

    Attributes:
        name: Its name in plans and on screen.
        modules: Float and fused module classes that it covers, the plain one first.
        functions: The torch functions and operators of the same meaning.
        methods: The tensor methods of the same meaning.
        lift: Turns a call of one of them into a float module and its tensor inputs; see
            `qlab.nn.lift`. Not needed where there are neither.
        parameters: Names of the arguments of ``lift`` that must be real tensors, not nodes.
        static: The integer module; None where the operator itself runs on integer codes as it
            stands (`on_codes`).
        output: How the output is quantized.
        weight: Whether its integer module has a weight that is quantized.
        weight_axis: The weight's axis of output channels: what one scale per axis 0 means here.
        clamps: Whether it clamps its input between bounds that the model fixes. Where nothing else
            reads that input, codes beyond the bounds would be wasted: give the input the scale
            that its clamped values ask for.
        qat: The modules for quantization-aware training, each for one of `modules`.
        dynamic: The module that quantizes its input as it comes.
        qat_dynamic: The module that trains for it.
        reference: The float module that computes with its quantized weights, in place of
            the float module that carries them.
        custom: For a module that the eager workflow takes apart: the class that prepare makes of
            it, and the class that convert makes of that.
    """

    name: str
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    lift: Lifter | None = None
    parameters: tuple[str, ...] = ()
    static: type[QuantizedModule] | None = None
    output: OutputRule = OBSERVED
    weight: bool = False
    weight_axis: int = 0
    clamps: bool = False
    qat: tuple[type[QuantizationAware], ...] = ()
    dynamic: type[nn.Module] | None = None
    qat_dynamic: type[QuantizationAware] | None = None
    reference: type[ReferenceModule] | None = None
    custom: tuple[type[nn.Module], type[nn.Module]] | None = None

    @property
    def on_codes(self) -> bool:
        """Whether the operator only moves elements, so that it runs unchanged on codes."""
        return self.static is None and self.lift is None and self.output is SHARED


def lift_call(
    row: Row,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    constant: Callable[[Any], Tensor] = lambda value: value,
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A function or method call of a graph as a float module and the tensors it is called with.

    How the graph converter treats any call: lift it, look up ``row_for_module(type(module))``
    (``x + 2`` lifts to ``AddScalar``, whose row is not that of ``Add``), and from there go on as
    for a module of the model. Pass-through rows (`Row.on_codes`) are never lifted.

    Args:
        row: From `row_for_function` or `row_for_method`.
        args: The call's positional arguments; tensors may be graph nodes, numbers are numbers.
        kwargs: Its keyword arguments.
        constant: Reads the tensor behind an argument named in `Row.parameters`: a weight or bias.

    Returns:
        The float module in evaluation mode, and its inputs: the call's own tensor arguments.

    Raises:
        UnsupportedError: This form of the call has no integer module; the message says why, and
            the operator stays in float.
    """
    if row.lift is None:
        raise UnsupportedError(f"Calls of {row.name} cannot be lifted to a module")
    try:
        bound = inspect.signature(row.lift).bind(*args, **kwargs)
    except TypeError as error:
        raise UnsupportedError(
            f"This form of {row.name} has no integer module", received=str(error)
        ) from error
    for name in row.parameters:
        if bound.arguments.get(name) is not None:
            bound.arguments[name] = constant(bound.arguments[name])
    module, inputs = row.lift(*bound.args, **bound.kwargs)
    return module.eval(), inputs
