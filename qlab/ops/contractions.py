"""linear, convolutions and matmul: the operators that sum products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, TypedDict, Unpack

from torch import Tensor

from qlab.ops import calls, depthwise, int_mm, onednn, triton_kernels
from qlab.ops.calls import Call, Ints
from qlab.ops.exact import exact_obstacle, no_obstacle, run_exact, run_simulated
from qlab.ops.kernels import Kernel, Operator, count, forced
from qlab.ops.packed import PackedWeight, Ready, stamps_of
from qlab.qparams import QParams

_DEPTHWISE: Kernel[Call] = Kernel("compiled", depthwise.obstacle, depthwise.run, depthwise.bound)
ONEDNN: Kernel[Call] = Kernel("onednn", onednn.obstacle, onednn.run, onednn.bound)
TRITON: Kernel[Call] = Kernel(
    "triton", triton_kernels.obstacle, triton_kernels.run, triton_kernels.bound
)
INT_MM: Kernel[Call] = Kernel("int_mm", int_mm.obstacle, int_mm.run, int_mm.bound)
REFERENCE: Kernel[Call] = Kernel("reference", exact_obstacle, run_exact)
SIMULATED: Kernel[Call] = Kernel("simulated", no_obstacle, run_simulated)

_LINEAR = (ONEDNN, TRITON, INT_MM, REFERENCE, SIMULATED)
_PLANAR = (ONEDNN, TRITON, REFERENCE, SIMULATED)
_SPATIAL = (ONEDNN, REFERENCE, SIMULATED)

_linear: Operator[Call] = Operator("linear", calls.bind_linear, _LINEAR)
_matmul: Operator[Call] = Operator("matmul", calls.bind_matmul, (REFERENCE, SIMULATED))
_conv: dict[int, Operator[Call]] = {
    n: Operator(f"conv{n}d", partial(calls.bind_conv, f"conv{n}d", n), kernels)
    for n, kernels in ((1, _PLANAR), (2, (_DEPTHWISE, *_PLANAR)), (3, _SPATIAL))
}


def _bound(operator: Operator[Call], call: Call) -> Callable[[Tensor], Tensor]:
    """A checked call as a function of its input's codes; it is counted."""
    kernel = operator.choose(call)
    run = bound_by(kernel, call)
    name = operator.name, kernel.name

    def counted(x: Tensor) -> Tensor:
        count(*name)
        return run(x)

    return counted


def bound_by(kernel: Kernel[Call], call: Call) -> Callable[[Tensor], Tensor]:
    """A kernel's run of a checked call as a function of the input's codes."""
    if kernel.bound is not None:
        return kernel.bound(call)
    names = {field.name for field in fields(call)} - {"x", "packed"}
    shared = {name: getattr(call, name) for name in names}
    kind = type(call)
    return lambda x: kernel.run(kind(x=x, packed=None, **shared))


def run(
    operator: Operator[Call],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    packed: PackedWeight | None,
) -> Tensor:
    """Runs a call; one like the last, of a packed layer, is neither checked nor bound again."""
    x, x_qparams, weight, w_qparams, bias, y_qparams = arguments
    if not isinstance(packed, PackedWeight) or not isinstance(x, Tensor):
        return operator(operator.bind(*arguments, **options, packed=packed))

    def bind() -> Callable[[Tensor], Tensor] | None:
        call = operator.bind(*arguments, **options, packed=packed)
        return _bound(operator, call) if call.x is x else None  # else it was padded

    values = tuple(map(calls.hashable, options.values()))
    given = (x.dtype, x.device, x_qparams, w_qparams, y_qparams, forced(), *options, *values)
    found = packed.get("bound", (weight, bias), given, bind, place=x.shape)
    if found is None:
        return operator(operator.bind(*arguments, **options, packed=packed))
    kept = (x.shape, x.dtype, x.device, x.is_cpu, forced(), x_qparams, y_qparams)
    packed.ready = Ready(*kept, stamps_of(weight, bias), found)
    return found(x)


def linear(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    *,
    relu: bool = False,
    integer_bias: bool = False,
    packed: PackedWeight | None = None,
) -> Tensor:
    """``y = x Wᵀ + b`` on codes.

    With ``acc = Σ (x - z_x)(w - z_w)`` exact and every operation rounded to float32:
    ``clamp(rint((f32(acc)·(s_x·s_w) + b)·(1/s_y) + z_y))``, ReLU before requantization. Every
    kernel but ``simulated`` gives the same codes, bit by bit. The reference (engine onednn) differs
    by one step in about 1 code of a million, since some of its kernels multiply by s_x and s_w in
    turn; in more, up to 1 of 100, where round scales make results fall on ties.

    Args:
        x: Codes of shape (*, in_features).
        x_qparams: The input's scale and zero point, per tensor.
        weight: Codes of shape (out_features, in_features).
        w_qparams: Per tensor or per axis 0; any other granularity, and types wider than 8 bits
            or float8, run the ``simulated`` kernel.
        bias: float32 of shape (out_features,), real units, finite; or None.
        y_qparams: The output's scale and zero point; None gives a float32 output.
        relu: Clamp negative results to 0 before requantization.
        integer_bias: Compute as integer runtimes do: the bias as int32 codes of ``s_x·s_w``, with
            zero point 0, and one multiplier,
            ``clamp(rint(f32(acc + rint(b/(s_x·s_w)))·(s_x·s_w/s_y)) + z_y)`` (Jacob et al. 2018,
            section 2.4; onnxruntime holds the multiplier as float32, as here). The ``reference``
            kernel alone does so; the ``simulated`` one pays no heed.
        packed: Cache for the weight in a kernel's own layout; keep one per layer.

    Returns:
        Codes of shape (*, out_features), dtype ``y_qparams.dtype.storage``; or float32.

    Raises:
        DTypeError: Real numbers instead of codes, or codes of another type.
        ShapeError: Shapes, scales or bias do not fit.
        NonFiniteError: NaN or infinity in the bias.
    """
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    options = {"relu": relu, "integer_bias": integer_bias}
    return run(_linear, arguments, options, packed)


