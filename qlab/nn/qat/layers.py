"""Quantization-aware linear layers, convolutions and embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlab.errors import UnsupportedError
from qlab.nn.aware import QuantizationAware
from qlab.observers import ActivationPostProcess
from qlab.ops import checks

Size = int | tuple[int, ...]


class Linear(QuantizationAware, nn.Linear):
    """``y = x fake_quantize(W)ᵀ + b``.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias: Whether there is a bias.
        qconfig: Its ``weight`` makes the fake quantizer.
        device: Where the parameters lie.
        dtype: Their floating type.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
    """

    float_type = nn.Linear
    fields = ("in_features", "out_features")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        qconfig: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = f"{in_features!r}, {out_features!r}"
        with checks.torch_refusal(type(self).__name__, sizes):
            super().__init__(in_features, out_features, bias, device, dtype)
        self._take_qconfig(qconfig)

    def _apply_layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class ConvNd(QuantizationAware, nn.modules.conv._ConvNd):
    """``y = conv(x, fake_quantize(W)) + b``; the rank is that of the float class mixed in.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: One number, or one per axis.
        stride: Likewise.
        padding: Likewise, or ``"same"`` or ``"valid"``.
        dilation: Likewise.
        groups: Groups of channels that do not see each other.
        bias: Whether there is a bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        qconfig: Its ``weight`` makes the fake quantizer.
        device: Where the parameters lie.
        dtype: Their floating type.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
    """

    fields = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
        "padding_mode",
    )  # fmt: skip
    _conv_forward: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        qconfig: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        build: Any = super().__init__
        given = (
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        with checks.torch_refusal(type(self).__name__, ", ".join(map(repr, given))):
            build(*given)
        self._take_qconfig(qconfig)

    def _apply_layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


_ConvNd = ConvNd
"""The reference's name."""


class Conv1d(ConvNd, nn.Conv1d):
    __doc__ = ConvNd.__doc__
    float_type = nn.Conv1d


class Conv2d(ConvNd, nn.Conv2d):
    __doc__ = ConvNd.__doc__
    float_type = nn.Conv2d


class Conv3d(ConvNd, nn.Conv3d):
    __doc__ = ConvNd.__doc__
    float_type = nn.Conv3d


class _AwareEmbedding(QuantizationAware):
    """What both embeddings share: rows with real zero points, no bias."""

    def _take_qconfig(self, qconfig: Any) -> None:
        super()._take_qconfig(qconfig)
        fake_quant = self.weight_fake_quant
        spec = fake_quant.spec if isinstance(fake_quant, ActivationPostProcess) else None
        if spec is not None and not spec.float_zero_point:
            raise UnsupportedError(
                f"{type(self).__name__}: an embedding has a scale and a real zero point per row",
                expected="a weight of qscheme per_channel_affine_float_qparams",
                received=spec.describe(),
                fix="Use qlab.quantization.default_embedding_qat_qconfig.",
            )

    @classmethod
    def _more_arguments(cls, layer: Any) -> dict[str, Any]:
        return {}

    def _share(self, mod: nn.Module) -> None:
        weight: Any = mod.weight
        self.weight = weight

    def _plain_layer(self) -> nn.Module:
        arguments = {name: getattr(self, name) for name in self.fields}
        return self.float_type(**arguments, _weight=self.weight.detach().clone())


class Embedding(_AwareEmbedding, nn.Embedding):
    """``fake_quantize(W)[index]``.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Length of a row.
        padding_idx: A row that gets no gradient.
        max_norm: Rows longer than this are scaled down.
        norm_type: p of the norm that ``max_norm`` means.
        scale_grad_by_freq: Divide gradients by how often a row occurs.
        sparse: Not with fake quantization, which touches every row.
        device: Where the table lies.
        dtype: Its floating type.
        qconfig: Its ``weight`` makes the fake quantizer, with real zero points.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
        UnsupportedError: A weight with integer zero points.
    """

    float_type = nn.Embedding
    fields = (
        "num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type",
        "scale_grad_by_freq", "sparse",
    )  # fmt: skip

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        qconfig: Any = None,
    ) -> None:
        with checks.torch_refusal("Embedding", f"{num_embeddings!r}, {embedding_dim!r}"):
            super().__init__(
                num_embeddings, embedding_dim, padding_idx, max_norm, norm_type,
                scale_grad_by_freq, sparse, _weight, device=device, dtype=dtype,
            )  # fmt: skip
        self._take_qconfig(qconfig)

    def forward(self, input: Tensor) -> Tensor:
        """Indices, any integer shape → that shape + (embedding_dim,)."""
        return F.embedding(
            input,
            self.weight_fake_quant(self.weight),
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )


class EmbeddingBag(_AwareEmbedding, nn.EmbeddingBag):
    """Sum, mean or maximum of ``fake_quantize(W)[indices]`` over bags.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Length of a row.
        max_norm: Rows longer than this are scaled down.
        norm_type: p of the norm that ``max_norm`` means.
        scale_grad_by_freq: Divide gradients by how often a row occurs.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: Not with fake quantization, which touches every row.
        include_last_offset: Whether ``offsets`` has an end of its own.
        padding_idx: A row that gets no gradient and is left out.
        qconfig: Its ``weight`` makes the fake quantizer, with real zero points.
        device: Where the table lies.
        dtype: Its floating type.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
        UnsupportedError: A weight with integer zero points.
    """

    float_type = nn.EmbeddingBag
    fields = (
        "num_embeddings", "embedding_dim", "max_norm", "norm_type", "scale_grad_by_freq", "mode",
        "sparse", "include_last_offset", "padding_idx",
    )  # fmt: skip

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        qconfig: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        with checks.torch_refusal("EmbeddingBag", f"{num_embeddings!r}, {embedding_dim!r}"):
            super().__init__(
                num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq, mode,
                sparse, _weight, include_last_offset, padding_idx, device, dtype,
            )  # fmt: skip
        self._take_qconfig(qconfig)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (as nn.EmbeddingBag has it)
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Indices (bags, length), or (n,) with the offset of each bag → (bags, embedding_dim)."""
        return F.embedding_bag(
            input,
            self.weight_fake_quant(self.weight),
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )
