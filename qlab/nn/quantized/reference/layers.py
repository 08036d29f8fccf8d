"""Reference modules with one weight: linear, convolutions and embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qlab.nn.quantized.reference.base import ReferenceQuantizedModule


class _Layer(ReferenceQuantizedModule):
    """A layer made with the arguments of its float module, and ``weight_qparams``.

    Args:
        *args: The arguments of the float module of the same name.
        weight_qparams: How the weight is quantized, as `from_float` takes it; scale 1 and zero
            point 0 in quint8 if not given.
        **kwargs: As ``args``, with ``device`` and ``dtype``.
    """

    def __init__(
        self, *args: Any, weight_qparams: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._hold("weight", weight_qparams, kwargs.get("device"))


class Linear(ReferenceQuantizedModule, nn.Linear):
    """``y = x Wᵀ + b`` with the weight that its codes stand for, on real numbers.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias_: Whether there is a bias.
        device: Where parameters are put.
        dtype: Type of the parameters.
        weight_qparams: How the weight is quantized, as `from_float` takes it.
    """

    float_type = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias_: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight_qparams: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias_, device=device, dtype=dtype)
        self._hold("weight", weight_qparams, device)

    @classmethod
    def _arguments_of(cls, mod: Any) -> dict[str, Any]:
        given = super()._arguments_of(mod)
        return {"bias_": given.pop("bias"), **given}


class Conv1d(_Layer, nn.Conv1d):
    """``nn.Conv1d`` with the weight that its codes stand for."""

    float_type = nn.Conv1d


class Conv2d(_Layer, nn.Conv2d):
    """``nn.Conv2d`` with the weight that its codes stand for."""

    float_type = nn.Conv2d


class Conv3d(_Layer, nn.Conv3d):
    """``nn.Conv3d`` with the weight that its codes stand for."""

    float_type = nn.Conv3d


class ConvTranspose1d(_Layer, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with the weight that its codes stand for."""

    float_type = nn.ConvTranspose1d


class ConvTranspose2d(_Layer, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with the weight that its codes stand for."""

    float_type = nn.ConvTranspose2d


class ConvTranspose3d(_Layer, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with the weight that its codes stand for."""

    float_type = nn.ConvTranspose3d


class Embedding(_Layer, nn.Embedding):
    """``nn.Embedding`` with the table that its codes stand for."""

    float_type = nn.Embedding


class EmbeddingBag(_Layer, nn.EmbeddingBag):
    """``nn.EmbeddingBag`` with the table that its codes stand for."""

    float_type = nn.EmbeddingBag
