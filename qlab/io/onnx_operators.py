"""QuantizeLinear and DequantizeLinear as torch operators, and how they are written in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import UnsupportedError
from qlab.io.rounding import Form, Rounding
from qlab.io.standalone import dequantize_with_aten, quantize_with_aten

#: The ONNX operator set that is written: the first with 4-bit, 16-bit and per-block scales is 21.
OPSET = 25

_LIBRARY = "qlab_onnx"
_FORM = "str dtype, int low, int high, int axis, int group"
_NUMBERS = "Tensor scale, Tensor zero_point"

torch.library.define(f"{_LIBRARY}::quantize", f"(Tensor x, {_NUMBERS}, {_FORM}, str tag) -> Tensor")
torch.library.define(
    f"{_LIBRARY}::dequantize", f"(Tensor codes, {_NUMBERS}, {_FORM}, bool constant) -> Tensor"
)


@torch.library.impl(f"{_LIBRARY}::quantize", "CompositeExplicitAutograd")
def _quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *rest: Any) -> Tensor:
    *form, tag = rest
    return quantize_with_aten(x, scale, zero_point, Form(*form), tag, "")


@torch.library.impl(f"{_LIBRARY}::dequantize", "CompositeExplicitAutograd")
def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, *rest: Any) -> Tensor:
    *form, _ = rest
    return dequantize_with_aten(codes, scale, zero_point, Form(*form))


@torch.library.register_fake(f"{_LIBRARY}::quantize")
def _(x: Tensor, scale: Tensor, zero_point: Tensor, dtype: str, *rest: Any) -> Tensor:
    return torch.empty_like(x, dtype=as_qdtype(dtype).storage)


@torch.library.register_fake(f"{_LIBRARY}::dequantize")
def _(codes: Tensor, scale: Tensor, zero_point: Tensor, *form: Any) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


def _quantize_with_operator(
    x: Tensor, scale: Tensor, zero_point: Tensor, form: Form, tag: str, order: str
) -> Tensor:
    _onnx_type(as_qdtype(form.dtype))
    return torch.ops.qlab_onnx.quantize(x, scale, zero_point, *form, tag)


def _dequantize_with_operator(
    codes: Tensor, scale: Tensor, zero_point: Tensor, form: Form, constant: bool
) -> Tensor:
    if zero_point.is_floating_point():  # DequantizeLinear takes codes
        return dequantize_with_aten(codes, scale, zero_point, form)
    _onnx_type(as_qdtype(form.dtype))
    return torch.ops.qlab_onnx.dequantize(codes, scale, zero_point, *form, constant)


#: The way to write a program whose quantizing operators are those of ONNX.
ONNX = Rounding(_quantize_with_operator, _dequantize_with_operator)


def _onnx_type(dtype: QDType) -> str:
    """The name of the ONNX type that QuantizeLinear gives for a quantized type's codes."""
    if dtype.is_float:
        return {"float8_e4m3fn": "FLOAT8E4M3FN", "float8_e5m2": "FLOAT8E5M2"}[dtype.name]
    for bits in (8, 16):
        if dtype.bits <= bits:
            return f"{'' if dtype.signed else 'U'}INT{bits}"
    raise UnsupportedError(f"QuantizeLinear of ONNX does not give {dtype.name}")


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How `torch.onnx.export` writes the operators: its ``custom_translation_table``."""
    import onnx_ir
    import onnxscript

    op: Any = onnxscript.opset23  # its types know no value of which only the run knows the type
    types = onnx_ir.DataType

    def code_type(dtype: str, constant: bool) -> Any:
        quantized = as_qdtype(dtype)
        if constant and not quantized.is_float and quantized.bits <= 4:
            return types.INT4 if quantized.signed else types.UINT4
        return types[_onnx_type(quantized)]

    def quantize(
        x: Any, scale: Any, zero_point: Any, dtype: str, low: int, high: int,
        axis: int, group: int, tag: str,
    ) -> Any:  # fmt: skip
        given, quantized = code_type(dtype, constant=False), as_qdtype(dtype)
        if quantized.is_float:  # onnxruntime takes a ReLU before it for superfluous
            x = op.Min(x, op.Mul(scale, op.Constant(value_float=float(high))))
        codes = op.QuantizeLinear(x, scale, op.Cast(zero_point, to=given), axis=axis)
        if given == types.UINT16:  # stored in more bits, as torch cannot work on it
            codes = op.Cast(codes, to=types.INT32)
        if quantized.is_float or (low, high) == _whole_range(given):
            return codes
        kept = types.INT32 if given == types.UINT16 else given
        bounds = (op.Cast(op.Constant(value_int=code), to=kept) for code in (low, high))
        return op.Clip(codes, *bounds)

    def dequantize(
        codes: Any, scale: Any, zero_point: Any, dtype: str, low: int, high: int,
        axis: int, group: int, constant: bool,
    ) -> Any:  # fmt: skip
        read = code_type(dtype, constant)
        attributes = {"axis": axis, **({"block_size": group} if group else {})}
        read_codes = codes if codes.dtype == read else op.Cast(codes, to=read)
        return op.DequantizeLinear(read_codes, scale, op.Cast(zero_point, to=read), **attributes)

    operators: Any = torch.ops.qlab_onnx
    return {operators.quantize.default: quantize, operators.dequantize.default: dequantize}


def _whole_range(code_type: Any) -> tuple[int, int]:
    bits = code_type.bitwidth
    if code_type.name.startswith("U"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
