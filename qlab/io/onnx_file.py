"""A converted model as ONNX: QuantizeLinear and DequantizeLinear around float operators."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch.export import ExportedProgram
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from qlab.errors import UnsupportedError
from qlab.graph.inputs import Inputs
from qlab.io.files import path_with_suffix, write_atomically
from qlab.io.onnx_operators import ONNX, OPSET, translations
from qlab.io.portable import portable
from qlab.io.standalone import expected_warnings, exported
from qlab.nn.quantized.weighted import WeightedModule

#: Key of the model's metadata: JSON, by tensor of codes the node of the converted graph that has
#: the same codes.
TENSORS = "qlab.tensors"
#: Another: ``"true"`` where biases are whole multiples of ``s_x · s_w``.
INTEGER_BIASES = "qlab.integer_biases"

_LARGEST = 2**31 - 1  # a protocol buffer cannot be larger
_REGISTRATION = "torch.onnx._internal.exporter._registration"


def onnx_bytes(model: fx.GraphModule, example_inputs: Inputs) -> bytes:
    """A converted graph as the bytes of an ONNX file that holds its weights.

    Weights are constants of 8 or 4 bits or float8 with one scale per tensor, channel or block,
    behind DequantizeLinear. Every operator on codes stands in float between DequantizeLinear and
    QuantizeLinear, which runtimes turn into integer kernels of their own. Biases are float32; those
    kernels round them to ``s_x · s_w``, of which they are multiples already where the model was
    converted with `QConfigMapping.set_integer_biases`, as ``Lab.export`` does.

    Args:
        model: What `convert_fx`, `Lab.convert` or `load_quantized` gave.
        example_inputs: Inputs of one call. Sizes that the model leaves free stay free; the first
            axis of the inputs is called ``batch``.

    Raises:
        UnsupportedError: ONNX cannot say what the model does; names the operator, and the module
            that calls it where the model is not that itself. Or the file would exceed 2 GiB.
    """
    apart = portable(model, ONNX)
    for node in apart.graph.nodes:
        if node.target is F.scaled_dot_product_attention:
            node.target = attention_over_four_axes
    apart.recompile()
    program = exported(apart, example_inputs)
    with _expected_messages():
        try:
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=translations(),
                output_names=_output_names(program),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise _inexpressible(error, program, model) from error
    _finish(made.model, _code_tensors(made.exported_program))
    if any(isinstance(m, WeightedModule) and m.integer_bias for m in model.modules()):
        made.model.metadata_props[INTEGER_BIASES] = "true"
    try:
        content = made.model_proto.SerializeToString()
    except ValueError as error:  # how protocol buffers say that they are too large
        raise _too_large() from error
    if len(content) > _LARGEST:
        raise _too_large()
    return content


def save_onnx(model: fx.GraphModule, example_inputs: Inputs, path: str | os.PathLike[str]) -> Path:
    """Writes a converted graph as ONNX, whole or not at all; see `onnx_bytes`.

    Raises:
        ArgumentError: The path does not end in ``.onnx``, or no file can be written there.
        UnsupportedError: As `onnx_bytes`.
    """
    target = path_with_suffix(path, ".onnx", "save_onnx")
    write_atomically(target, onnx_bytes(model, example_inputs))
    return target


def attention_over_four_axes(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any,
    **options: Any,
) -> Tensor:  # fmt: skip
    """``F.scaled_dot_product_attention``, whose form in ONNX takes tensors of four axes alone.

    Args:
        query: (*, L, E), of two to four axes.
        key: (*, S, E).
        value: (*, S, V).
        attn_mask: Broadcastable to (*, L, S).
        *args: ``dropout_p`` and ``is_causal``.
        **options: The same by name, ``scale`` and ``enable_gqa``.
    """
    missing = 4 - query.dim()
    for _ in range(missing):
        axis = max(query.dim() - 2, 0)
        if attn_mask is not None and attn_mask.dim() > 2:
            attn_mask = attn_mask.unsqueeze(axis)
        query, key, value = (x.unsqueeze(axis) for x in (query, key, value))
    y = F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **options)
    for _ in range(missing):
        y = y.squeeze(-3)
    return y


def _too_large() -> UnsupportedError:
    return UnsupportedError(
        "An ONNX file of more than 2 GiB cannot be written",
        fix="Write a checkpoint (.safetensors), or quantize to fewer bits.",
    )


@contextlib.contextmanager
def _expected_messages() -> Iterator[None]:
    """Keeps back what torch 2.13 says of every export, besides what `expected_warnings` does.

    Its table of operators misses torchvision's, which no graph of qlab calls.
    """
    logger = logging.getLogger(_REGISTRATION)

    def kept(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed. Skipping")

    logger.addFilter(kept)
    try:
        with expected_warnings():
            yield
    finally:
        logger.removeFilter(kept)


def _output_names(program: ExportedProgram) -> list[str]:
    """Keys and positions of the outputs: ``output``, ``output_0`` or ``logits``."""
    spec = program.call_spec.out_spec
    assert spec is not None
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths, _ = pytree.tree_flatten_with_path(tree)
    names = ["_".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in p) for p, _ in paths]
    return [name if re.match(r"[A-Za-z]", name) else f"output_{name}".strip("_") for name in names]


def _code_tensors(program: ExportedProgram) -> dict[str, str]:
    """By tensor that QuantizeLinear gives, the node of the converted graph with these codes."""
    operator: Any = torch.ops.qlab_onnx.quantize.default
    calls = (node for node in program.graph.nodes if node.target is operator)
    return {node.name: str(node.args[-1]) for node in calls if node.args[-1]}


def _finish(model: Any, tensors: dict[str, str]) -> None:
    """Names, narrow weights, and nothing of this machine."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    values = {value.name: value for node in model.graph for value in node.outputs}
    tensors = {tensor: node for tensor, node in tensors.items() if tensor in values}
    taken = set(values) | {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    found = {}
    for tensor, node in tensors.items():
        name = node if node not in taken - {tensor} else f"{node}_codes"
        while name in taken - {tensor}:
            name += "_"
        values[tensor].name = name
        taken.add(name)
        found[name] = node
    for node in model.graph.all_nodes():
        _narrow(node, onnx_ir)
        node.metadata_props.clear()
    for value in (*values.values(), *model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    RemoveUnusedNodesPass()(model)  # the constants that were cast, whose names are free then
    _name_constants(model.graph)
    _name_axes(model, onnx_ir)
    model.graph.name, model.producer_name = "model", "qlab"
    model.producer_version = version("qlab")
    model.metadata_props.clear()
    model.metadata_props[TENSORS] = json.dumps(found)


def _narrow(node: Any, onnx_ir: Any) -> None:
    """Puts a constant of the right type in place of the cast of a constant."""
    if node.op_type != "Cast":
        return
    given, (cast,) = node.inputs[0], node.outputs
    constant = onnx_ir.convenience.get_const_tensor(given)
    if constant is None:
        return
    kind = onnx_ir.DataType(node.attributes["to"].as_int())
    values = constant.numpy().astype(kind.numpy())
    tensor = onnx_ir.Tensor(values, dtype=kind, name=f"{given.name}_{kind.name.lower()}")
    if tensor.name not in node.graph.initializers:
        made = onnx_ir.Value(
            name=tensor.name,
            shape=onnx_ir.Shape(values.shape),
            type=onnx_ir.TensorType(kind),
            const_value=tensor,
        )
        node.graph.register_initializer(made)
    cast.replace_all_uses_with(node.graph.initializers[tensor.name])


def _name_constants(graph: Any) -> None:
    """``fc.weight_codes`` for what is read with ``fc.weight_scale``."""
    for node in graph.all_nodes():
        if node.op_type == "DequantizeLinear" and node.inputs[0].name in graph.initializers:
            codes, scale = node.inputs[:2]
            name = scale.name.replace("_scale", "_codes")
            if scale.name.endswith("_scale") and name not in graph.initializers:
                codes.name = name


def _name_axes(model: Any, onnx_ir: Any) -> None:
    """``batch`` for the axis of samples, the input's name and the axis for others."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, onnx_ir.SymbolicDim) and size.value is not None:
                names.setdefault(size.value, "batch" if axis == 0 else f"{value.name}_{axis}")
    values = {value for node in model.graph.all_nodes() for value in node.outputs}
    for value in (*model.graph.inputs, *values):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([_renamed(size, names, onnx_ir) for size in value.shape])


def _renamed(size: Any, names: dict[str, str], onnx_ir: Any) -> Any:
    if not isinstance(size, onnx_ir.SymbolicDim) or size.value is None:
        return size
    return re.sub(r"\w+", lambda found: names.get(found[0], found[0]), size.value)


def _inexpressible(
    error: Exception, program: ExportedProgram, model: fx.GraphModule
) -> UnsupportedError:
    """Says which operator of which module ONNX does not know."""
    reasons: list[BaseException] = [error]
    while (cause := reasons[-1].__cause__) is not None:
        reasons.append(cause)
    text = " ".join(map(str, reasons))
    known = re.search(r"target=(?:torch\.ops\.)?([\w.]+)", text)
    operator = known[1] if known else "an operator"
    path = _caller_of(operator, program, model)
    where = f" in module {path!r}" if path else ""
    return UnsupportedError(
        f"ONNX (opset {OPSET}) has no form of {operator}{where}",
        received=str(reasons[-1]).splitlines()[0],
        fix="Write .pt2 or .safetensors, or replace the operator in the model.",
    )


def _caller_of(operator: str, program: ExportedProgram, model: fx.GraphModule) -> str:
    """The module of the converted graph that calls an operator; empty if the model itself does."""
    callers = {node.name: node for node in model.graph.nodes}
    taken_apart = {**decomposition_table, **torch.export.default_decompositions()}
    with expected_warnings():  # an operator may have come out of another
        programs = (program, program.run_decompositions(taken_apart))
    for node in chain.from_iterable(p.graph.nodes for p in programs):
        if str(node.target) == operator and (source := _source(node)) in callers:
            caller = callers[source]
            return str(caller.target if caller.op == "call_module" else caller.meta.get("path", ""))
    return ""


def _source(node: fx.Node) -> str:
    """The name of the node that a node of a program was recorded of."""
    name, sources = "", node.meta.get("from_node")
    while sources:
        name, sources = sources[-1].name, sources[-1].from_node
    return name
