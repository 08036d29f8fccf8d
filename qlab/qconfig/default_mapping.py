"""The reference's default mappings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qlab.fake_quantize import FixedQParamsFakeQuantize, default_weight_fake_quant
from qlab.object_types import ObjectType
from qlab.observers import (
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
    default_placeholder_observer,
    default_weight_observer,
)
from qlab.qconfig.defaults import (
    default_quint8_weight_qconfig,
    default_symmetric_qnnpack_qat_qconfig,
    default_symmetric_qnnpack_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
)
from qlab.qconfig.mapping import QConfigMapping
from qlab.qconfig.qconfig import QConfig

_FIXED_RANGES: dict[ObjectType, Any] = {
    **dict.fromkeys(
        (
            *(nn.Hardsigmoid, F.hardsigmoid, "hardsigmoid", "hardsigmoid_"),
            *(nn.Sigmoid, torch.sigmoid, "sigmoid", "sigmoid_", nn.Softmax),
        ),
        default_fixed_qparams_range_0to1_observer,
    ),
    **dict.fromkeys(
        (nn.Tanh, torch.tanh, "tanh", "tanh_"), default_fixed_qparams_range_neg1to1_observer
    ),
}
"""Operators whose output range is known, and the observer that knows it."""

_TRANSPOSED = (
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)


def _default_mapping(qconfig: QConfig, backend: str, *, qat: bool) -> QConfigMapping:
    weight = default_weight_fake_quant if qat else default_weight_observer
    mapping = QConfigMapping().set_global(qconfig)
    if backend in ("fbgemm", "x86"):  # their transposed convolutions have one scale per weight
        for kind in _TRANSPOSED:
            mapping.set_object_type(kind, QConfig(qconfig.activation, weight))
    for kind in (nn.LayerNorm, F.layer_norm):  # their weights stay in floating point
        mapping.set_object_type(kind, QConfig(qconfig.activation, default_placeholder_observer))
    mapping.set_object_type(nn.PReLU, default_quint8_weight_qconfig)
    for kind, observer in _FIXED_RANGES.items():
        fixed = FixedQParamsFakeQuantize.with_args(observer=observer) if qat else observer
        mapping.set_object_type(kind, QConfig(fixed, weight))
    return mapping


def get_default_qconfig_mapping(backend: str = "onednn", version: int = 0) -> QConfigMapping:
    """`get_default_qconfig` for all, and the fixed output ranges of sigmoid, tanh and softmax.

    Args:
        backend: As in `qlab.qconfig.get_default_qconfig`.
        version: As there.

    Raises:
        UnknownNameError: An unknown backend.
        ArgumentError: An unknown version.
    """
    return _default_mapping(get_default_qconfig(backend, version), backend, qat=False)


def get_default_qat_qconfig_mapping(backend: str = "onednn", version: int = 1) -> QConfigMapping:
    """`get_default_qat_qconfig` for all, and the fixed output ranges of sigmoid, tanh, softmax.

    Args:
        backend: As in `qlab.qconfig.get_default_qat_qconfig`.
        version: As there.

    Raises:
        UnknownNameError: An unknown backend.
        ArgumentError: An unknown version.
    """
    return _default_mapping(get_default_qat_qconfig(backend, version), backend, qat=True)


def get_default_qconfig_dict(backend: str = "onednn", version: int = 0) -> dict[str, Any]:
    """The dict form of `get_default_qconfig_mapping`, as old code takes it."""
    return get_default_qconfig_mapping(backend, version).to_dict()


def get_default_qat_qconfig_dict(backend: str = "onednn", version: int = 1) -> dict[str, Any]:
    """The dict form of `get_default_qat_qconfig_mapping`, as old code takes it."""
    return get_default_qat_qconfig_mapping(backend, version).to_dict()


def symmetric_qnnpack_mapping() -> QConfigMapping:
    """`default_symmetric_qnnpack_qconfig` for all, with the fixed ranges: code for XNNPACK."""
    return _default_mapping(default_symmetric_qnnpack_qconfig, "qnnpack", qat=False)


def symmetric_qnnpack_qat_mapping() -> QConfigMapping:
    """`default_symmetric_qnnpack_qat_qconfig` for all, with the fixed ranges, for training."""
    return _default_mapping(default_symmetric_qnnpack_qat_qconfig, "qnnpack", qat=True)
