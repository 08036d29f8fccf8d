"""Operators whose activation is quantized as it comes: real numbers in and out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype, quint8
from qlab.errors import ArgumentError, DTypeError, NonFiniteError
from qlab.ops import checks, compiled, onednn, recurrent
from qlab.ops.calls import bind_linear, check_options
from qlab.ops.contractions import conv1d, conv2d, conv3d, linear
from qlab.ops.kernels import count, forced
from qlab.ops.packed import PackedWeight
from qlab.ops.transposed import conv_transpose1d, conv_transpose2d, conv_transpose3d
from qlab.qparams import QParams, check_float, quantize, reduced_range

SMALLEST_SCALE = 6.1e-5
"""Scale below which the range is widened, as in the reference's kernels."""


def dynamic_qparams(x: Tensor, dtype: QDType = quint8, *, reduce_range: bool = True) -> QParams:
    """Scale and zero point of one activation, from its own smallest and largest value.

    With lo = min(x, 0), hi = max(x, 0) and n = quant_max - quant_min: ``s = (hi - lo) / n``, in
    double precision; 0.1 for an all-zero input; below 6.1e-5 the range is widened until
    ``s = 6.1e-5``. The zero point is ``quant_min - lo / s`` or ``quant_max - hi / s``, whichever
    loses less, rounded and clamped.

    Args:
        x: Real numbers, any shape, finite; one without elements gives the scale 0.1.
        dtype: An integer type of at most 8 bits.
        reduce_range: Use half the codes, as the reference's dynamic modules do: its kernels' sums
            would saturate on old processors.

    Returns:
        Per-tensor parameters on the device of ``x``, in the whole range of codes of ``dtype``.

    Raises:
        DTypeError: ``x`` is not floating point, or ``dtype`` no integer type.
        NonFiniteError: NaN or infinity in ``x``.

    Source: the reference's dynamic linear kernels; same codes but for ties.
    """
    _check_input(x)
    checks.switch("dynamic quantization", "reduce_range", reduce_range)
    dtype = as_qdtype(dtype)
    if dtype.is_float or dtype.bits > 8:
        raise DTypeError(
            "Dynamic quantization takes integers of at most 8 bits", received=dtype.name
        )
    low, high = _range(x)
    qmin, qmax = reduced_range(dtype) if reduce_range else (dtype.quant_min, dtype.quant_max)
    scale = (high - low) / (qmax - qmin)
    if _float32(scale) == 0.0 or math.isinf(_float32(1.0 / _float32(scale))):
        scale = 0.1
    if scale < SMALLEST_SCALE:
        low, high = low * (SMALLEST_SCALE / scale), high * (SMALLEST_SCALE / scale)
        scale = SMALLEST_SCALE
    from_min, from_max = qmin - low / scale, qmax - high / scale
    lost_at_min, lost_at_max = abs(qmin) - abs(low / scale), abs(qmax) - abs(high / scale)
    exact = from_min if lost_at_min < lost_at_max else from_max
    zero_point = max(qmin, min(qmax, round(exact)))
    return QParams(
        torch.tensor(scale, dtype=torch.float32, device=x.device),
        torch.tensor(zero_point, dtype=torch.int32, device=x.device),
        dtype,
        quant_min=qmin,
        quant_max=qmax,
    )


def _check_input(x: Tensor) -> None:
    check_float(x, "dynamic quantization")
    checks.tensor("dynamic quantization", "input", x)
    if x.is_meta:
        raise ArgumentError(
            "dynamic quantization looks at the input's values", received="a tensor on meta"
        )


def _range(x: Tensor) -> tuple[float, float]:
    if not x.numel():
        return 0.0, 0.0
    low, high = torch.stack(torch.aminmax(x.detach().to(torch.float32))).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFiniteError(
            "Dynamic quantization: the input must be finite",
            received=f"values from {low} to {high}",
            fix="Look for NaN or infinity in the layers before.",
        )
    return min(low, 0.0), max(high, 0.0)


def _float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def linear_dynamic(
    x: Tensor,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    *,
    dtype: QDType | str = quint8,
    reduce_range: bool = True,
    relu: bool = False,
    packed: PackedWeight | None = None,
) -> Tensor:
    """``f32(acc) · (s_x · s_w) + b`` with the input quantized by `dynamic_qparams`.

    Args:
        x: Real numbers, (*, in_features).
        weight: Codes, (out_features, in_features).
        w_qparams: The weight's parameters, per tensor or one scale per output.
        bias: float32, (out_features,), or None.
        dtype: What the input is quantized to.
        reduce_range: As in `dynamic_qparams`.
        relu: Clamp negative results to 0.
        packed: Cache for the weight in a kernel's own layout; keep one per layer.

    Returns:
        Real numbers, the type of ``x``, (*, out_features).

    Raises:
        DTypeError: ``x`` is not floating point.
        ShapeError: ``x`` does not fit the weight.
        NonFiniteError: NaN or infinity in ``x``.
    """
    dtype = as_qdtype(dtype)
    check_options("linear_dynamic", relu, packed)
    if packed is not None and dtype is quint8 and dense(x):
        fast = bound_dynamic(x, weight, w_qparams, bias, (reduce_range, relu), packed)
        real = None if fast is None else fast(x)
        if real is not None:
            return real
    layer, options = (weight, w_qparams, bias), {"relu": relu, "packed": packed}
    return _as_it_comes(linear, x, layer, (dtype, reduce_range), options)


