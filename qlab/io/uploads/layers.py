"""Layers whose class the operator's name does not tell: it follows from its other arguments.

The registry turns calls of functions into modules; ``F.batch_norm`` it leaves, since that may be
`nn.BatchNorm1d`, ``2d`` or ``3d``, by the rank of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from qlab.io.uploads.raw import writes_to_itself

Made = tuple[nn.Module, tuple[Any, ...]]
Constant = Callable[[Any], Tensor]
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def layer_of(name: str, node: fx.Node, args: tuple[Any, ...], constant: Constant) -> Made | None:
    """The module of an ``aten`` call and what it is called with; None if it is none of these.

    Args:
        name: The operator's name.
        node: The call in the raw graph; ``meta["val"]`` of its inputs tells their rank.
        args: Its arguments in the new graph.
        constant: Reads the tensor behind an argument.

    Raises:
        UnsupportedError: A weight that is no constant.
    """
    maker = _MAKERS.get(name)
    if maker is None or node.kwargs:
        return None
    source = node.args[0]
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    return maker(value.ndim if isinstance(value, Tensor) else 0, *_tensors(args, constant))


def _tensors(args: tuple[Any, ...], constant: Constant) -> tuple[Any, ...]:
    """The arguments with constants read; the input stays a node."""
    return tuple(constant(a) if isinstance(a, fx.Node) and a.op == "get_attr" else a for a in args)


def _batch_norm(
    rank: int, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
    momentum: float, eps: float, *_: Any,
) -> Made | None:  # fmt: skip
    if training and mean is not None:
        raise writes_to_itself()
    if rank not in _BATCH_NORMS or not isinstance(mean, Tensor):
        return None
    module = _BATCH_NORMS[rank](mean.numel(), eps, momentum, affine=weight is not None)
    return _filled(module, weight, bias, mean, var), (x,)


def _inferred_batch_norm(
    rank: int, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> Made | None:
    return _batch_norm(rank, x, weight, bias, mean, var, False, momentum, eps)


def _instance_norm(
    rank: int, x: Any, weight: Any, bias: Any, mean: Any, var: Any, use_input_stats: bool,
    momentum: float, eps: float, *_: Any,
) -> Made | None:  # fmt: skip
    if rank not in _INSTANCE_NORMS or (weight is None and mean is None):
        return None
    tracked = mean is not None
    if tracked and use_input_stats:
        raise writes_to_itself()
    known: Any = mean if weight is None else weight
    affine = weight is not None
    module = _INSTANCE_NORMS[rank](known.numel(), eps, momentum, affine, tracked)
    return _filled(module, weight, bias, mean, var), (x,)


def _embedding(_: int, weight: Any, ids: Any, *rest: Any) -> Made | None:
    if not isinstance(weight, Tensor) or not isinstance(ids, fx.Node):
        return None
    if rest and rest[0] not in (-1, None):  # the padding index matters in training only
        return None
    words, width = weight.shape
    module = nn.Embedding(words, width, _weight=weight)
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module.eval(), (ids,)


def _layer_norm(
    _: int, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *__: Any
) -> Made | None:
    if weight is None and bias is not None:
        return None
    affine = weight is not None
    module = nn.LayerNorm(list(shape), eps, elementwise_affine=affine, bias=bias is not None)
    return _filled(module, weight, bias, None, None), (x,)


def _hardtanh(_: int, x: Any, low: float = -1, high: float = 1) -> Made:
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high), (x,)


def _flatten(_: int, x: Any, start: int = 0, end: int = -1) -> Made:
    return nn.Flatten(start, end), (x,)


def _filled(module: nn.Module, weight: Any, bias: Any, mean: Any, var: Any) -> nn.Module:
    named = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    for name, tensor in named.items():
        if name in module._parameters and tensor is not None:
            parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
            parameter.requires_grad = False
            module.register_parameter(name, parameter)
        elif name in module._buffers and tensor is not None:
            module.register_buffer(name, tensor)
    return module.eval()


_MAKERS: dict[str, Callable[..., Made | None]] = {
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _inferred_batch_norm,
    "instance_norm": _instance_norm,
    "embedding": _embedding,
    "hardtanh": _hardtanh,
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "flatten": _flatten,
}
