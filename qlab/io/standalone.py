"""A converted model as a ``.pt2`` archive of aten operators, which loads without qlab."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from qlab.dtypes import as_qdtype
from qlab.errors import QlabError, UnsupportedError
from qlab.graph.exported import candidates, export
from qlab.graph.inputs import Inputs, bind
from qlab.io.files import path_with_suffix, write_atomically
from qlab.io.portable import portable
from qlab.io.rounding import AFTER_PRODUCT, FUSED, Form, Rounding


def quantize_with_aten(
    x: Tensor, scale: Tensor, zero_point: Tensor, form: Form, tag: str, order: str
) -> Tensor:
    """Codes by the formulas of `qlab.qparams`, of finite numbers, in aten operators."""
    dtype = as_qdtype(form.dtype)
    inverse, zero = form.spread(1.0 / scale, x), form.spread(zero_point, x)
    if dtype.is_float:
        return (x * inverse).clamp(form.low, form.high).to(dtype.storage)
    if order == FUSED and dtype.bits <= 16:
        codes = (x.double() * inverse + zero).float().round()
    elif order in (FUSED, AFTER_PRODUCT):
        codes = (x * inverse + zero.float()).round()
    else:
        codes = (x * inverse).round() + zero
    if dtype.bits > 16:
        codes = codes.double()
    return codes.clamp(form.low, form.high).to(dtype.storage)


def dequantize_with_aten(
    codes: Tensor, scale: Tensor, zero_point: Tensor, form: Form, constant: bool = False
) -> Tensor:
    """``(q - z) · s`` in aten operators."""
    factor, zero = form.spread(scale, codes), form.spread(zero_point, codes)
    dtype = as_qdtype(form.dtype)
    if dtype.is_float:
        return codes.float() * factor
    if dtype.bits > 16:
        return (codes.to(torch.int64) - zero).float() * factor
    return (codes.float() - zero) * factor


ATEN = Rounding(quantize_with_aten, dequantize_with_aten)


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    """Keeps back what torch 2.13 warns of whenever it copies an exported program.

    It makes trees of a class that it has deprecated itself.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning
        )
        yield


def exported(model: fx.GraphModule, example_inputs: Inputs) -> ExportedProgram:
    """What `torch.export` records of a graph, free in the sizes that it leaves free.

    It takes keywords where the example inputs are a mapping, else inputs in order.

    Raises:
        UnsupportedError: It cannot be recorded; says why.
    """
    reasons: list[Exception] = []
    for inputs in candidates(bind(model, example_inputs)):
        try:
            return export(model, inputs, by_name=isinstance(example_inputs, Mapping))
        except QlabError:
            raise
        except Exception as error:  # torch raises whatever the traced code and itself do
            reasons.append(error)
    raise UnsupportedError(
        "torch.export cannot record this model", received=str(reasons[0]).splitlines()[0]
    ) from reasons[0]


def pt2_bytes(model: fx.GraphModule, example_inputs: Inputs) -> bytes:
    """A converted graph as the bytes of a ``.pt2`` archive, which ``torch.export.load`` reads.

    The program is the quantize-dequantize one: float operators between roundings, weights as
    codes. It has aten operators only, so qlab need not be installed where it runs.

    Args:
        model: What `convert_fx` or `Lab.convert` gave.
        example_inputs: Inputs of one call; the program takes keywords if they are a mapping.

    Raises:
        UnsupportedError: The model has no such form; says why.
    """
    program = exported(portable(model, ATEN), example_inputs)
    buffer = io.BytesIO()
    with expected_warnings():
        torch.export.save(program.run_decompositions({}), buffer)
    return buffer.getvalue()


def save_pt2(model: fx.GraphModule, example_inputs: Inputs, path: str | os.PathLike[str]) -> Path:
    """Writes a converted graph as a ``.pt2`` archive, whole or not at all; see `pt2_bytes`.

    Raises:
        ArgumentError: The path does not end in ``.pt2``, or no file can be written there.
        UnsupportedError: As `pt2_bytes`.
    """
    target = path_with_suffix(path, ".pt2", "save_pt2")
    write_atomically(target, pt2_bytes(model, example_inputs))
    return target