def _as_it_comes(
    operator: Callable[..., Tensor],
    x: Tensor,
    layer: tuple[Tensor, QParams, Tensor | None],
    read_as: tuple[QDType, bool],
    options: dict[str, Any],
) -> Tensor:
    dtype, reduce_range = read_as
    x_qparams = dynamic_qparams(x, dtype, reduce_range=reduce_range)
    real = operator(quantize(x, x_qparams), x_qparams, *layer, None, **options)
    return real.to(x.dtype)


def _dynamic(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A convolution of the package as one of real numbers."""

    def run(
        x: Tensor,
        weight: Tensor,
        w_qparams: QParams,
        bias: Tensor | None,
        *,
        dtype: QDType | str = quint8,
        reduce_range: bool = True,
        **options: Any,
    ) -> Tensor:
        layer = weight, w_qparams, bias
        return _as_it_comes(operator, x, layer, (as_qdtype(dtype), reduce_range), options)

    name = operator.__name__
    run.__name__ = run.__qualname__ = f"{name}_dynamic"
    run.__doc__ = f"""`qlab.ops.{name}` with the input quantized by `dynamic_qparams`.

    ``f32(acc) · (s_x · s_w) + b``, with s_x and z_x found anew for every input.

    Args:
        x: Real numbers, of the shape that `{name}` takes.
        weight: Codes, as there.
        w_qparams: The weight's parameters, as there.
        bias: float32, (out_channels,), or None.
        dtype: What the input is quantized to.
        reduce_range: As in `dynamic_qparams`.
        **options: Those of `{name}`.

    Returns:
        Real numbers, the type of ``x``.

    Raises:
        DTypeError: ``x`` is not floating point.
        NonFiniteError: NaN or infinity in ``x``.
        QlabError: Those of `{name}`.
    """
    return run


conv1d_dynamic = _dynamic(conv1d)
conv2d_dynamic = _dynamic(conv2d)
conv3d_dynamic = _dynamic(conv3d)
conv_transpose1d_dynamic = _dynamic(conv_transpose1d)
conv_transpose2d_dynamic = _dynamic(conv_transpose2d)
conv_transpose3d_dynamic = _dynamic(conv_transpose3d)


def dense(x: Tensor) -> bool:
    """Whether compiled loops may run through a tensor of real numbers."""
    return (
        type(x) is Tensor
        and x.dtype is torch.float32
        and x.is_cpu
        and x.is_contiguous()
        and x.numel() > 0
        and forced() is None
        and not torch.compiler.is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
    )


@dataclass(frozen=True, slots=True)
class Bound:
    """`linear_dynamic` as a function of its input alone.

    Attributes:
        product: The layer on codes.
        limits: Smallest and largest code of its inputs.
    """

    product: compiled.Product
    limits: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor | None:
        """The result for an input that is `dense`; None for one that is not finite."""
        found = compiled.quantize_dynamic(x, self.limits, SMALLEST_SCALE)
        if found is None:
            return None
        count("linear", "onednn")
        return self.product(*found)

    def scan(
        self, unit: str, given: Tensor, state: Sequence[Tensor], *, backwards: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Sequences of a unit whose state this layer multiplies; see `qlab.ops.recurrent.scan`."""
        layer = self.product, self.limits, SMALLEST_SCALE
        return recurrent.scan(unit, layer, given, state, backwards=backwards)


def bound_dynamic(
    x: Tensor,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    options: tuple[bool, bool],
    packed: PackedWeight,
) -> Bound | None:
    """`linear_dynamic` as a function of its input alone; None where no fast kernel applies.

    Args:
        x: An input, for its number of features.
        weight: As in `linear_dynamic`, like everything that follows.
        options: ``reduce_range`` and ``relu``.

    Returns:
        To be used while the weight stays as it is.
    """
    key = w_qparams, options, x.shape[-1]

    def build() -> Bound | None:
        return _bind(x.shape[-1], (weight, w_qparams, bias), options)

    return packed.get("dynamic", (weight, bias), key, build)


def _bind(
    features: int, layer: tuple[Tensor, QParams, Tensor | None], options: tuple[bool, bool]
) -> Bound | None:
    (weight, w_qparams, bias), (reduce_range, relu) = layer, options
    codes = torch.zeros((1, features), dtype=torch.uint8, device=weight.device)
    unit = QParams.per_tensor(1.0, 0, quint8, weight.device)
    call = bind_linear(codes, unit, weight, w_qparams, bias, None, relu=relu)
    if compiled.unavailable() is not None or onednn.obstacle(call) is not None:
        return None
    limits = reduced_range(quint8) if reduce_range else (quint8.quant_min, quint8.quant_max)
    return Bound(compiled.Product(weight, w_qparams.scale, bias, relu), limits)
