"""The modules that quantize in training: values rounded, gradients passed straight through."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qlab.errors import ArgumentError, UnsupportedError, check_callable, check_type
from qlab.granularity import (
    PerAxis,
    PerTensor,
)
from qlab.observers import (
    ActivationPostProcess,
    FixedQParamsObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
    register_observer,
    scheme_of,
)
from qlab.observers.base import told
from qlab.qparams import QParams, check_tensor, choose_dynamic_qparams, fake_quantize
from qlab.ranges import TensorSpec


class FakeQuantizeBase(ActivationPostProcess):
    """Base of the fake quantizers: two switches, kept as buffers so that they are saved.

    Attributes:
        fake_quant_enabled: uint8 ``(1,)``: 1 while values are rounded.
        observer_enabled: uint8 ``(1,)``: 1 while scale and zero point follow the data.
    """

    fake_quant_enabled: Tensor
    observer_enabled: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fake_quant_enabled", torch.ones(1, dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.ones(1, dtype=torch.uint8))

    @abstractmethod
    def forward(self, X: Tensor) -> Tensor:  # noqa: N803
        """Observes and rounds ``X``, as far as switched on."""

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Switches the rounding on or off."""
        check_type("enable_fake_quant", "enabled", enabled, int, "True or False")
        self.fake_quant_enabled.fill_(int(enabled))

    def disable_fake_quant(self) -> None:
        """Switches the rounding off."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Switches the following of the data on or off."""
        check_type("enable_observer", "enabled", enabled, int, "True or False")
        self.observer_enabled.fill_(int(enabled))

    def disable_observer(self) -> None:
        """Freezes scale and zero point."""
        self.enable_observer(False)


ObserverOrFakeQuantize = ObserverBase | FakeQuantizeBase
"""What hangs on a tensor: for ``isinstance`` and annotations."""


class FakeQuantize(FakeQuantizeBase):
    """``(clamp(rint(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale``.

    The gradient is the straight-through estimate: 1 where the code lies in range, 0 elsewhere.

    Args:
        observer: Class or factory of the observer that chooses scale and zero point.
        quant_min: Smallest code; the type's own if None. Needs ``quant_max``.
        quant_max: Largest code; the type's own if None. Needs ``quant_min``.
        is_dynamic: Whether scale and zero point shall be found anew for every input.
        observer_kwargs: Arguments of the observer.

    Attributes:
        activation_post_process: The observer.
        scale: float32 buffer, real units per code: ``(1,)`` or ``(channels,)``.
        zero_point: int32 buffer (float32 for float zero points), the shape of ``scale``.

    Raises:
        ArgumentError: Codes that do not fit the type, or are not in order.
        UnsupportedError: An observer without scale and zero point.

    Source: the reference's ``torch.ao.quantization.fake_quantize.FakeQuantize``; Bengio et al.
    2013 for the gradient.
    """

    shaped_by_data = ("scale", "zero_point")

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        observer: Callable[..., Any] = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        if (quant_min is None) != (quant_max is None):
            raise ArgumentError(
                "FakeQuantize: quant_min and quant_max go together",
                received=f"quant_min={quant_min}, quant_max={quant_max}",
            )
        if quant_min is not None:
            observer_kwargs |= {"quant_min": quant_min, "quant_max": quant_max}
        if is_dynamic:
            observer_kwargs["is_dynamic"] = True
        check_callable("FakeQuantize", "the observer", observer)
        made = observer(**observer_kwargs)
        spec = made.spec if isinstance(made, ActivationPostProcess) else None
        if spec is None:
            raise UnsupportedError(
                "FakeQuantize needs an observer that chooses scale and zero point",
                received=repr(observer),
                fix="Use MovingAverageMinMaxObserver, for example.",
            )
        self.activation_post_process = made
        self._spec = spec
        self.is_dynamic = is_dynamic
        self.quant_min, self.quant_max = spec.limits
        self.dtype = spec.dtype
        self.qscheme = scheme_of(spec)
        self.is_per_channel = not isinstance(spec.granularity, PerTensor)
        self.ch_axis = spec.granularity.axis if isinstance(spec.granularity, PerAxis) else -1
        zero_type = torch.float32 if spec.float_zero_point else torch.int32
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=zero_type))

    @property
    def spec(self) -> TensorSpec:
        """How the tensor is to be quantized."""
        return self._spec

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the observer, as 1-d tensors.

        Raises:
            UncalibratedError: No data was seen.
        """
        return self.activation_post_process.calculate_qparams()

    def qparams(self) -> QParams:
        """Scale and zero point of the observer.

        Raises:
            UncalibratedError: No data was seen.
        """
        if type(self).calculate_qparams is not FakeQuantize.calculate_qparams:
            return told(self._spec, *self.calculate_qparams())  # a subclass of anyone's
        return self.activation_post_process.qparams()

    def current_qparams(self) -> QParams:
        """Scale and zero point that `forward` rounds with: 1 and 0 before any data."""
        shape = self.scale.shape if self.is_per_channel else ()
        scale, zero_point = self.scale.reshape(shape), self.zero_point.reshape(shape)
        spec = self._spec
        return QParams(scale, zero_point, spec.dtype, spec.granularity, *spec.limits)

    def observe(self, x: Tensor) -> None:
        """Lets scale and zero point follow ``x``."""
        self.activation_post_process(x)
        self.follow(self.qparams())

    def follow(self, qparams: QParams) -> None:
        """Takes over scale and zero point."""
        scale, zero_point = map(torch.atleast_1d, (qparams.scale, qparams.zero_point))
        if self.scale.shape != scale.shape:
            self.scale.resize_(scale.shape)
            self.zero_point.resize_(zero_point.shape)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803
        """Observes and rounds, as far as switched on.

        Args:
            X: Real numbers, any floating dtype and shape that the observer takes. An empty tensor
                passes through.

        Returns:
            The dtype and shape of ``X``.
        """
        check_tensor(X, type(self).__name__)
        if not X.numel():
            return X
        if self.observer_enabled[0] == 1:
            self.observe(X.detach())
        if self.fake_quant_enabled[0] == 1:
            return fake_quantize(X, self.current_qparams())
        return X

    def extra_repr(self) -> str:
        return (
            f"fake_quant_enabled={self.fake_quant_enabled}, "
            f"observer_enabled={self.observer_enabled}, quant_min={self.quant_min}, "
            f"quant_max={self.quant_max}, dtype={self.dtype}, qscheme={self.qscheme}, "
            f"ch_axis={self.ch_axis}, scale={self.scale}, zero_point={self.zero_point}"
        )


class FixedQParamsFakeQuantize(FakeQuantize):
    """Fake quantization with a scale and zero point that are known beforehand.

    Args:
        observer: Factory of a `FixedQParamsObserver`.

    Raises:
        UnsupportedError: A factory of another observer.
    """

    def __init__(self, observer: Callable[..., Any]) -> None:
        super().__init__(observer)
        if not isinstance(self.activation_post_process, FixedQParamsObserver):
            raise UnsupportedError(
                "FixedQParamsFakeQuantize rounds with a scale known beforehand",
                expected="a factory of FixedQParamsObserver",
                received=repr(observer),
            )
        self.scale = self.activation_post_process.scale
        self.zero_point = self.activation_post_process.zero_point

    def observe(self, x: Tensor) -> None:
        """Nothing follows the data."""


class FusedMovingAvgObsFakeQuantize(FakeQuantize):
    """Fake quantization that follows a moving average; the reference's default in training.

    As in the reference, `forward` rounds with the parameters of `choose_dynamic_qparams`, while
    `calculate_qparams`, which convert asks, has the observer's. For affine types the two are the
    same but for scales below 6.1e-5; for symmetric types they differ, by less than 1 % where
    there are values on both sides of 0.

    Args:
        observer: `MovingAverageMinMaxObserver` or `MovingAveragePerChannelMinMaxObserver`.
        quant_min: Smallest code.
        quant_max: Largest code.
        observer_kwargs: Arguments of the observer.

    Raises:
        UnsupportedError: Another observer, or float zero points.

    Source: the reference's ``FusedMovingAvgObsFakeQuantize``; bit-equal to it.
    """

    activation_post_process: MovingAverageMinMaxObserver | MovingAveragePerChannelMinMaxObserver

    def __init__(
        self,
        observer: Callable[..., Any] = MovingAverageMinMaxObserver,
        quant_min: int = 0,
        quant_max: int = 255,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__(observer, quant_min, quant_max, **observer_kwargs)
        averages = (MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver)
        if not isinstance(self.activation_post_process, averages) or self.spec.float_zero_point:
            raise UnsupportedError(
                "FusedMovingAvgObsFakeQuantize follows a moving average, with integer zero points",
                expected=" or ".join(cls.__name__ for cls in averages),
                received=repr(observer),
                fix="Use FakeQuantize for others.",
            )

    def observe(self, x: Tensor) -> None:
        """Lets scale and zero point follow ``x``."""
        observer, spec = self.activation_post_process, self._spec
        observer(x)
        observer.require_data()
        low, high = spec.limits
        self.follow(
            choose_dynamic_qparams(
                observer.min_val,
                observer.max_val,
                spec.dtype,
                symmetric=spec.symmetric,
                quant_min=low,
                quant_max=high,
            )
        )


def disable_fake_quant(mod: nn.Module) -> None:
    """Switches a fake quantizer's rounding off; for ``model.apply(...)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.disable_fake_quant()


def enable_fake_quant(mod: nn.Module) -> None:
    """Switches a fake quantizer's rounding on; for ``model.apply(...)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.enable_fake_quant()


def disable_observer(mod: nn.Module) -> None:
    """Freezes a fake quantizer's scale and zero point; for ``model.apply(...)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.disable_observer()


def enable_observer(mod: nn.Module) -> None:
    """Lets a fake quantizer's scale and zero point follow the data; for ``model.apply(...)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.enable_observer()


for _fake_quantizer in (FakeQuantize, FixedQParamsFakeQuantize, FusedMovingAvgObsFakeQuantize):
    register_observer(_fake_quantizer)