class ConvOptions(TypedDict, total=False):
    """Keyword arguments of `conv1d`, `conv2d` and `conv3d`.

    Attributes:
        stride: Step of the window, one number or one per axis; 1.
        padding: Elements on both sides, one number or one per axis, ``"valid"`` (0) or
            ``"same"`` (output as large as the input, stride 1; the odd element goes behind); 0.
        dilation: Distance between kernel elements; 1.
        groups: Number of channel groups; 1.
        padding_mode: ``"zeros"`` (pads with the zero point, the code of 0.0), ``"reflect"``,
            ``"replicate"`` or ``"circular"``.
        relu: Clamp negative results to 0 before requantization.
        integer_bias: As in `linear`; False.
        packed: Cache for the weight in a kernel's own layout; keep one per layer.
    """

    stride: Ints
    padding: Ints | str
    dilation: Ints
    groups: int
    padding_mode: str
    relu: bool
    integer_bias: bool
    packed: PackedWeight | None


def _convolve(n: int, arguments: tuple[Any, ...], options: ConvOptions) -> Tensor:
    packed = options.pop("packed", None)
    return run(_conv[n], arguments, options, packed)


def conv1d(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    **options: Unpack[ConvOptions],
) -> Tensor:
    """`conv2d` over one axis: x (N, C, L), weight (out_channels, C / groups, kernel)."""
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    return _convolve(1, arguments, options)


def conv2d(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    **options: Unpack[ConvOptions],
) -> Tensor:
    """Cross-correlation on codes, over two axes.

    The formula is that of `linear`, with ``acc`` the exact sum over channels and kernel window.

    Args:
        x: Codes of shape (N, C, H, W).
        x_qparams: The input's scale and zero point, per tensor.
        weight: Codes of shape (out_channels, C / groups, kH, kW).
        w_qparams: Per tensor or per axis 0; any other granularity, and types wider than 8 bits
            or float8, run the ``simulated`` kernel.
        bias: float32 of shape (out_channels,), real units, finite; or None.
        y_qparams: The output's scale and zero point; None gives a float32 output.
        **options: See `ConvOptions`.

    Returns:
        Codes of shape (N, out_channels, H', W'), dtype ``y_qparams.dtype.storage``; or float32.
        The memory layout is the kernel's (oneDNN: channels last).

    Raises:
        DTypeError: Real numbers instead of codes, or codes of another type.
        ShapeError: Shapes, scales or bias do not fit, groups do not divide the channels, the
            kernel is larger than the padded input, or the padding wider than it.
        ArgumentError: A stride, padding or dilation that makes no sense.
        UnknownNameError: An unknown padding mode.
        NonFiniteError: NaN or infinity in the bias.
    """
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    return _convolve(2, arguments, options)


def conv3d(
    x: Tensor,
    x_qparams: QParams,
    weight: Tensor,
    w_qparams: QParams,
    bias: Tensor | None,
    y_qparams: QParams | None,
    **options: Unpack[ConvOptions],
) -> Tensor:
    """`conv2d` over three axes: x (N, C, D, H, W), weight (out_channels, C / groups, *kernel)."""
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    return _convolve(3, arguments, options)


def matmul(
    a: Tensor,
    a_qparams: QParams,
    b: Tensor,
    b_qparams: QParams,
    y_qparams: QParams | None,
    *,
    relu: bool = False,
) -> Tensor:
    """``y = a b`` on codes, batched and broadcast as ``torch.matmul``.

    The formula is that of `linear`; both zero points are subtracted exactly.

    Args:
        a: Codes of shape (*, n, k).
        a_qparams: Per tensor.
        b: Codes of shape (*, k, m).
        b_qparams: Per tensor.
        y_qparams: The output's scale and zero point; None gives a float32 output.
        relu: Clamp negative results to 0 before requantization.

    Returns:
        Codes of shape (*, n, m), dtype ``y_qparams.dtype.storage``; or float32.

    Raises:
        DTypeError: Real numbers instead of codes, or codes of another type.
        ShapeError: The shapes do not fit.
    """
    return _matmul(calls.bind_matmul(a, a_qparams, b, b_qparams, y_qparams, relu=relu))
