"""From a function or method call to a float module: ``F.relu(x)`` → ``nn.ReLU()`` and ``x``.

Each function here takes the arguments of the torch function of its name and returns the module
that does the same, with the tensors it is to be called with. The tensors are passed through
untouched, so they may be nodes of a graph. Parameters (weights, biases, running statistics) must
be real tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qlab.errors import UnsupportedError
from qlab.nn.functions import Add, AddScalar, Cat, MatMul, Mean, Mul, MulScalar, Stack

Lifted = tuple[nn.Module, tuple[Any, ...]]
Lifter = Callable[..., Lifted]
Size = int | Sequence[int]


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse(function: str, reason: str, received: object) -> UnsupportedError:
    return UnsupportedError(f"{function} has no integer form here: {reason}", received=received)


def module(cls: Callable[..., nn.Module]) -> Lifter:
    """The lifter of a function whose arguments, after the tensor, are those of a module."""

    def lift(input: Any, *args: Any, **kwargs: Any) -> Lifted:
        return cls(*args, **kwargs), (input,)

    return lift


def add(input: Any, other: Any, *, alpha: float = 1) -> Lifted:
    """``input + alpha * other``; one of the two may be a number."""
    if alpha != 1 and not _number(other):
        raise _refuse("add", "alpha scales the second tensor", f"alpha={alpha}")
    if _number(other):
        return AddScalar(other * alpha), (input,)
    if _number(input):
        return AddScalar(input), (other,)
    return Add(), (input, other)


def sub(input: Any, other: Any, *, alpha: float = 1) -> Lifted:
    """``input - alpha * other`` with a number for ``other``."""
    if not _number(other):
        raise _refuse("sub", "only a number can be subtracted", "two tensors")
    return AddScalar(-other * alpha), (input,)


def mul(input: Any, other: Any) -> Lifted:
    """``input * other``; one of the two may be a number."""
    if _number(other):
        return MulScalar(other), (input,)
    if _number(input):
        return MulScalar(input), (other,)
    return Mul(), (input, other)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Lifted:
    """``input / other`` with a number for ``other``."""
    if rounding_mode is not None:
        raise _refuse("div", "it rounds", f"rounding_mode={rounding_mode!r}")
    if not _number(other) or not other:
        raise _refuse("div", "only a number other than 0 can be divided by", repr(other))
    return MulScalar(1.0 / other), (input,)


def matmul(input: Any, other: Any) -> Lifted:
    """``input @ other``."""
    return MatMul(), (input, other)


def cat(tensors: Sequence[Any], dim: int = 0) -> Lifted:
    """`torch.cat`."""
    return Cat(dim), _written_out("cat", tensors)


def stack(tensors: Sequence[Any], dim: int = 0) -> Lifted:
    """`torch.stack`."""
    return Stack(dim), _written_out("stack", tensors)


def _written_out(called: str, tensors: Any) -> tuple[Any, ...]:
    if not isinstance(tensors, list | tuple):
        raise _refuse(called, "how many tensors it joins is not known", f"tensors={tensors}")
    return tuple(tensors)


def mean(
    input: Any, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Lifted:
    """`torch.mean`; a method call may give the axes one by one."""
    if dtype not in (None, torch.float32):
        raise _refuse("mean", "the result has its own dtype", f"dtype={dtype}")
    return Mean(tuple(dim) if isinstance(dim, (list, tuple)) else dim, keepdim), (input,)


def clamp(input: Any, min: Any = None, max: Any = None) -> Lifted:
    """`torch.clamp` with numbers; a bound that is not given is the largest float32."""
    largest = torch.finfo(torch.float32).max
    bounds = (-largest if min is None else min, largest if max is None else max)
    if not all(_number(bound) for bound in bounds):
        raise _refuse("clamp", "its bounds must be numbers", repr(bounds))
    if bounds[0] == 0 and max is None:
        return nn.ReLU(), (input,)
    return nn.Hardtanh(*bounds), (input,)


def softmax(
    input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Lifted:
    """`torch.softmax` and its functional and method forms."""
    if dtype not in (None, torch.float32):
        raise _refuse("softmax", "the result has its own dtype", f"dtype={dtype}")
    return nn.Softmax(dim), (input,)


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Lifted:
    """`torch.nn.functional.dropout`; only evaluation has an integer form: the identity."""
    if training:
        raise _refuse("dropout", "it drops elements in training", "training=True")
    return nn.Dropout(p), (input,)


def max_pool(module: type[nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d]) -> Lifter:
    """The lifter of ``max_pool1d``, ``max_pool2d`` or ``max_pool3d``."""

    def lift(
        input: Any,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Lifted:
        if return_indices:
            raise _refuse("max_pool", "it returns indices", "return_indices=True")
        made: Any = module
        return made(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode), (input,)

    return lift


def adaptive_max_pool(module: Callable[..., nn.Module]) -> Lifter:
    """The lifter of ``adaptive_max_pool1d``, ``2d`` or ``3d``."""

    def lift(input: Any, output_size: Size, return_indices: bool = False) -> Lifted:
        if return_indices:
            raise _refuse("adaptive_max_pool", "it returns indices", "return_indices=True")
        return module(output_size), (input,)

    return lift


def interpolate(
    input: Any,
    size: Size | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Lifted:
    """`torch.nn.functional.interpolate`."""
    if antialias:
        raise _refuse("interpolate", "it filters", "antialias=True")
    made: Any = nn.Upsample
    return made(size, scale_factor, mode, align_corners, recompute_scale_factor), (input,)


def _with_parameters(module: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    for name, value in (("weight", weight), ("bias", bias)):
        parameter = None if value is None else nn.Parameter(value.detach(), requires_grad=False)
        module.register_parameter(name, parameter)
    return module.eval()


def linear(input: Any, weight: Tensor, bias: Tensor | None = None) -> Lifted:
    """`torch.nn.functional.linear`."""
    module = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    return _with_parameters(module, weight, bias), (input,)


def prelu(input: Any, weight: Tensor) -> Lifted:
    """`torch.nn.functional.prelu`."""
    module = nn.PReLU(weight.numel(), device="meta")
    module.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return module, (input,)


def conv(module: type[nn.Conv1d | nn.Conv2d | nn.Conv3d]) -> Lifter:
    """The lifter of ``conv1d``, ``conv2d`` or ``conv3d``."""

    def lift(
        input: Any,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
    ) -> Lifted:
        sizes = (weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]))
        make: Any = module
        made = make(*sizes, stride, padding, dilation, groups, device="meta")
        return _with_parameters(made, weight, bias), (input,)

    return lift


def conv_transpose(
    module: type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d],
) -> Lifter:
    """The lifter of ``conv_transpose1d``, ``conv_transpose2d`` or ``conv_transpose3d``."""

    def lift(
        input: Any,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        dilation: Size = 1,
    ) -> Lifted:
        sizes = (weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]))
        make: Any = module
        made = make(
            *sizes, stride, padding, output_padding, groups, dilation=dilation, device="meta"
        )
        return _with_parameters(made, weight, bias), (input,)

    return lift


def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Lifted:
    """`torch.nn.functional.layer_norm`."""
    module = nn.LayerNorm(list(normalized_shape), eps, elementwise_affine=False)
    return _with_parameters(module, weight, bias), (input,)


def group_norm(
    input: Any,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Lifted:
    """`torch.nn.functional.group_norm` with a weight, whose length is the number of channels."""
    if weight is None:
        raise _refuse("group_norm", "the number of channels comes from its weight", "no weight")
    module = nn.GroupNorm(num_groups, weight.shape[0], eps, affine=False)
    return _with_parameters(module, weight, bias), (input,)
