"""Between observers and specs: what a qconfig's factory means, and its JSON form."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qlab.errors import ArgumentError, UncalibratedError, UnknownNameError
from qlab.granularity import (
    Granularity,
    PerAxis,
    PerTensor,
    QScheme,
    per_channel_affine,
    per_channel_affine_float_qparams,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
)
from qlab.observers.base import ActivationPostProcess, ObserverBase, Partial
from qlab.observers.histogram import (
    EntropyObserver,
    HistogramObserver,
    MSEObserver,
    PercentileObserver,
)
from qlab.observers.minmax import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from qlab.observers.passive import (
    FixedQParamsObserver,
    NoopObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
)
from qlab.qparams import QParams
from qlab.ranges import (
    MSE,
    Entropy,
    Fixed,
    MinMax,
    MovingAverage,
    Percentile,
    RangePolicy,
    TensorSpec,
)

Factory = Callable[[], Any]

_REGISTERED: dict[str, type[nn.Module]] = {"Identity": nn.Identity}
_C = TypeVar("_C", bound=type[ActivationPostProcess])


def register_observer(cls: _C) -> _C:
    """Makes an observer or fake-quantize class known by its name; usable as a decorator.

    A registered class may stand in plans and in the JSON of a qconfig. Its ``spec`` must say fully
    how it quantizes: Lab computes qparams from the spec and statistics alone.

    Raises:
        ArgumentError: Another class has the name.
    """
    if _REGISTERED.setdefault(cls.__name__, cls) is not cls:
        raise ArgumentError(
            f"An observer named {cls.__name__} is already registered",
            fix="Give the class another name.",
        )
    return cls


def registered_observers() -> dict[str, type[nn.Module]]:
    """All registered classes by name, as a new dict."""
    return dict(_REGISTERED)


@register_observer
class SpecObserver(ObserverBase):
    """Any `TensorSpec`, for a tensor that is there as a whole, as a weight is.

    Scale and zero point are those of the tensor seen last. It does what no observer of the
    reference does: scales per group, or a percentile, MSE or entropy range per channel.

    Args:
        spec: How to quantize.
    """

    shaped_by_data = ("scale", "zero_point")

    scale: Tensor
    zero_point: Tensor

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec.dtype)
        self._spec = spec
        self.quant_min, self.quant_max = spec.limits
        self.reset_min_max_vals()

    @property
    def spec(self) -> TensorSpec:
        """How the tensor is to be quantized."""
        return self._spec

    def forward(self, x: Tensor) -> Tensor:
        """Chooses scale and zero point for ``x``, any shape that the spec fits; returns ``x``."""
        if x.numel():
            qparams = self._spec.qparams_of(x.detach())
            self.scale, self.zero_point = qparams.scale, qparams.zero_point
        return x

    def qparams(self) -> QParams:
        """Scale and zero point of the tensor seen last.

        Raises:
            UncalibratedError: No tensor was seen.
        """
        if not self.scale.numel():
            raise UncalibratedError(
                "SpecObserver has seen no data to choose a scale from",
                fix="Pass the weight through it first.",
            )
        spec = self._spec
        return QParams(self.scale, self.zero_point, spec.dtype, spec.granularity, *spec.limits)

    def reset_min_max_vals(self) -> None:
        """Forgets the tensor seen last."""
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))

    def extra_repr(self) -> str:
        return self._spec.describe()


def spec_of(factory: Factory | None) -> TensorSpec | None:
    """How the tensor behind a qconfig's factory is to be quantized.

    Args:
        factory: What a `QConfig` holds: an observer or fake-quantize class, a `Partial`, a
            `functools.partial`, ``torch.nn.Identity`` or None.

    Returns:
        The spec; None where the tensor stays in floating point (placeholder, no-op, recording,
        identity) or keeps its input's parameters.

    Raises:
        UnknownNameError: The factory makes no registered observer.
    """
    if factory is None or _class_of(factory) is nn.Identity:
        return None
    registered_name(factory)
    return factory().spec


def _class_of(factory: object) -> object:
    while isinstance(factory, Partial | functools.partial):
        factory = factory.func
    return factory


def registered_name(factory: object) -> str:
    """Name of the registered class that a factory makes.

    Raises:
        UnknownNameError: It makes no registered class.
    """
    cls = _class_of(factory)
    name = getattr(cls, "__name__", repr(cls))
    if _REGISTERED.get(name) is not cls:
        raise UnknownNameError(
            f"{factory!r} makes no registered observer",
            expected="one of: " + ", ".join(sorted(_REGISTERED)),
            fix="Use one of them, or qlab.observers.register_observer(cls) for a class of yours.",
        )
    return name


for _observer in (
    *(MinMaxObserver, MovingAverageMinMaxObserver),
    *(PerChannelMinMaxObserver, MovingAveragePerChannelMinMaxObserver),
    *(HistogramObserver, MSEObserver, PercentileObserver, EntropyObserver),
    *(FixedQParamsObserver, PlaceholderObserver, NoopObserver),
    *(RecordingObserver, ReuseInputObserver),
):
    register_observer(_observer)

_OBSERVERS: dict[tuple[type[RangePolicy], type[Granularity]], tuple[Any, dict[str, str]]] = {
    # What is to be done: the class that does it, and its arguments as fields of the policy.
    (MinMax, PerTensor): (MinMaxObserver, {}),
    (MinMax, PerAxis): (PerChannelMinMaxObserver, {}),
    (MovingAverage, PerTensor): (MovingAverageMinMaxObserver, {"averaging_constant": "constant"}),
    (MovingAverage, PerAxis): (
        MovingAveragePerChannelMinMaxObserver,
        {"averaging_constant": "constant"},
    ),
    (MSE, PerTensor): (HistogramObserver, {}),
    (Percentile, PerTensor): (PercentileObserver, {"percent": "percent"}),
    (Entropy, PerTensor): (EntropyObserver, {"bins": "bins"}),
}


def observer_for(spec: TensorSpec) -> Partial:
    """A factory of observers that quantize by a spec: the inverse of `spec_of`.

    Args:
        spec: How to quantize.

    Returns:
        The reference's observer where there is one, otherwise one of qlab's own; `SpecObserver`
        for scales per group, and per channel for policies other than `MinMax` and
        `MovingAverage`.
    """
    if isinstance(spec.policy, Fixed) and isinstance(spec.granularity, PerTensor):
        return _fixed(spec, spec.policy)
    found = _OBSERVERS.get((type(spec.policy), type(spec.granularity)))
    if found is None:
        return SpecObserver.with_args(spec=spec)
    cls, policy_fields = found
    arguments = {name: getattr(spec.policy, field) for name, field in policy_fields.items()}
    if isinstance(spec.granularity, PerAxis):
        arguments["ch_axis"] = spec.granularity.axis
    default = TensorSpec()
    for name in ("quant_min", "quant_max", "reduce_range", "eps"):
        if getattr(spec, name) != getattr(default, name):
            arguments[name] = getattr(spec, name)
    return cls.with_args(dtype=spec.dtype, qscheme=scheme_of(spec), **arguments)


def _fixed(spec: TensorSpec, policy: Fixed) -> Partial:
    low, high = spec.limits
    return FixedQParamsObserver.with_args(
        scale=policy.scales[0],
        zero_point=policy.zero_points[0],
        dtype=spec.dtype,
        qscheme=scheme_of(spec),
        quant_min=low,
        quant_max=high,
    )


def scheme_of(spec: TensorSpec) -> QScheme | None:
    """The reference's name for granularity and symmetry; None for scales per group."""
    if spec.float_zero_point:
        return per_channel_affine_float_qparams
    match spec.granularity:
        case PerTensor():
            return per_tensor_symmetric if spec.symmetric else per_tensor_affine
        case PerAxis():
            return per_channel_symmetric if spec.symmetric else per_channel_affine
    return None
