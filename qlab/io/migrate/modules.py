"""Quantized modules of the reference as qlab's of the same name, with the same integers."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from qlab.errors import QlabError, UnsupportedError
from qlab.io.migrate.tensors import dtype_of, is_quantized, quantized
from qlab.nn import quantizable
from qlab.nn.quantized import Output, QuantizedModule
from qlab.nn.quantized import dynamic as nnqd
from qlab.nn.quantized.dynamic.recurrent import RecurrentModule
from qlab.nn.quantized.holder import OUTPUT, float_copy, qparams_of_numbers
from qlab.nn.quantized.weight import WeightModule
from qlab.nn.quantized.weighted import WeightedModule

_THEIRS, _OURS = ("torch.ao.nn.", "torch.ao.quantization."), "qlab.nn."
_STUBS = ("QuantStub", "DeQuantStub", "QuantWrapper")


def is_theirs(mod: nn.Module) -> bool:
    """Whether a module's class comes from the reference."""
    return type(mod).__module__.startswith(_THEIRS)


def counterpart(mod: nn.Module) -> type[nn.Module] | None:
    """qlab's class of the same name, or None.

    The reference's ``…nn.intrinsic.quantized.modules.conv_relu.ConvReLU2d`` is
    ``qlab.nn.intrinsic.quantized.ConvReLU2d`` here.
    """
    home, name = type(mod).__module__, type(mod).__name__
    if name in _STUBS:
        return getattr(importlib.import_module("qlab.nn.stubs"), name)
    if not home.startswith(_THEIRS[0]):
        return None
    place = _OURS + home.removeprefix(_THEIRS[0]).partition(".modules")[0]
    try:
        found = getattr(importlib.import_module(place), name, None)
    except ModuleNotFoundError:
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def converted(mod: Any, target: type[nn.Module]) -> nn.Module | None:
    """The qlab module of a quantized module; None for a class that only holds others.

    Raises:
        QlabError: A tensor or an argument has no form in qlab.
    """
    if issubclass(target, QuantizedModule):
        return _quantized_module(mod, target)
    if issubclass(target, RecurrentModule):
        return _recurrent(mod, target)
    return None


def _quantized_module(mod: Any, target: type[QuantizedModule]) -> QuantizedModule:
    weight = _member(mod, "weight") if target.has_weight else None
    bias = _member(mod, "bias") if issubclass(target, WeightedModule) else None
    usual = inspect.signature(target).parameters
    fields = {
        name: _plain(getattr(mod, name, usual[name].default if name in usual else None))
        for name in target.fields
    }
    arguments = target._arguments_of(SimpleNamespace(**fields, bias=bias))  # pyright: ignore
    if issubclass(target, nnqd.Linear) and not is_quantized(weight):
        arguments["dtype"] = torch.float16
    made: Any = target(**arguments)
    for name in target.tensors:
        made.register_buffer(name, float_copy(getattr(mod, name)))
    given = quantized(weight) if is_quantized(weight) else weight
    if issubclass(target, WeightedModule):
        made.set_weight_bias(given, bias)
    elif issubclass(target, WeightModule):
        made.set_weight(given)
    if target.output_of in (Output.OWN, Output.OWN_OR_FLOAT):
        made.set_qparams(OUTPUT, _output(mod))
    return made.train(mod.training)


def _output(mod: Any) -> Any:
    """Scale and zero point of the output; the classes call them one way or the other."""
    scale = getattr(mod, "scale", getattr(mod, "output_scale", None))
    zero_point = getattr(mod, "zero_point", getattr(mod, "output_zero_point", None))
    if scale is None or zero_point is None:
        raise UnsupportedError("It has no scale and zero point for its output")
    dtype = getattr(mod, "dtype", None)
    arguments = (dtype_of(dtype),) if dtype is not None and "q" in str(dtype) else ()
    return qparams_of_numbers(float(scale), int(zero_point), *arguments)


def _recurrent(mod: Any, target: type[RecurrentModule]) -> RecurrentModule:
    weights = {
        name: quantized(value) if is_quantized(value) else value
        for name, value in mod.get_weight().items()
    }
    whole = next(iter(weights.values()))
    dtype = getattr(getattr(whole, "qparams", None), "dtype", torch.float16)
    arguments = {name: _plain(getattr(mod, name)) for name in target.fields}
    build: Any = target
    made = build(**arguments, dtype=dtype)
    made.set_weight_bias({**weights, **mod.get_bias()})
    return made.train(mod.training)


def skeleton(mod: Any, target: type[nn.Module]) -> nn.Module:
    """A recurrent or attention module of codes without its parts, which are put in afterwards."""
    made: Any
    if issubclass(target, quantizable.LSTM):
        made = quantizable.LSTM(
            mod.input_size, mod.hidden_size, mod.num_layers, mod.bias, mod.batch_first,
            float(mod.dropout), mod.bidirectional,
        )  # fmt: skip
    elif issubclass(target, quantizable.MultiheadAttention):
        made = quantizable.MultiheadAttention(
            mod.embed_dim, mod.num_heads, mod.dropout, mod.out_proj.bias() is not None,
            mod.bias_k is not None, mod.add_zero_attn, mod.kdim, mod.vdim, mod.batch_first,
        )  # fmt: skip
        for name in ("bias_k", "bias_v"):
            bias = getattr(mod, name)
            if bias is not None:
                delattr(made, name)
                value = quantized(bias) if is_quantized(bias) else bias.detach().clone()
                made.register_buffer(name, value)
    else:
        raise UnsupportedError(f"qlab has no way to take over a {type(mod).__name__}")
    made.__class__ = target
    return made.train(mod.training)


def refusal(path: str, mod: nn.Module, error: QlabError | str) -> UnsupportedError:
    """The error for a module that cannot be taken over; names it."""
    kind = f"{type(mod).__module__}.{type(mod).__name__}"
    return UnsupportedError(f"migrate: {path or 'the model'!r} ({kind}): {error}")


def _member(mod: Any, name: str) -> Any:
    """A weight or bias; a method of most classes, an attribute of some."""
    value = getattr(mod, name)
    return value() if callable(value) and not isinstance(value, torch.Tensor) else value


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
