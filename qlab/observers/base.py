"""What observers and fake quantizers have in common, and the factories that qconfigs hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from qlab.dtypes import QDType, as_qdtype, quint8
from qlab.errors import ArgumentError, QlabError, UncalibratedError, UnsupportedError, check_dict
from qlab.granularity import (
    PerAxis,
    PerTensor,
    QScheme,
    per_channel_affine_float_qparams,
    per_tensor_affine,
)
from qlab.observers.factories import Partial, pairs
from qlab.ops import checks
from qlab.qparams import EPS, QParams, check_tensor
from qlab.ranges import MinMax, RangePolicy, TensorSpec

DTypeLike = QDType | torch.dtype | str


def spec_from(observer: Any) -> TensorSpec | None:
    """How an observer of anyone's asks to quantize, from its attributes; None for float.

    Args:
        observer: With ``dtype`` and, where they are not the usual ones, ``qscheme`` and
            ``ch_axis``.
    """
    dtype = getattr(observer, "dtype", torch.float32)
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1:
        return None
    scheme = QScheme.parse(getattr(observer, "qscheme", per_tensor_affine))
    granularity = scheme.granularity(getattr(observer, "ch_axis", 0))
    return TensorSpec(as_qdtype(dtype), scheme.symmetric, granularity)


def qparams_from(observer: Any) -> QParams:
    """What an observer of anyone's found, from its ``calculate_qparams()``."""
    scale, zero_point = map(torch.as_tensor, observer.calculate_qparams())
    dtype = as_qdtype(observer.dtype)
    if scale.numel() == 1:
        return QParams(scale.reshape(()).float(), zero_point.reshape(()).int(), dtype)
    axis = getattr(observer, "ch_axis", 0)
    return QParams(scale.float(), zero_point.int(), dtype, PerAxis(axis))


def told(spec: TensorSpec, scale: Tensor, zero_point: Tensor) -> QParams:
    """What a ``calculate_qparams`` of anyone's returned, for the codes that a spec asks for."""
    shape = () if isinstance(spec.granularity, PerTensor) else (-1,)
    zero_type = torch.float32 if spec.float_zero_point else torch.int32
    scale, zero_point = torch.as_tensor(scale), torch.as_tensor(zero_point)
    numbers = scale.float().reshape(shape), zero_point.to(zero_type).reshape(shape)
    return QParams(*numbers, spec.dtype, spec.granularity, *spec.limits)


class ActivationPostProcess(nn.Module, ABC):
    """An observer or a fake quantizer: what prepare puts behind a tensor."""

    shaped_by_data: ClassVar[tuple[str, ...]] = ()
    """Buffers whose shape the first data decides; loading a state dict gives them its shapes."""

    dtype: QDType | torch.dtype

    @property
    def spec(self) -> TensorSpec | None:
        """How the tensor is to be quantized; None where it stays in floating point.

        Read off the attributes ``dtype``, ``qscheme`` and ``ch_axis``, unless a subclass knows
        more.
        """
        return spec_from(self)

    def qparams(self) -> QParams:
        """Scale and zero point from the data seen so far; by default of `calculate_qparams`.

        Raises:
            UncalibratedError: No data was seen.
            UnsupportedError: The class defines neither of the two.
        """
        if type(self).calculate_qparams is ActivationPostProcess.calculate_qparams:
            raise UnsupportedError(
                f"{type(self).__name__} says nothing about scale and zero point",
                expected="a method calculate_qparams() or qparams()",
            )
        return qparams_from(self)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero point (int32) as 1-d tensors, one element per scale.

        Raises:
            UncalibratedError: No data was seen.
        """
        qparams = self.qparams()
        return torch.atleast_1d(qparams.scale), torch.atleast_1d(qparams.zero_point)

    @classmethod
    def with_args(cls, **kwargs: Any) -> Partial:
        """A factory of this class with arguments filled in.

        Example:
            >>> from qlab.observers import MinMaxObserver
            >>> MinMaxObserver.with_args(reduce_range=True)().quant_max
            127
        """
        return Partial(cls, pairs(kwargs))

    @classmethod
    def with_callable_args(cls, **kwargs: Callable[[], Any]) -> Partial:
        """A factory of this class with arguments that are computed for each instance."""
        return Partial(cls, (), pairs(kwargs))

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in self.shaped_by_data:
            if prefix + name in state_dict:
                old, new = self.get_buffer(name), state_dict[prefix + name]
                if not isinstance(new, Tensor):
                    continue  # torch names it
                setattr(self, name, torch.empty_like(new, device=old.device, dtype=old.dtype))
        try:
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        except QlabError as error:  # of the extra state, which comes last
            args[-1].append(f"{prefix}_extra_state: {error}")


class ObserverBase(ActivationPostProcess):
    """Base of every observer: `forward` looks at a tensor and returns it unchanged.

    Args:
        dtype: The quantized data type, or a floating-point ``torch.dtype``.
        is_dynamic: Whether scale and zero point shall be found anew for every input.
    """

    def __init__(self, dtype: DTypeLike, is_dynamic: bool = False) -> None:
        super().__init__()
        self.dtype = _any_dtype(dtype)
        self.is_dynamic = is_dynamic

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Looks at ``x`` (any shape) and returns it."""

    def reset_min_max_vals(self) -> None:
        """Forgets all data.

        Raises:
            UnsupportedError: The observer keeps no range.
        """
        raise UnsupportedError(f"{type(self).__name__} keeps no range that could be reset")


