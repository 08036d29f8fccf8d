"""From ``aten`` operators, as `torch.export` records them, to the functions that users call.

The registry, rules by type and `qlab.graph.lift` know functions such as ``F.linear``; an exported
program has ``aten.linear.default``. What is not in the table stays an ``aten`` call, in float.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

Call = tuple[Callable[..., Any] | str, tuple[Any, ...], dict[str, Any]]
_Rewrite = Callable[..., Call]

_CHECKS = frozenset({"_assert_tensor_metadata", "_assert_async", "_assert_scalar"})


def operator_name(target: Any) -> str:
    """``"add"`` of ``aten.add.Tensor``; of another function or a method its own name."""
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2]
    return target.__name__


def is_check(target: Any) -> bool:
    """Whether an operator only asserts something about the example inputs."""
    return isinstance(target, torch._ops.OpOverload) and operator_name(target) in _CHECKS


def writes(target: Any) -> bool:
    """Whether an operator writes to one of its arguments."""
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def passes_on(node: fx.Node) -> bool:
    """Whether a node is a slice of everything, which `torch.export` records for ``x[:]``."""
    if operator_name(node.target) != "slice" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    _, _, start, end, step = (*node.args, *(None, 0, None, None, 1)[len(node.args) :])
    return start in (0, None) and end in (None, sys.maxsize) and step in (1, None)


def gives_several(node: fx.Node) -> bool:
    """Whether a call gives what users call a function for, and more."""
    known = isinstance(node.target, torch._ops.OpOverload)
    return known and operator_name(node.target) in _FIRST_OF_SEVERAL


def first_alone(node: fx.Node) -> bool:
    """Whether a call gives several tensors of which the program reads the first alone.

    The function that users call then gives that one: `torch.export` records the others of a norm,
    of pooling with indices and of attention only once it has taken them apart.
    """
    return (
        gives_several(node)
        and all(u.target is operator.getitem for u in node.users)
        and all(u.args[1] == 0 or not u.users for u in node.users)
    )


def as_users_call_it(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """The function or method (by name) that means the same as an ``aten`` call; None if unknown.

    Args:
        node: The call, whose ``meta["val"]`` and those of its inputs tell ranks.
        args: Its positional arguments, as they shall stand in the new graph.
        kwargs: Its keyword arguments, likewise.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = operator_name(node.target)
    if gives_several(node):
        return _FIRST_OF_SEVERAL[name](*args, **kwargs) if first_alone(node) else None
    if name == "slice":
        return _slice(node, *args, **kwargs)
    if name in ("to", "_to_copy"):
        return _to(node, args[0])
    if name in _REWRITTEN:
        return _REWRITTEN[name](*args, **kwargs)
    if name in _METHODS:
        return _METHODS[name], args, kwargs
    if name in _FUNCTIONS:
        return _FUNCTIONS[name], args, kwargs
    return None


def _slice(
    node: fx.Node, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Call:
    source = node.args[0]
    rank = source.meta["val"].ndim if isinstance(source, fx.Node) else 0
    index = slice(start or None, None if end == sys.maxsize else end, None if step == 1 else step)
    axis = dim % rank if rank else dim
    return operator.getitem, (x, (*[slice(None)] * axis, index)), {}


def _to(node: fx.Node, x: Any) -> Call:
    """A change of dtype only: all of a graph is on one device, which need not be the example's."""
    source, dtype = node.args[0], node.meta["val"].dtype
    if isinstance(source, fx.Node) and source.meta["val"].dtype == dtype:
        return torch.detach, (x,), {}
    return "to", (x, dtype), {}


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float,
    eps: float, _: bool = False,
) -> Call:  # fmt: skip
    return F.batch_norm, (x, mean, var, weight, bias, training, momentum, eps), {}


def _norm(function: Callable[..., Tensor]) -> _Rewrite:
    """Layer and group norm end with a choice of kernel, which the function does not take."""
    return lambda *args, **kwargs: (function, args[:5], kwargs)


def _arithmetic(plain: Callable[..., Any], function: Callable[..., Any]) -> _Rewrite:
    return lambda a, b, **kwargs: (function if kwargs else plain, (a, b), kwargs)


def _rsub(x: Any, other: Any, alpha: float = 1) -> Call:
    return operator.sub, (other, x if alpha == 1 else x * alpha), {}


def _embedding(weight: Any, ids: Any, *_: Any) -> Call:
    return F.embedding, (ids, weight), {}


def _dropout(x: Any, p: float, training: bool) -> Call:
    return F.dropout, (x,), {"p": p, "training": training}


