"""What each name does, on which data types and devices, read off the objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pandas as pd
import torch
from torch import nn

from qlab import registry
from qlab.coverage.names import Name, names
from qlab.dtypes import QDType, all_dtypes
from qlab.errors import QlabError
from qlab.fake_quantize import FakeQuantizeBase
from qlab.granularity import PerTensor, QScheme
from qlab.graph.reasons import why_simulated
from qlab.nn.aware import QuantizationAware
from qlab.observers import ActivationPostProcess, Partial
from qlab.ops.kernels import kernels_of
from qlab.qconfig import QConfig
from qlab.qtensor.kernels import describe_operation
from qlab.ranges import TensorSpec
from qlab.registry import Row
from qlab.registry.asked import asked_by

COLUMNS = ("name", "kind", "does", "data types", "devices", "place", "reference", "documentation")
#: Where a kernel runs, by its name.
_RUNS = {
    "onednn": "x86 CPU with VNNI (oneDNN)",
    "triton": "CUDA (Triton)",
    "int_mm": "CUDA",
    "compiled": "CPU (Numba)",
    "reference": "any",
    "simulated": "any",
}
_FLOATING = "floating point"
_ANY = "any"
_ASKED = "as the qconfigs ask"
#: Functions on codes without a row of their own → the row whose kernels they share.
_LIKE = {
    "celu": "elu",
    "threshold": "hardtanh",
    "clamp": "hardtanh",
    "upsample": "interpolate",
    "upsample_bilinear": "interpolate",
    "upsample_nearest": "interpolate",
    "quantized_batch_norm": "batch_norm2d",
}


def table() -> pd.DataFrame:
    """Every public name of the reference, one row each, in its order.

    Returns:
        Columns ``name``; ``kind`` (module, observer, function, …); ``does``, one line;
        ``data types`` (of the codes; "floating point" for what computes on real numbers, and
        "weights: …" where only these are codes; "as the qconfigs ask" for what quantizes a model,
        "any" for what does not look at them);
        ``devices`` ("any" for what is written in PyTorch operators alone, and faster kernels by
        name); ``place`` and ``reference``, where the two libraries have it; ``documentation``,
        the whole docstring. All text.
    """
    return pd.DataFrame([_row(name) for name in names()], columns=list(COLUMNS))


def _row(name: Name) -> dict[str, str]:
    found = name.resolve()
    kind, does = _kind(name, found), _summary(found)
    return {
        "name": name.name,
        "kind": kind,
        "does": does,
        "data types": _dtypes(found),
        "devices": _devices(found),
        "place": name.place,
        "reference": name.reference,
        "documentation": _documentation(found, does),
    }


def _kind(name: Name, found: Any) -> str:
    made = found() if isinstance(found, Partial) else found
    kinds: tuple[tuple[type, str], ...] = (
        (QDType, "data type"),
        (QScheme, "scheme"),
        (QConfig, "qconfig"),
        (FakeQuantizeBase, "fake quantizer"),
        (ActivationPostProcess, "observer"),
    )
    for base, word in kinds:
        if isinstance(made, base) or (inspect.isclass(made) and issubclass(made, base)):
            return word
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return "module"
    return "tensor method" if name.place == "qlab.QTensor" else "function"


def _summary(found: Any) -> str:
    """One line: of the docstring, or what a ready-made object asks for."""
    match found:
        case QDType():
            sign = "signed" if found.signed else "unsigned"
            return f"{found.bits}-bit {sign} codes, {found.quant_min:,} to {found.quant_max:,}"
        case QScheme():
            one = "tensor" if isinstance(found.granularity(0), PerTensor) else "channel"
            middle = "0 in the middle of the codes" if found.symmetric else "any zero point"
            return f"One scale per {one}, {middle}"
        case QConfig():
            return f"Activation: {_asked(found.activation)}. Weight: {_asked(found.weight)}"
        case Partial():
            return f"{type(found()).__name__}: {_asked(found)}"
    if _inherited(found):
        return describe_operation(found.__name__).rstrip(".")
    return (inspect.getdoc(found) or "").partition("\n")[0].replace("`", "").rstrip(".")


def _inherited(found: Any) -> bool:
    """Whether it is a method of ``torch.Tensor`` that quantized tensors answer in their own way."""
    return found is getattr(torch.Tensor, getattr(found, "__name__", ""), None)


def _documentation(found: Any, does: str) -> str:
    if _inherited(found) or not (inspect.isclass(found) or callable(found)):
        return does
    if isinstance(found, Partial):
        return f"{does}\n\n{inspect.getdoc(type(found()))}"
    return inspect.getdoc(found) or does


def _asked(factory: Any) -> str:
    """What a factory of observers asks for a tensor, in words."""
    asked = asked_by(factory)
    if asked.spec is None:
        dtype = getattr(factory(), "dtype", torch.float32)
        return "float" if dtype in (torch.float32, torch.float) else str(dtype)[6:]
    return f"{asked.spec.describe()}{', anew in every call' if asked.dynamic else ''}"


def _dtypes(found: Any) -> str:
    match found:
        case QDType():
            return _short(found)
        case QConfig():
            return " × ".join(dict.fromkeys(_asked(f).split()[0] for f in found))
        case Partial():
            return _asked(found).split()[0]
    if inspect.isclass(found) and issubclass(found, ActivationPostProcess):
        return _listed(dtype for dtype in all_dtypes() if _accepts(found, dtype)) or _ANY
    row = _row_of(found)
    if row is not None:
        whole = [d for d in all_dtypes() if d.bits < 32 and not _simulated(row, d)]
        rest = [d for d in all_dtypes() if d.bits < 32 and _simulated(row, d)]
        return _listed(whole) + (f"; simulated: {_listed(rest)}" if rest else "")
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return _weights(found) or _FLOATING
    home = getattr(found, "__module__", None) or ""
    if _inherited(found) or home.startswith("qlab.qtensor"):
        return _listed(all_dtypes())
    return _ASKED if home.startswith(("qlab.eager", "qlab.graph")) else _ANY


@cache
def _weights(module: Callable[..., Any]) -> str:
    """What the weights of a module may be that takes real numbers; empty without a choice."""
    if "dtype" not in inspect.signature(module).parameters:
        return ""
    taken = [dtype for dtype in (*all_dtypes(), torch.float16) if _has_weights(module, dtype)]
    listed = _listed(dtype for dtype in taken if isinstance(dtype, QDType))
    half = ", float16" if torch.float16 in taken else ""
    return f"weights: {listed}{half}" if listed else ""  # else it is the type of real numbers


def _has_weights(module: Callable[..., Any], dtype: QDType | torch.dtype) -> bool:
    try:
        module(2, 2, dtype=dtype)
    except (QlabError, TypeError):
        return False
    return True


@cache
def _accepts(observer: Callable[..., Any], dtype: QDType) -> bool:
    codes = {"quant_min": dtype.quant_min, "quant_max": dtype.quant_max}
    for options in ({}, codes):  # some have the codes of one type as defaults
        try:
            return observer(dtype=dtype, **options).dtype == dtype
        except (QlabError, TypeError):
            continue
    return False


def _row_of(found: Any) -> Row | None:
    """The registry's row of a quantized module, or of a function on codes of the same operator."""
    name = getattr(found, "__name__", "")
    on_codes = inspect.isfunction(found) and found.__module__.startswith("qlab.nn.quantized")
    if inspect.isfunction(found) and name in _LIKE:
        name, on_codes = _LIKE[name], True
    for row in registry.ROWS:
        if row.static is found or (inspect.isclass(found) and found in (row.custom or ())[1:]):
            return row
        if on_codes and row.static is not None and row.name == name:
            return row
    return None


