"""The table of kernels: which exist for an operator, which applies, which ran.

An `Operator` has kernels in order of preference. Each states its own obstacle: ``None`` where it
applies, otherwise the condition that fails, in words. Names in use:

- ``onednn``: oneDNN's integer kernels (x86 CPU with VNNI)
- ``triton``: Triton's kernels, for CUDA: linear and convolutions on int8 tensor cores with the
  requantization fused, element-wise operators and layer_norm in one pass over memory
- ``int_mm``: PyTorch's int8 matrix product, for CUDA where Triton does not run
- ``compiled``: loops that Numba compiles, one pass over memory (CPU, 8-bit codes); the codes of
  ``reference``, bit by bit
- ``reference``: exact integer accumulation, or the definition itself, on any device
- ``simulated``: dequantize, compute in float32, requantize; for what an integer accumulator cannot
  express (16 bits, float8, scales along the summed axis)
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from threading import Lock
from typing import Any, Generic, ParamSpec, TypeVar

from torch import Tensor
from torch.compiler import is_compiling

from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError

CallT = TypeVar("CallT")
T = TypeVar("T")
P = ParamSpec("P")

_FORCED: ContextVar[str | None] = ContextVar("forced kernel", default=None)
_COUNTS: Counter[tuple[str, str]] = Counter()
_COUNTS_LOCK = Lock()


@dataclass(frozen=True)
class Kernel(Generic[CallT]):
    """One way to compute an operator.

    Attributes:
        name: What people call it.
        obstacle: ``None`` where the kernel applies to a call, else the condition that fails.
        run: Computes the call.
        bound: A call as a function of its input's codes, for a layer that is called again and
            again; None where there is nothing to prepare.
    """

    name: str
    obstacle: Callable[[CallT], str | None]
    run: Callable[[CallT], Tensor]
    bound: Callable[[CallT], Callable[[Tensor], Tensor]] | None = None


class Operator(Generic[CallT]):
    """An operator and its kernels, most preferred first.

    Args:
        name: The public function's name.
        bind: Turns that function's arguments into a checked call.
        kernels: In order of preference; the last one should always apply.
    """

    def __init__(
        self, name: str, bind: Callable[..., CallT], kernels: Sequence[Kernel[CallT]]
    ) -> None:
        self.name = name
        self.bind = bind
        self.kernels = tuple(kernels)
        _OPERATORS[name] = self

    def __call__(self, call: CallT) -> Tensor:
        """Runs the kernel that applies, or the forced one, and counts it."""
        return self.run(self.choose(call), call)

    def run(self, kernel: Kernel[CallT], call: CallT) -> Tensor:
        """Runs a kernel that `choose` returned, and counts it."""
        if not is_compiling():
            count(self.name, kernel.name)
        return kernel.run(call)

    def choose(self, call: CallT) -> Kernel[CallT]:
        """The kernel that would run.

        Raises:
            UnsupportedError: A forced kernel, or every kernel, has an obstacle.
        """
        asked = forced()
        candidates = [k for k in self.kernels if k.name == asked] or self.kernels
        obstacles = []
        for kernel in candidates:
            obstacle = kernel.obstacle(call)
            if obstacle is None:
                return kernel
            obstacles.append(f"{kernel.name}: {obstacle}")
        raise UnsupportedError(
            f"{self.name}: "
            + (f"the forced kernel {asked!r}" if len(candidates) == 1 else "no kernel")
            + " cannot compute this call",
            received="; ".join(obstacles),
            fix="Leave `ops.use`, or name a kernel that applies (`ops.kernel_for` tells which).",
        )


_OPERATORS: dict[str, Operator[Any]] = {}


def count(operator: str, kernel: str, runs: int = 1) -> None:
    """Notes runs of a kernel."""
    with _COUNTS_LOCK:
        _COUNTS[operator, kernel] += runs


@dataclass(frozen=True, slots=True)
class _Arguments:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def given_to(self, function: Callable[..., T]) -> T:
        return function(*self.args, **self.kwargs)


def accelerated(
    **faster: tuple[Callable[..., str | None], Callable[..., Tensor]],
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Registers an operator with faster kernels in front of its definition, ``reference``.

    Args:
        **faster: By name, most preferred first, an obstacle and a run. Both take the operator's
            arguments, unchecked: what the definition would refuse must be an obstacle.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        kernels = [_of_arguments(name, *found) for name, found in faster.items()]
        kernels.append(_of_arguments("reference", _never, function))

        def bind(*args: P.args, **kwargs: P.kwargs) -> _Arguments:
            return _Arguments(args, kwargs)

        name = function.__name__
        chosen = Operator(name, bind, kernels)

        @wraps(function)
        def counted(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if is_compiling():
                return function(*args, **kwargs)
            if _FORCED.get() is not None:
                return chosen(bind(*args, **kwargs))
            # As the operator would choose, without its detours.
            for kernel, (obstacle, run) in faster.items():
                if obstacle(*args, **kwargs) is None:
                    count(name, kernel)
                    return run(*args, **kwargs)
            count(name, "reference")
            return function(*args, **kwargs)

        return counted

    return decorate


def defined(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Registers an operator whose one kernel, ``reference``, is its definition."""
    return accelerated()(function)


