"""Functions of torch as float modules, for those that `torch.nn` has no module of.

A graph's function calls are lifted to modules before they are quantized, so that one conversion
serves both: ``a + b`` becomes ``Add()(a, b)``, as ``F.relu(x)`` becomes ``nn.ReLU()(x)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Add(nn.Module):
    """``a + b`` of two tensors, broadcast."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Float tensors whose shapes broadcast → their sum."""
        return a + b


class Mul(nn.Module):
    """``a * b`` of two tensors, broadcast."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Float tensors whose shapes broadcast → their product."""
        return a * b


class _ScalarFunction(nn.Module):
    """A tensor and a number that the model fixes."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = float(value)

    def extra_repr(self) -> str:
        return f"{self.value}"


class AddScalar(_ScalarFunction):
    """``x + value``."""

    def forward(self, x: Tensor) -> Tensor:
        """Float tensor of any shape → the same shape."""
        return x + self.value


class MulScalar(_ScalarFunction):
    """``x * value``."""

    def forward(self, x: Tensor) -> Tensor:
        """Float tensor of any shape → the same shape."""
        return x * self.value


class MatMul(nn.Module):
    """``a @ b``, batched as `torch.matmul`."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(…, n, k) and (…, k, m) → (…, n, m)."""
        return torch.matmul(a, b)


class Cat(nn.Module):
    """Tensors joined along an axis."""

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *tensors: Tensor) -> Tensor:
        """Tensors of equal shape but for ``dim`` → one tensor."""
        return torch.cat(tensors, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Stack(nn.Module):
    """Tensors joined along a new axis."""

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *tensors: Tensor) -> Tensor:
        """Tensors of equal shape → one of one axis more."""
        return torch.stack(tensors, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Mean(nn.Module):
    """Mean over axes.

    Args:
        dim: The axes; all if None.
        keepdim: Whether they stay, with length 1.
    """

    def __init__(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Float tensor of any shape → its mean over ``dim``."""
        return torch.mean(x, self.dim, self.keepdim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, keepdim={self.keepdim}"
