"""Quantization-aware layers that are converted to dynamically quantized ones."""

from __future__ import annotations

from typing import Any

from qlab.aliases import submodules
from qlab.errors import UnsupportedError
from qlab.nn.qat import layers

__getattr__ = submodules(__name__)

__all__ = ["Linear"]


class Linear(layers.Linear):
    """`qlab.nn.qat.Linear` for a dynamic qconfig: the input is quantized in every call.

    Convert makes `qlab.nn.quantized.dynamic.Linear` of it.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias: Whether there is a bias.
        qconfig: With an activation that is quantized dynamically.
        device: Where the parameters lie.
        dtype: Their floating type.

    Raises:
        ArgumentError: No qconfig, or one without a weight.
        UnsupportedError: A qconfig whose activation has a scale of its own.
    """

    def _take_qconfig(self, qconfig: Any) -> None:
        super()._take_qconfig(qconfig)
        activation = qconfig.activation()
        if not getattr(activation, "is_dynamic", False):
            raise UnsupportedError(
                "nn.qat.dynamic.Linear is for dynamic qconfigs",
                expected="an activation with is_dynamic=True",
                received=repr(activation),
                fix="Use qlab.nn.qat.Linear for a static qconfig.",
            )
