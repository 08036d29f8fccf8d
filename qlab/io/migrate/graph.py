"""Graphs that the reference converted: its operators become qlab's modules."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

import qlab.nn.quantized as nnq
from qlab.errors import QlabError, UnsupportedError
from qlab.io.migrate.tensors import dtype_of, quantized
from qlab.nn import functions
from qlab.nn.intrinsic import AddReLU
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.quantized import dynamic as nnqd
from qlab.nn.quantized.holder import OUTPUT, float_copy, qparams_of_numbers

Own = Callable[[nn.Module, str], nn.Module]
#: What an operator becomes: a module, and which of its arguments that module takes.
Made = tuple[nn.Module, tuple[Any, ...]]


class _Constant:
    """Reads arguments that a graph holds as attributes."""

    def __init__(self, source: fx.GraphModule) -> None:
        self.source = source

    def __call__(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value.op != "get_attr":
                raise UnsupportedError("An argument that the graph computes is not known before")
            return operator.attrgetter(str(value.target))(self.source)
        return value


def _own(module: nn.Module, static: Any, scale: Any, zero_point: Any) -> nn.Module:
    return static.from_qparams(module, output=qparams_of_numbers(float(scale), int(zero_point)))


def _pairwise(module: type[nn.Module], static: Any) -> Callable[..., Made]:
    def make(read: _Constant, x: Any, y: Any, scale: Any, zero_point: Any) -> Made:
        return _own(module(), static, read(scale), read(zero_point)), (x, y)

    return make


def _add_relu(read: _Constant, x: Any, y: Any, scale: Any, zero_point: Any) -> Made:
    module = AddReLU(functions.Add(), nn.ReLU())
    return _own(module, nniq.AddReLU, read(scale), read(zero_point)), (x, y)


def _cat(read: _Constant, xs: Any, dim: int = 0, scale: Any = None, zero_point: Any = None) -> Made:
    if scale is None:
        raise UnsupportedError("A concatenation without a scale of its own")
    return _own(functions.Cat(dim), nnq.Cat, read(scale), read(zero_point)), tuple(xs)


def _leaky_relu(read: _Constant, x: Any, slope: float, inplace: bool, *output: Any) -> Made:
    return _own(nn.LeakyReLU(slope), nnq.LeakyReLU, *map(read, output)), (x,)


def _elu(read: _Constant, x: Any, scale: Any, zero_point: Any, alpha: float = 1.0) -> Made:
    return _own(nn.ELU(alpha), nnq.ELU, read(scale), read(zero_point)), (x,)


def _hardswish(read: _Constant, x: Any, output_scale: Any, output_zero_point: Any) -> Made:
    made = _own(nn.Hardswish(), nnq.Hardswish, read(output_scale), read(output_zero_point))
    return made, (x,)


def _layer_norm(read: _Constant, x: Any, shape: Any, weight: Any, bias: Any, *rest: Any) -> Made:
    eps, scale, zero_point = map(read, rest)
    norm = nn.LayerNorm(list(shape), eps=eps)
    _take(norm, read(weight), read(bias))
    return _own(norm.eval(), nnq.LayerNorm, scale, zero_point), (x,)


def _take(norm: Any, weight: Any, bias: Any) -> None:
    with torch.no_grad():
        for name, value in (("weight", weight), ("bias", bias)):
            if value is not None:
                getattr(norm, name).copy_(value)


def _linear(target: Any) -> Callable[..., Made]:
    def make(read: _Constant, x: Any, packed: Any, scale: Any, zero_point: Any) -> Made:
        weight, bias = read(packed).unpack()
        made = target(weight.shape[1], weight.shape[0], bias is not None)
        made.set_weight_bias(quantized(weight), float_copy(bias))
        made.set_qparams(OUTPUT, qparams_of_numbers(float(read(scale)), int(read(zero_point))))
        return made.eval(), (x,)

    return make


def _linear_dynamic(read: _Constant, x: Any, packed: Any, reduce_range: bool = False) -> Made:
    weight, bias = read(packed).unpack()
    made = nnqd.Linear(weight.shape[1], weight.shape[0], bias is not None)
    made.set_weight_bias(quantized(weight), float_copy(bias))
    made.reduce_range = reduce_range
    return made.eval(), (x,)


def _conv(target: Any) -> Callable[..., Made]:
    def make(read: _Constant, x: Any, packed: Any, scale: Any, zero_point: Any) -> Made:
        held = read(packed)
        weight, bias = held.unpack()
        rank, groups = weight.dim() - 2, held.groups()
        # one-dimensional convolutions are packed with an axis of length 1 before the last
        options = (list(given())[-rank:] for given in (held.stride, held.padding, held.dilation))
        sizes = [tuple(option) for option in options]
        made = target(
            weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), *sizes, groups,
            bias is not None,
        )  # fmt: skip
        made.set_weight_bias(quantized(weight), float_copy(bias))
        made.set_qparams(OUTPUT, qparams_of_numbers(float(read(scale)), int(read(zero_point))))
        return made.eval(), (x,)

    return make


def _quantize(read: _Constant, x: Any, scale: Any, zero_point: Any, dtype: Any) -> Made:
    made = nnq.Quantize(float(read(scale)), int(read(zero_point)), dtype_of(dtype))
    return made.eval(), (x,)


#: By the name that an operator's target goes by, without its namespace.
OPERATORS: dict[str, Callable[..., Made]] = {
    "quantize_per_tensor": _quantize,
    "add": _pairwise(functions.Add, nnq.Add),
    "add_relu": _add_relu,
    "mul": _pairwise(functions.Mul, nnq.Mul),
    "matmul": _pairwise(functions.MatMul, nnq.MatMul),
    "cat": _cat,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "hardswish": _hardswish,
    "layer_norm": _layer_norm,
    "linear": _linear(nnq.Linear),
    "linear_relu": _linear(nniq.LinearReLU),
    "linear_dynamic": _linear_dynamic,
    "conv1d": _conv(nnq.Conv1d),
    "conv2d": _conv(nnq.Conv2d),
    "conv3d": _conv(nnq.Conv3d),
    "conv1d_relu": _conv(nniq.ConvReLU1d),
    "conv2d_relu": _conv(nniq.ConvReLU2d),
    "conv3d_relu": _conv(nniq.ConvReLU3d),
}


def rewritten(source: fx.GraphModule, own: Own, path: str) -> fx.GraphModule:
    """A graph of the reference on qlab's modules.

    Args:
        source: What the reference's ``convert_fx`` returned; it stays as it is.
        own: Migrates a module of it, given its path.
        path: Where the graph stands in the model, for errors.

    Raises:
        UnsupportedError: An operator or a module has no form in qlab; names it.
    """
    read, graph = _Constant(source), fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    targets: dict[str, Any] = {}
    for node in source.graph.nodes:
        if node.op == "call_module":
            name = str(node.target)
            targets[name] = own(source.get_submodule(name), f"{path}.{name}" if path else name)
        elif node.op == "get_attr":
            continue  # read by what uses it
        found = _operator(node)
        if found is None:
            _keep_attributes(node, source, graph, values, targets)
            values[node] = graph.node_copy(node, values.__getitem__)
            continue
        if found not in OPERATORS:
            raise UnsupportedError(f"migrate: {node.name!r}: qlab has no form of {node.target}")
        try:
            module, inputs = OPERATORS[found](read, *node.args, **node.kwargs)
        except QlabError as error:
            raise UnsupportedError(f"migrate: {node.name!r} ({node.target}): {error}") from error
        name = f"migrated_{node.name}"
        targets[name] = module
        arguments = fx.map_arg(inputs, values.__getitem__)
        values[node] = graph.create_node("call_module", name, arguments, {}, name=node.name)
    graph.lint()
    made = fx.GraphModule(targets, graph, type(source).__name__)
    return made.train(source.training)


def has_operators(source: fx.GraphModule) -> bool:
    """Whether a graph calls any of the reference's own operators."""
    return any(_operator(node) is not None for node in source.graph.nodes)


def _operator(node: fx.Node) -> str | None:
    """The name of one of the reference's own operators; None for what is not one."""
    if node.op != "call_function":
        return None
    name = getattr(node.target, "__name__", "")
    if name == "quantize_per_tensor":
        return name
    namespace, dot, rest = str(node.target).partition(".")
    return rest.partition(".")[0] if dot and namespace == "quantized" else None


def _keep_attributes(
    node: fx.Node,
    source: fx.GraphModule,
    graph: fx.Graph,
    values: dict[fx.Node, fx.Node],
    targets: dict[str, Any],
) -> None:
    """Copies the attributes that a float operator reads."""
    for used in node.all_input_nodes:
        if used.op == "get_attr" and used not in values:
            value = operator.attrgetter(str(used.target))(source)
            targets[str(used.target)] = value.detach().clone()
            values[used] = graph.node_copy(used)
