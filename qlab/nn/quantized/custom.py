"""The quantized forms of modules that prepare took apart."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from qlab.errors import UnsupportedError
from qlab.nn import quantizable
from qlab.nn.quantizable.insides import INSIDES, check_source
from qlab.ops.dynamic import dynamic_qparams
from qlab.qparams import quantize
from qlab.qtensor import QTensor


class _Converted(nn.Module):
    """Made from an observed module only."""

    @classmethod
    def from_float(cls, *args: Any, **kwargs: Any) -> Self:
        """Raises `UnsupportedError`: float modules become quantizable ones first."""
        raise UnsupportedError(
            f"A quantized {cls.__name__} is made from an observed one",
            fix="Call prepare on the model, run calibration data through it, then convert.",
        )

    @classmethod
    def from_observed(cls, other: nn.Module) -> Self:
        """The quantized form of a calibrated module of `qlab.nn.quantizable`.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: An observer has seen no data.
        """
        check_source(cls, other, cls.__mro__[2])
        made = INSIDES.convert(other)
        made.__class__ = cls  # the same parts, in the class that says what they are
        return made  # pyright: ignore[reportReturnType]

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"


class LSTM(_Converted, quantizable.LSTM):
    """Long short-term memory on codes, in and out; made by ``convert``."""


class MultiheadAttention(_Converted, quantizable.MultiheadAttention):
    """Attention with linear layers on codes and float scores; made by ``convert``."""

    @classmethod
    def from_observed(cls, other: nn.Module) -> Self:
        made = super().from_observed(other)
        for name in ("bias_k", "bias_v"):
            bias = getattr(made, name)
            if bias is not None:
                delattr(made, name)
                qparams = dynamic_qparams(bias, reduce_range=False)
                made.register_buffer(name, QTensor(quantize(bias, qparams), qparams))
        return made

    def dequantize(self) -> nn.MultiheadAttention:
        """The float module of the numbers that the codes stand for."""
        parts: Any = [self.get_submodule(f"linear_{name}") for name in "QKV"]
        out: Any = self.out_proj
        bias = out.bias() is not None
        made = nn.MultiheadAttention(
            self.embed_dim, self.num_heads, self.dropout, bias, self.bias_k is not None,
            self.add_zero_attn, self.kdim, self.vdim, self.batch_first,
        )  # fmt: skip
        weights = [part.weight().dequantize() for part in parts]
        state = {"out_proj.weight": out.weight().dequantize()}
        if made._qkv_same_embed_dim:
            state["in_proj_weight"] = torch.cat(weights)
        else:
            state |= {f"{n}_proj_weight": w for n, w in zip("qkv", weights, strict=True)}
        if bias:
            state["out_proj.bias"] = out.bias()
            state["in_proj_bias"] = torch.cat([part.bias() for part in parts])
        for name in ("bias_k", "bias_v"):
            if getattr(self, name) is not None:
                state[name] = getattr(self, name).dequantize()
        made.load_state_dict(state)
        return made.eval()