def _never(*args: object, **kwargs: object) -> None:
    return None


def _of_arguments(
    name: str, obstacle: Callable[..., str | None], run: Callable[..., Tensor]
) -> Kernel[_Arguments]:
    return Kernel(name, lambda c: c.given_to(obstacle), lambda c: c.given_to(run))


def kernel_for(operator: str, /, *args: Any, **kwargs: Any) -> str:
    """Which kernel a call would run: ``kernel_for("conv2d", x, x_qparams, weight, …)``.

    Args:
        operator: Name of a function of `qlab.ops`.
        *args: What that function would be given.
        **kwargs: Likewise.

    Returns:
        ``"onednn"``, ``"triton"``, ``"int_mm"``, ``"compiled"``, ``"reference"`` or
        ``"simulated"``.

    Raises:
        UnknownNameError: No operator has this name.
        ArgumentError: An argument is missing, or one too many.
        QlabError: What the function itself would raise for these arguments.
    """
    if not isinstance(operator, str) or operator not in _OPERATORS:
        raise UnknownNameError.of("operator", str(operator), sorted(_OPERATORS))
    found = _OPERATORS[operator]
    try:
        inspect.signature(found.bind).bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"kernel_for({operator!r}) takes what ops.{operator} takes",
            received=str(error),
        ) from error
    return found.choose(found.bind(*args, **kwargs)).name


def kernels_of(operator: str) -> tuple[str, ...]:
    """The names of an operator's kernels, most preferred first; none for another name."""
    found = _OPERATORS.get(operator)
    return () if found is None else tuple(kernel.name for kernel in found.kernels)


@contextmanager
def use(kernel: str) -> Iterator[None]:
    """Forces a kernel inside a ``with`` block: ``with ops.use("reference"): …``.

    Operators that have no kernel of this name choose as usual. The choice holds for the current
    thread or task only. linear and convolutions give the same codes, bit by bit, with every
    kernel but ``"simulated"``.

    Args:
        kernel: ``"onednn"``, ``"triton"``, ``"int_mm"``, ``"compiled"``, ``"reference"`` or
            ``"simulated"``.

    Raises:
        UnknownNameError: No operator has a kernel of this name.
        UnsupportedError: Inside the block, from an operator whose kernel of this name does not
            apply to a call; it says which condition fails.
    """
    known = {k.name for operator in _OPERATORS.values() for k in operator.kernels}
    if not isinstance(kernel, str) or kernel not in known:
        raise UnknownNameError.of("kernel", str(kernel), sorted(known))
    token = _FORCED.set(kernel)
    try:
        yield
    finally:
        _FORCED.reset(token)


def forced() -> str | None:
    """The name given to the innermost `use`, or None; None in a compiler's trace."""
    return None if is_compiling() else _FORCED.get()


def counts() -> dict[tuple[str, str], int]:
    """How often each ``(operator, kernel)`` ran since the last `reset_counts`, in all threads."""
    with _COUNTS_LOCK:
        return dict(_COUNTS)


def reset_counts() -> None:
    """Sets every count back to zero."""
    with _COUNTS_LOCK:
        _COUNTS.clear()