def _transposed(weight: Any) -> Any:
    """What a node is the transpose of, if that is a parameter."""
    if not isinstance(weight, fx.Node) or weight.op != "call_function":
        return None
    args = weight.args
    swaps = {torch.t: (), torch.permute: ([1, 0],), torch.transpose: (0, 1)}
    source = args[0] if weight.target in swaps and args[1:] == swaps[weight.target] else None
    return source if isinstance(source, fx.Node) and source.op == "get_attr" else None


def _addmm(bias: Any, x: Any, other: Any, beta: float = 1, alpha: float = 1) -> Call:
    weight = _transposed(other)
    if weight is None or (beta, alpha) != (1, 1):
        return torch.addmm, (bias, x, other), {"beta": beta, "alpha": alpha}
    return F.linear, (x, weight, bias), {}


def _mm(x: Any, other: Any) -> Call:
    weight = _transposed(other)
    return (torch.matmul, (x, other), {}) if weight is None else (F.linear, (x, weight), {})


def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Call:  # fmt: skip
    rank = len(stride)
    if transposed:
        function = getattr(F, f"conv_transpose{rank}d")
        return function, (x, weight, bias, stride, padding, output_padding, groups, dilation), {}
    return getattr(F, f"conv{rank}d"), (x, weight, bias, stride, padding, dilation, groups), {}


def _inferred_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> Call:
    return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)


def _native_group_norm(
    x: Any, weight: Any, bias: Any, _n: Any, _c: Any, _area: Any, groups: int, eps: float
) -> Call:
    return F.group_norm, (x, groups, weight, bias, eps), {}


def _attention(
    q: Any, k: Any, v: Any, dropout: float = 0.0, is_causal: bool = False, *,
    attn_mask: Any = None, scale: float | None = None,
) -> Call:  # fmt: skip
    options = {"attn_mask": attn_mask, "dropout_p": dropout, "is_causal": is_causal, "scale": scale}
    return F.scaled_dot_product_attention, (q, k, v), options


def _softmax(function: Callable[..., Tensor]) -> _Rewrite:
    return lambda x, dim, _to_half: (function, (x, dim), {})


#: Operators that give more than the function that users call, of which it gives the first.
_FIRST_OF_SEVERAL: dict[str, _Rewrite] = {
    "native_layer_norm": lambda *args: (F.layer_norm, args, {}),
    "native_group_norm": _native_group_norm,
    "_native_batch_norm_legit_no_training": _inferred_batch_norm,
    "max_pool2d_with_indices": lambda *args: (F.max_pool2d, args, {}),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}

_REWRITTEN: dict[str, _Rewrite] = {
    "addmm": _addmm,
    "mm": _mm,
    "convolution": _convolution,
    "_softmax": _softmax(torch.softmax),
    "_log_softmax": _softmax(torch.log_softmax),
    "batch_norm": _batch_norm,
    "layer_norm": _norm(F.layer_norm),
    "group_norm": _norm(F.group_norm),
    "add": _arithmetic(operator.add, torch.add),
    "sub": _arithmetic(operator.sub, torch.sub),
    "mul": _arithmetic(operator.mul, torch.mul),
    "div": _arithmetic(operator.truediv, torch.div),
    "rsub": _rsub,
    "embedding": _embedding,
    "dropout": _dropout,
}

_METHODS = {name: name for name in ("expand", "repeat", "contiguous", "unflatten", "squeeze")} | {
    "sym_size": "size"
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(F, name)
        for name in (
            "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
            "conv_transpose3d", "relu", "relu6", "hardtanh", "silu", "gelu", "leaky_relu", "elu",
            "hardswish", "hardsigmoid", "prelu", "avg_pool1d", "avg_pool2d", "avg_pool3d",
            "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
            "adaptive_avg_pool3d", "scaled_dot_product_attention",
        )
    },
    **{
        name: getattr(torch, name)
        for name in (
            "sigmoid", "tanh", "softmax", "log_softmax", "matmul", "bmm", "cat", "mean", "clamp",
            "reshape", "transpose", "permute", "t", "flatten", "unsqueeze", "clone", "detach",
            "chunk", "split", "unbind", "select", "narrow", "index_select", "roll", "flip",
        )
    },
    "view": torch.reshape,
    "_unsafe_view": torch.reshape,
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "_adaptive_avg_pool3d": F.adaptive_avg_pool3d,
    "split_with_sizes": torch.split,
    "lift_fresh_copy": torch.clone,
    "alias": torch.detach,
}  # fmt: skip
