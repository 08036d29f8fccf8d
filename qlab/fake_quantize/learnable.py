"""A fake quantizer whose scale and zero point are parameters that training moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from qlab.errors import ArgumentError
from qlab.fake_quantize.modules import FakeQuantizeBase
from qlab.granularity import PerAxis
from qlab.qparams import QParams, fake_quantize_learned
from qlab.ranges import TensorSpec

_EPS = torch.finfo(torch.float32).eps


class LearnableFakeQuantize(FakeQuantizeBase):
    """Fake quantization that learns its scale and zero point, after an observer's estimate.

    See `qlab.qparams.fake_quantize_learned` for values and gradients.

    Args:
        observer: Class or factory of the observer that makes the first estimate.
        quant_min: Smallest code.
        quant_max: Largest code.
        scale: Scale before any data, real units per code.
        zero_point: Zero point before any data.
        channel_len: How many channels have a scale of their own; -1 for one scale.
        use_grad_scaling: Multiply the gradients of scale and zero point by
            ``1 / sqrt(elements · quant_max)``.
        observer_kwargs: Arguments of the observer.

    Attributes:
        static_enabled: uint8 ``(1,)``: 1 while scale and zero point follow the observer.
        learning_enabled: uint8 ``(1,)``: 1 while they are learned.

    Raises:
        ArgumentError: Codes out of order, or a number of channels that is none.

    Source: the reference's ``_LearnableFakeQuantize``.
    """

    static_enabled: Tensor
    learning_enabled: Tensor

    def __init__(
        self,
        observer: Callable[..., Any],
        quant_min: int = 0,
        quant_max: int = 255,
        scale: float = 1.0,
        zero_point: float = 0.0,
        channel_len: int = -1,
        use_grad_scaling: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        if channel_len != -1 and channel_len < 1:
            raise ArgumentError(
                "LearnableFakeQuantize: channel_len is a number of channels, or -1 for one scale",
                received=channel_len,
            )
        made = observer(**observer_kwargs, quant_min=quant_min, quant_max=quant_max)
        self.activation_post_process = made
        self._spec: TensorSpec = made.spec
        self.quant_min, self.quant_max = quant_min, quant_max
        self.dtype, self.qscheme = made.dtype, made.qscheme
        self.ch_axis = getattr(made, "ch_axis", -1)
        self.use_grad_scaling = use_grad_scaling
        count = max(channel_len, 1)
        self.scale = nn.Parameter(torch.full((count,), float(scale)), requires_grad=False)
        self.zero_point = nn.Parameter(torch.full((count,), float(zero_point)), requires_grad=False)
        self.register_buffer("static_enabled", torch.ones(1, dtype=torch.uint8))
        self.register_buffer("learning_enabled", torch.zeros(1, dtype=torch.uint8))

    @property
    def spec(self) -> TensorSpec:
        """How the tensor is to be quantized."""
        return self._spec

    def qparams(self) -> QParams:
        """Scale and zero point as they stand, the latter rounded and clamped to the codes."""
        per_channel = isinstance(self._spec.granularity, PerAxis)
        shape = self.scale.shape if per_channel else ()
        scale = self.scale.detach().clamp(min=_EPS).reshape(shape)
        codes = self.zero_point.detach().round().clamp(self.quant_min, self.quant_max)
        codes = codes.to(torch.int32).reshape(shape)
        limits = (self.quant_min, self.quant_max)
        return QParams(scale, codes, self._spec.dtype, self._spec.granularity, *limits)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as they stand, as 1-d tensors."""
        qparams = self.qparams()
        return torch.atleast_1d(qparams.scale), torch.atleast_1d(qparams.zero_point)

    def enable_param_learning(self) -> Self:
        """Learns scale and zero point from here on, without the observer; rounds."""
        return self._switch(learning=True, rounding=True, following=False)

    def enable_static_estimate(self) -> Self:
        """Follows the observer, learns nothing; rounds."""
        return self._switch(learning=False, rounding=True, following=True)

    def enable_static_observation(self) -> Self:
        """Follows the observer, learns nothing, does not round."""
        return self._switch(learning=False, rounding=False, following=True)

    def _switch(self, *, learning: bool, rounding: bool, following: bool) -> Self:
        self.toggle_qparam_learning(learning).toggle_fake_quant(rounding)
        return self.toggle_observer_update(following)

    def toggle_observer_update(self, enabled: bool = True) -> Self:
        """Switches the following of the observer; returns the module."""
        self.static_enabled.fill_(int(enabled))
        return self

    def toggle_qparam_learning(self, enabled: bool = True) -> Self:
        """Switches the gradients of scale and zero point; returns the module."""
        self.learning_enabled.fill_(int(enabled))
        self.scale.requires_grad_(enabled)
        self.zero_point.requires_grad_(enabled)
        return self

    def toggle_fake_quant(self, enabled: bool = True) -> Self:
        """Switches the rounding; returns the module."""
        self.enable_fake_quant(enabled)
        return self

    def enable_observer(self, enabled: bool = True) -> None:
        """Switches the following of the observer."""
        self.toggle_observer_update(enabled)

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803
        """Observes and rounds, as far as switched on; any floating dtype and shape."""
        with torch.no_grad():
            if self.static_enabled[0] == 1:
                self.activation_post_process(X.detach())
                scale, zero_point = self.activation_post_process.calculate_qparams()
                self.scale.copy_(scale)
                self.zero_point.copy_(zero_point)
            else:
                self.scale.clamp_(min=_EPS)
            if self._spec.symmetric:
                self.zero_point.zero_()
        if self.fake_quant_enabled[0] != 1:
            return X
        factor = 1.0 / (X.numel() * self.quant_max) ** 0.5 if self.use_grad_scaling else 1.0
        expand = self._spec.granularity.expand
        scale, zero_point = expand(self.scale, X.shape), expand(self.zero_point, X.shape)
        return fake_quantize_learned(X, scale, zero_point, (self.quant_min, self.quant_max), factor)


_LearnableFakeQuantize = LearnableFakeQuantize
"""The reference's name for it."""
