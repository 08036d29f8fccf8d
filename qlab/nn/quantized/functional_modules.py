"""Arithmetic as modules: what eager models call in place of ``+``, ``*`` and ``torch.cat``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from qlab import ops
from qlab.errors import ArgumentError, DTypeError, UnsupportedError, check_type
from qlab.nn.quantized.base import QuantizedModule
from qlab.nn.quantized.holder import OUTPUT, qparams_of_numbers
from qlab.nn.quantized.operands import Operands
from qlab.qparams import QParams
from qlab.qtensor import QTensor


class FXFloatFunctional(nn.Module):
    """Float arithmetic by name, without an observer; for models that are traced."""

    def forward(self, x: Tensor) -> Tensor:
        """Raises `UnsupportedError`: call one of the operations instead."""
        raise _no_forward(self)

    def _result(self, x: Tensor) -> Tensor:
        return x

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + y``, broadcast."""
        return self._result(torch.add(x, y))

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x + y`` with a number; not observed, since its scale follows from that of ``x``."""
        return torch.add(x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x · y``, broadcast."""
        return self._result(torch.mul(x, y))

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x · y`` with a number; not observed, since its scale follows from that of ``x``."""
        return torch.mul(x, y)

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        """The tensors joined along ``dim``."""
        check_type("FloatFunctional.cat", "the tensors", x, Iterable, "a list of tensors")
        return self._result(torch.cat(tuple(x), dim=dim))

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """``relu(x + y)``, broadcast."""
        return self._result(torch.relu(torch.add(x, y)))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x @ y``."""
        return self._result(torch.matmul(x, y))


class FloatFunctional(FXFloatFunctional):
    """Float arithmetic by name, whose results an observer sees.

    Use one instance per operation: it becomes a `QFunctional` with one output scale.
    """

    activation_post_process: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process = nn.Identity()

    def _result(self, x: Tensor) -> Tensor:
        return self.activation_post_process(x)


class QFunctional(QuantizedModule):
    """The operations of `FloatFunctional` on quantized tensors, with one output scale.

    Each method takes and returns `QTensor`.
    """

    float_types = (FloatFunctional,)
    activation_post_process: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process = nn.Identity()
        self.set_qparams(OUTPUT, qparams_of_numbers(1.0, 0))

    def forward(self, *inputs: Tensor, **named: Unpack[Operands]) -> Tensor:
        """Raises `UnsupportedError`: call one of the operations instead."""
        raise _no_forward(self)

    def _result(self, codes: Tensor) -> QTensor:
        return self.activation_post_process(QTensor(codes, self._own_output()))

    def _pairwise(
        self, op: Callable[..., Tensor], x: Tensor, y: Tensor, relu: bool = False
    ) -> QTensor:
        (a, a_qparams), (b, b_qparams) = _parts(x), _parts(y)
        return self._result(op(a, a_qparams, b, b_qparams, self._own_output(), relu=relu))

    def add(self, x: Tensor, y: Tensor) -> QTensor:
        """``x + y``, broadcast, in the module's output scale."""
        return self._pairwise(ops.add, x, y)

    def add_relu(self, x: Tensor, y: Tensor) -> QTensor:
        """``relu(x + y)``, broadcast, in the module's output scale."""
        return self._pairwise(ops.add, x, y, relu=True)

    def mul(self, x: Tensor, y: Tensor) -> QTensor:
        """``x · y``, broadcast, in the module's output scale."""
        return self._pairwise(ops.mul, x, y)

    def matmul(self, x: Tensor, y: Tensor) -> QTensor:
        """``x @ y`` in the module's output scale."""
        return self._pairwise(ops.matmul, x, y)

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> QTensor:
        """The tensors joined along ``dim``, in the module's output scale."""
        check_type("QFunctional.cat", "the tensors", x, Sequence, "a list of QTensors")
        if not len(x):
            raise ArgumentError(
                "QFunctional.cat: there is nothing to join",
                expected="at least one QTensor",
                received="an empty sequence",
            )
        codes, qparams = zip(*map(_parts, x), strict=True)
        return self._result(ops.cat(codes, qparams, dim, self._own_output()))

    def add_scalar(self, x: Tensor, y: float) -> QTensor:
        """``x + y`` with a number: the zero point moves, see `qlab.ops.add_scalar_qparams`."""
        codes, qparams = _parts(x)
        return QTensor(ops.add_scalar(codes, qparams, y), ops.add_scalar_qparams(qparams, y))

    def mul_scalar(self, x: Tensor, y: float) -> QTensor:
        """``x · y`` with a number: the scale grows, see `qlab.ops.mul_scalar_qparams`."""
        codes, qparams = _parts(x)
        return QTensor(ops.mul_scalar(codes, qparams, y), ops.mul_scalar_qparams(qparams, y))


def _parts(x: Tensor) -> tuple[Tensor, QParams]:
    if not isinstance(x, QTensor):
        raise DTypeError(
            "QFunctional: expected quantized input",
            expected="a QTensor",
            received=str(getattr(x, "dtype", type(x).__name__)),
            fix="Call Quantize first (in a model: insert QuantStub before this operation).",
        )
    return x.codes, x.qparams


def _no_forward(module: nn.Module) -> UnsupportedError:
    name = type(module).__name__
    return UnsupportedError(
        f"{name} is not called itself", fix=f"Call one of its operations, such as {name}().add."
    )