def _any_dtype(dtype: DTypeLike) -> QDType | torch.dtype:
    plain = isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1
    return dtype if isinstance(dtype, torch.dtype) and plain else as_qdtype(dtype)


class ObserverOptions(TypedDict, total=False):
    """Arguments that every `UniformQuantizationObserverBase` takes and hands on; see there."""

    dtype: DTypeLike
    qscheme: QScheme | Any
    reduce_range: bool
    quant_min: int | None
    quant_max: int | None
    factory_kwargs: dict[str, Any] | None
    eps: float
    is_dynamic: bool


class UniformQuantizationObserverBase(ObserverBase):
    """Base of the observers that choose a range, and from it scale and zero point.

    Args:
        dtype: The quantized data type.
        qscheme: Per tensor or per channel, affine or symmetric.
        reduce_range: Halve the codes, for kernels whose sums saturate.
        quant_min: Smallest code to use; the type's own if None.
        quant_max: Largest code to use; the type's own if None.
        factory_kwargs: ``device`` and ``dtype`` of the buffers.
        eps: Smallest scale, real units per code.
        is_dynamic: Whether scale and zero point shall be found anew for every input.
        policy: How the range is chosen; `MinMax` if None.
        ch_axis: The axis of the channels, where ``qscheme`` is per channel.

    Attributes:
        min_val: float32 buffer: smallest value of the range seen, ``()`` or ``(channels,)``.
        max_val: float32 buffer: largest value of the range seen, the shape of ``min_val``.
        quant_min: Smallest code in use, after ``reduce_range``.
        quant_max: Largest code in use, after ``reduce_range``.

    Raises:
        DTypeError: Not a quantized data type.
        ArgumentError: Codes that do not fit the type, or do not include 0.
        UnsupportedError: A scheme that this observer does not do, or ``reduce_range`` with
            symmetric unsigned codes, whose middle would move.
    """

    schemes: ClassVar[tuple[QScheme, ...]] = tuple(QScheme)
    """The schemes this class does."""

    min_val: Tensor
    max_val: Tensor
    eps: Tensor

    def __init__(
        self,
        dtype: DTypeLike = quint8,
        qscheme: QScheme | Any = per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: dict[str, Any] | None = None,
        eps: float = EPS,
        is_dynamic: bool = False,
        *,
        policy: RangePolicy | None = None,
        ch_axis: int = 0,
    ) -> None:
        super().__init__(as_qdtype(dtype), is_dynamic)
        self.qscheme = QScheme.parse(qscheme)
        self._check_scheme(reduce_range)
        self.reduce_range = reduce_range
        self.ch_axis = ch_axis if self.qscheme.per_channel else -1
        self._spec = TensorSpec(
            as_qdtype(dtype),
            self.qscheme.symmetric,
            self.qscheme.granularity(ch_axis),
            policy or MinMax(),
            quant_min,
            quant_max,
            reduce_range,
            eps,
            self.qscheme is per_channel_affine_float_qparams,
        )
        self.quant_min, self.quant_max = self._spec.limits
        if not self.quant_min <= 0 <= self.quant_max:
            raise ArgumentError(
                f"{type(self).__name__}: the codes must include 0",
                expected="quant_min <= 0 <= quant_max",
                received=f"quant_min={self.quant_min}, quant_max={self.quant_max}",
            )
        name = type(self).__name__
        options = check_dict(name, "factory_kwargs", factory_kwargs)
        with checks.torch_refusal(name, f"factory_kwargs={factory_kwargs}"):
            self.register_buffer("eps", torch.tensor([eps], **options))
        empty = (torch.inf, -torch.inf) if not self.qscheme.per_channel else ([], [])
        for name, value in zip(("min_val", "max_val"), empty, strict=True):
            self.register_buffer(name, torch.tensor(value, **options))

    def _check_scheme(self, reduce_range: bool) -> None:
        if self.qscheme not in self.schemes:
            raise UnsupportedError(
                f"{type(self).__name__} does not do this quantization scheme",
                expected=" or ".join(scheme.value for scheme in self.schemes),
                received=self.qscheme.value,
                fix="PerChannelMinMaxObserver is per channel, MinMaxObserver per tensor.",
            )
        if reduce_range and self.qscheme.symmetric and not as_qdtype(self.dtype).signed:
            raise UnsupportedError(
                "reduce_range would move the middle code of symmetric unsigned codes",
                received=f"{as_qdtype(self.dtype).name}, {self.qscheme.value}",
                fix="Use a signed type, an affine scheme, or quant_min and quant_max.",
            )

    @property
    def spec(self) -> TensorSpec:
        """How the tensor is to be quantized."""
        return self._spec

    @property
    def policy(self) -> RangePolicy:
        """How the range is chosen."""
        return self._spec.policy

    def qparams(self) -> QParams:
        """Scale and zero point from the data seen so far, on the device of the buffers.

        A subclass that says them in a `calculate_qparams` of its own, as in the reference, is
        asked there.

        Raises:
            UncalibratedError: No data was seen.
        """
        if type(self).calculate_qparams is UniformQuantizationObserverBase.calculate_qparams:
            return self._chosen()
        return told(self._spec, *self.calculate_qparams())

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero point (int32) as 1-d tensors, one element per scale.

        Raises:
            UncalibratedError: No data was seen.
        """
        own = type(self).qparams is UniformQuantizationObserverBase.qparams
        found = self._chosen() if own else self.qparams()
        return torch.atleast_1d(found.scale), torch.atleast_1d(found.zero_point)

    def _chosen(self) -> QParams:
        """Scale and zero point by the policy."""
        self.require_data()
        return self._spec.choose(self.min_val, self.max_val)

    @property
    def has_customized_qrange(self) -> bool:
        """Whether ``quant_min`` and ``quant_max`` were given."""
        return self._spec.quant_min is not None and self._spec.quant_max is not None

    def _calculate_qparams(self, min_val: Tensor, max_val: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a range that a subclass found, 1-d; NaN is no range."""
        found = self._spec.choose(min_val, max_val)
        return torch.atleast_1d(found.scale), torch.atleast_1d(found.zero_point)

    def require_data(self) -> None:
        """Raises `UncalibratedError` unless some data was seen."""
        if not self.min_val.numel() or bool((self.min_val > self.max_val).any()):
            raise UncalibratedError(
                f"{type(self).__name__} has seen no data to choose a scale from",
                fix="Run calibration data through the prepared model (or the observer) first; "
                "NaN and infinities do not count.",
            )

    def forward(self, x_orig: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  (the reference's name)
        """Takes ``x_orig`` into the range; an empty tensor changes nothing.

        Args:
            x_orig: Real numbers, any shape that has the channel axis. NaN and infinities are left
                out.

        Returns:
            ``x_orig`` itself.
        """
        check_tensor(x_orig, type(self).__name__)
        if x_orig.numel():
            self.observe(x_orig.detach())
        return x_orig

    def observe(self, x: Tensor) -> None:
        """Takes a tensor with at least one element into the range.

        Raises:
            UnsupportedError: The class defines neither this nor `forward`.
        """
        raise UnsupportedError(
            f"{type(self).__name__} does not say what it keeps of a tensor",
            expected="a method observe(x), or forward(x)",
        )

    def reset_min_max_vals(self) -> None:
        """Forgets all data."""
        per_channel = self.qscheme.per_channel
        for name, value in (("min_val", torch.inf), ("max_val", -torch.inf)):
            old = self.get_buffer(name)
            setattr(self, name, old.new_empty(0) if per_channel else torch.full_like(old, value))

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"