def _simulated(row: Row, dtype: QDType) -> str:
    """Why a row's arithmetic is not done in integers on codes of a type; empty if it is."""
    spec = TensorSpec(dtype, symmetric=dtype.is_float)
    weight = TensorSpec.int8_weight(axis=row.weight_axis) if row.weight else None
    return why_simulated(row, [spec], weight, spec)


def _listed(dtypes: Iterable[QDType]) -> str:
    """Data types in few words: ``"uint2–8, int2–8, int16"``."""
    given, words = list(dtypes), []
    for sign in (False, True):
        bits = [d.bits for d in given if d.signed == sign and not d.is_float and d.bits <= 8]
        prefix = "int" if sign else "uint"
        if bits:
            span = f"{bits[0]}–{bits[-1]}" if len(bits) > 1 else str(bits[0])
            words.append(f"{prefix}{span}")
    words += [_short(d) for d in given if d.bits > 8 or d.is_float]
    return ", ".join(words)


def _short(dtype: QDType) -> str:
    return dtype.name.removeprefix("q")


def _devices(found: Any) -> str:
    """Where it runs: everywhere that PyTorch does, and faster where an operator has a kernel."""
    home = getattr(found, "__module__", None) or ""
    operator = getattr(found, "op", None) if inspect.isclass(found) else found
    if home.startswith(("qlab.eager", "qlab.graph")):  # `quantize` of models is no operator
        operator = None
    kernels = kernels_of(getattr(operator, "__name__", ""))
    faster = [_RUNS[name] for name in kernels if _RUNS[name] != "any"]
    if inspect.isclass(found) and issubclass(found, QuantizationAware):
        faster = []
    return ", ".join([_ANY, *dict.fromkeys(faster)])
