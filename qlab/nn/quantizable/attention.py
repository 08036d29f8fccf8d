"""Attention whose linear layers can be observed and quantized."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlab.errors import ShapeError, UnsupportedError
from qlab.nn.quantizable.insides import INSIDES, check_source, qconfig_of
from qlab.nn.stubs import DeQuantStub, QuantStub
from qlab.ops import checks
from qlab.qparams import quantize
from qlab.qtensor import QTensor

_PARTS = ("linear_Q", "linear_K", "linear_V")


class MultiheadAttention(nn.MultiheadAttention):
    """``softmax(QKᵀ/√d + mask) V`` per head; arguments as ``torch.nn.MultiheadAttention``.

    The four linear layers run on codes after convert, the attention between them in float.
    ``prepare`` puts it in the place of ``torch.nn.MultiheadAttention``; ``convert`` makes it a
    `qlab.nn.quantized.MultiheadAttention`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = ", ".join(map(repr, [*args, *kwargs.values()]))
        with checks.torch_refusal("MultiheadAttention", given):
            super().__init__(*args, **kwargs)
        bias = self.in_proj_bias is not None
        options = {"device": self.out_proj.weight.device, "dtype": self.out_proj.weight.dtype}
        sizes = (self.embed_dim, self.kdim, self.vdim)
        for name, size in zip(_PARTS, sizes, strict=True):
            self.add_module(
                name, nn.Linear(size or self.embed_dim, self.embed_dim, bias, **options)
            )
        self.out_proj = nn.Linear(self.embed_dim, self.embed_dim, bias, **options)  # pyright: ignore
        for name in ("in_proj_weight", "in_proj_bias", *(f"{n}_proj_weight" for n in "qkv")):
            self.register_parameter(name, None)
        self.quant_attn_output, self.quant_attn_output_weights = QuantStub(), QuantStub()
        self.dequant_q, self.dequant_k, self.dequant_v = (DeQuantStub() for _ in "qkv")

    @classmethod
    def from_float(cls, other: nn.Module) -> Self:
        """The observed form of ``nn.MultiheadAttention``, in evaluation mode.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: It has no ``qconfig``.
        """
        check_source(cls, other, nn.MultiheadAttention)
        source: Any = other
        made = cls(
            source.embed_dim,
            source.num_heads,
            source.dropout,
            source.in_proj_bias is not None,
            source.bias_k is not None,
            source.add_zero_attn,
            source.kdim,
            source.vdim,
            source.batch_first,
        )
        if source._qkv_same_embed_dim:
            weights = source.in_proj_weight.chunk(3)
        else:
            weights = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
        bias = source.in_proj_bias
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        targets: list[Any] = [made.get_submodule(name) for name in _PARTS]
        targets.append(made.out_proj)
        given = zip(targets, [*weights, source.out_proj.weight], strict=True)
        for (linear, weight), b in zip(given, [*biases, source.out_proj.bias], strict=True):
            linear.weight = nn.Parameter(weight.detach().clone())
            linear.bias = None if b is None else nn.Parameter(b.detach().clone())
        made.bias_k, made.bias_v = source.bias_k, source.bias_v
        vars(made)["qconfig"] = qconfig_of(other)
        INSIDES.prepare(made.train(other.training))
        return made

    @classmethod
    def from_observed(cls, other: nn.Module) -> Self:
        """Raises `UnsupportedError`: see `qlab.nn.quantized.MultiheadAttention`."""
        raise UnsupportedError(
            "A quantizable MultiheadAttention is made from a float one",
            fix="Call qlab.nn.quantized.MultiheadAttention.from_observed, or convert on the model.",
        )

    @torch.no_grad()
    def dequantize(self) -> nn.MultiheadAttention:
        """The float module of the same weights, rounded as they are here after convert.

        Returns:
            ``nn.MultiheadAttention`` in the mode of this module, on its device.
        """
        parts: list[Any] = [*(self.get_submodule(name) for name in _PARTS), self.out_proj]
        pairs = [(_real(part.weight), _real(part.bias)) for part in parts]
        made: Any = nn.MultiheadAttention(
            *(self.embed_dim, self.num_heads, self.dropout, pairs[0][1] is not None),
            *(self.bias_k is not None, self.add_zero_attn, self.kdim, self.vdim, self.batch_first),
            device=pairs[0][0].device,
        )
        weights = [weight for weight, _ in pairs[:3]]
        if made._qkv_same_embed_dim:
            made.in_proj_weight.copy_(torch.cat(weights))
        else:
            for name, weight in zip("qkv", weights, strict=True):
                made.get_parameter(f"{name}_proj_weight").copy_(weight)
        made.out_proj.weight.copy_(pairs[3][0])
        if made.in_proj_bias is not None:
            made.in_proj_bias.copy_(torch.cat([bias for _, bias in pairs[:3]]))
            made.out_proj.bias.copy_(pairs[3][1])
        for name in ("bias_k", "bias_v"):
            if (held := getattr(self, name)) is not None:
                made.get_parameter(name).copy_(_real(held))
        return made.train(self.training)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``torch.nn.MultiheadAttention``, for batches; quantized in and out after convert.

        Args:
            query: (L, N, embed_dim), or (N, L, embed_dim) if ``batch_first``.
            key: (S, N, kdim), likewise.
            value: (S, N, vdim), likewise.
            key_padding_mask: (N, S): True for what is to be left out, or floats to be added.
            need_weights: Whether the weights are wanted.
            attn_mask: (L, S) or (N · heads, L, S): True for what is to be left out, or floats.
            average_attn_weights: Whether the weights are averaged over heads.
            is_causal: A hint that ``attn_mask`` is causal; without a mask it is not supported.

        Returns:
            The output, in the form of ``query``, and the weights: (N, L, S), or
            (N, heads, L, S) without averaging; None if not wanted.

        Raises:
            ShapeError: Inputs or masks do not fit each other.
            UnsupportedError: ``is_causal`` without a mask.
        """
        if is_causal and attn_mask is None:
            raise UnsupportedError(
                f"{self._get_name()}: is_causal needs the mask", fix="Pass attn_mask."
            )
        if self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        self._check(query, key, value)
        length, batch = query.shape[:2]
        q, k, v = self._projected(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, (length, batch, k.shape[1]))
        q, k, v = self.dequant_q(q), self.dequant_k(k), self.dequant_v(v)
        scores = torch.bmm(q / math.sqrt(q.shape[-1]), k.transpose(1, 2))
        scores = scores if mask is None else scores + mask
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        mixed = torch.bmm(weights, v).transpose(0, 1).reshape(length, batch, self.embed_dim)
        output = self.out_proj(self.quant_attn_output(mixed))
        weights = self.quant_attn_output_weights(weights)
        output = output.transpose(0, 1) if self.batch_first else output
        if not need_weights:
            return output, None
        weights = weights.reshape(batch, self.num_heads, length, -1)
        return output, weights.mean(dim=1) if average_attn_weights else weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        sizes = (self.embed_dim, self.kdim or self.embed_dim, self.vdim or self.embed_dim)
        parts = (query, key, value)
        for what, part in zip(("query", "key", "value"), parts, strict=True):
            checks.tensor(self._get_name(), what, part)
        fits = all(p.dim() == 3 and p.shape[-1] == s for p, s in zip(parts, sizes, strict=True))
        if not fits or key.shape[:2] != value.shape[:2] or key.shape[1] != query.shape[1]:
            raise ShapeError(
                f"{self._get_name()}: query, key and value do not fit",
                expected=f"three axes each, features {sizes}, key and value of one length, all of "
                "one batch size",
                received=", ".join(str(tuple(part.shape)) for part in parts),
            )

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """q, k and v by head: (N · heads, length, features of a head)."""
        linear: Any = [self.get_submodule(name) for name in _PARTS]
        size = self.embed_dim // self.num_heads
        batch = query.shape[1]
        q, k, v = linear[0](query), linear[1](key), linear[2](value)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.repeat(1, batch, 1)])
            v = torch.cat([v, self.bias_v.repeat(1, batch, 1)])
        parts = [
            part.contiguous().view(-1, batch * self.num_heads, size).transpose(0, 1)
            for part in (q, k, v)
        ]
        if self.add_zero_attn:
            parts[1:] = [torch.cat([part, _zeros_like(part[:, :1])], 1) for part in parts[1:]]
        return tuple(parts)

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, shape: tuple[int, int, int]
    ) -> Tensor | None:
        """What is added to the scores, (1 or N · heads, L, S)."""
        length, batch, source = shape
        extra = (self.bias_k is not None) + int(self.add_zero_attn)
        heads = batch * self.num_heads
        allowed = ((length, source - extra), (heads, length, source - extra))
        for what, given, shapes in (
            ("attn_mask", attn_mask, allowed),
            ("key_padding_mask", padding, ((batch, source - extra),)),
        ):
            if given is not None and tuple(given.shape) not in shapes:
                raise ShapeError(
                    f"{self._get_name()}: the {what} has the wrong shape",
                    expected=" or ".join(map(str, shapes)),
                    received=f"shape {tuple(given.shape)}",
                )
        total = None
        if attn_mask is not None:
            total = F.pad(_added(attn_mask), (0, extra))
        if padding is not None:
            rows = F.pad(_added(padding), (0, extra))[:, None, None, :]
            rows = rows.expand(-1, self.num_heads, -1, -1).reshape(heads, 1, source)
            total = rows if total is None else total + rows
        return total

    def _get_name(self) -> str:
        return f"Quantizable{type(self).__name__}"


def _real(held: Any) -> Any:
    """A parameter of a float linear layer, or what that of a quantized one stands for."""
    given = held() if callable(held) else held
    return given.dequantize() if isinstance(given, QTensor) else given


def _added(mask: Tensor) -> Tensor:
    """A mask as numbers to add: -inf for what is left out."""
    if mask.is_floating_point():
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask.bool(), -math.inf)


def _zeros_like(x: Tensor) -> Tensor:
    if not isinstance(x, QTensor):
        return torch.zeros_like(x)
    zeros = torch.zeros(x.shape, device=x.device)
    return QTensor(quantize(zeros, x.qparams), x.qparams)
