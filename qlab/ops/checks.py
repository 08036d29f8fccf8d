"""What every operator asks of its arguments, in one place. Cheap: no look at a tensor's elements
except in `finite`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qlab.errors import (
    ArgumentError,
    DTypeError,
    NonFiniteError,
    QlabError,
    ShapeError,
    UnknownNameError,
)
from qlab.qparams import QParams

_LARGEST = 2**31 - 1


def tensor(op: str, what: str, value: object) -> None:
    """Raises `DTypeError` unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise DTypeError(
            f"{op}: the {what} is not a tensor",
            expected="a torch.Tensor",
            received=type(value).__name__,
        )
    if value.layout is not torch.strided:
        raise DTypeError(
            f"{op}: the {what} is not a dense tensor",
            expected="torch.strided",
            received=f"{value.layout}",
            fix="Call .to_dense() first.",
        )


def model(caller: str, value: object) -> None:
    """Raises `DTypeError` unless ``value`` is a module."""
    if not isinstance(value, nn.Module):
        raise DTypeError(
            f"{caller}: not a model", expected="a torch.nn.Module", received=type(value).__name__
        )


def parameters(op: str, what: str, qparams: object) -> None:
    """Raises `DTypeError` unless ``qparams`` are some, and a `QlabError` if a scale is no scale."""
    if not isinstance(qparams, QParams):
        raise DTypeError(
            f"{op}: the {what} has no quantization parameters",
            expected="a qlab.QParams",
            received=type(qparams).__name__,
        )
    if not torch.compiler.is_compiling() and not qparams.sound:
        try:
            qparams.check()
        except QlabError as error:
            raise type(error)(
                f"{op}: the parameters of the {what} are none: {error.problem}",
                expected=error.expected,
                received=error.received,
            ) from error


def switch(op: str, what: str, value: object) -> None:
    """Raises `ArgumentError` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(
            f"{op}: {what} is a switch", expected="True or False", received=repr(value)
        )


def number(op: str, what: str, value: object) -> float:
    """A real number as Python's float; infinities too.

    Raises:
        ArgumentError: It is none, or NaN.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return float(value)
    raise ArgumentError(f"{op}: {what} must be a number", received=repr(value))


def same_device(op: str, a: Tensor, b: Tensor) -> None:
    """Raises `ArgumentError` unless two operands lie on one device."""
    if a.device != b.device:
        raise ArgumentError(
            f"{op}: the operands are on different devices",
            expected=f"both on {a.device}",
            received=f"second operand on {b.device}",
        )


def codes(op: str, what: str, value: Tensor, qparams: QParams) -> None:
    """Raises `DTypeError` unless ``value`` is a tensor of codes that ``qparams`` describe."""
    tensor(op, what, value)
    parameters(op, what, qparams)
    if value.dtype == qparams.dtype.storage:
        return
    raise DTypeError(
        f"{op}: the {what} does not hold codes of {qparams.dtype.name}",
        expected=f"a tensor of {qparams.dtype.storage}",
        received=f"{value.dtype}",
        fix="Call ops.quantize on real numbers first."
        if value.is_floating_point()
        else "Pass the qparams that these codes were made with.",
    )


def per_tensor(op: str, what: str, qparams: QParams) -> None:
    """Raises `ShapeError` unless one scale covers the whole tensor."""
    if qparams.scale.dim():
        raise ShapeError(
            f"{op}: the {what} needs one scale for the whole tensor",
            expected="qparams of PerTensor granularity",
            received=f"{qparams.granularity}, scales of shape {tuple(qparams.scale.shape)}",
        )


def dims(op: str, what: str, value: Tensor, allowed: Sequence[int], layout: str) -> None:
    """Raises `ShapeError` unless ``value`` has an allowed number of axes."""
    if value.dim() not in allowed:
        raise ShapeError(
            f"{op}: the {what} has the wrong number of axes",
            expected=f"{' or '.join(map(str, allowed))} axes, {layout}",
            received=f"shape {tuple(value.shape)}",
        )


def vector(op: str, what: str, value: Tensor | None, shape: Sequence[int]) -> None:
    """Raises unless ``value`` is a float32 tensor of ``shape``."""
    tensor(op, what, value)
    assert value is not None
    if value.dtype != torch.float32:
        raise DTypeError(
            f"{op}: the {what} holds real numbers, not codes",
            expected="a float32 tensor",
            received=f"{value.dtype}",
        )
    if tuple(value.shape) != tuple(shape):
        raise ShapeError(
            f"{op}: the {what} has the wrong shape",
            expected=f"shape {tuple(shape)}",
            received=f"shape {tuple(value.shape)}",
        )


def finite(op: str, what: str, value: Tensor) -> None:
    """Raises `NonFiniteError` where ``value`` has NaN or infinity."""
    # One reduction instead of a mask: the sum of x·0 is NaN exactly if some x is not finite.
    if bool(torch.isnan((value * 0).sum())):
        raise NonFiniteError(
            f"{op}: the {what} must be finite",
            received=f"{int((~torch.isfinite(value)).sum())} NaN or infinite of {value.numel()}",
            fix="Look for NaN or infinity in the float model's parameters.",
        )


def whole_numbers(
    op: str, what: str, value: int | Sequence[int], n: int, *, minimum: int
) -> tuple[int, ...]:
    """One integer per spatial axis, from one for all or a sequence.

    Raises:
        ArgumentError: Not integers, too small, or not ``n`` of them.
    """
    several = value if isinstance(value, Sequence) else ()
    numbers = (value,) * n if isinstance(value, int) else tuple(several)
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in numbers)
    fit = len(numbers) == n and whole
    if fit and all(minimum <= v <= _LARGEST for v in numbers):
        return numbers
    raise ArgumentError(
        f"{op}: invalid {what}",
        expected=f"an integer, or {n} of them, each at least {minimum}"
        + (f" and at most {_LARGEST}" if fit else ""),
        received=repr(value),
    )


def broadcastable(op: str, a: Tensor, b: Tensor) -> None:
    """Raises `ShapeError` unless the two shapes broadcast."""
    if a.shape == b.shape:
        return
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        raise ShapeError(
            f"{op}: the operands do not broadcast",
            expected="equal lengths, or 1, along each axis counted from the last",
            received=f"{tuple(a.shape)} and {tuple(b.shape)}",
        )


@contextmanager
def torch_refusal(op: str, received: object) -> Iterator[None]:
    """Turns what PyTorch says about an argument into an `ArgumentError`."""
    try:
        yield
    except QlabError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(
            f"{op}: the arguments do not fit", received=f"{received}; {reason}"
        ) from error


def choice(op: str, what: str, value: object, known: Sequence[str]) -> None:
    """Raises `UnknownNameError` unless ``value`` is a known name."""
    if value not in known:
        raise UnknownNameError.of(f"{op} {what}", value, known)


def axis(op: str, value: Tensor, index: int) -> int:
    """The axis counted from the first.

    Raises:
        ShapeError: The tensor has no such axis.
    """
    n = value.dim()
    if not isinstance(index, int) or isinstance(index, bool):
        raise ArgumentError(f"{op}: an axis is a whole number", received=repr(index))
    if not -n <= index < n:
        raise ShapeError(
            f"{op}: the tensor has no axis {index}",
            expected=f"an axis from {-n} to {n - 1}",
            received=f"shape {tuple(value.shape)}",
        )
    return index % n
