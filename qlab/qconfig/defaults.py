"""The reference's ready-made qconfigs."""

from __future__ import annotations

import torch
from torch import nn

from qlab.dtypes import qint8
from qlab.errors import ArgumentError, UnknownNameError
from qlab.fake_quantize import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    default_dynamic_fake_quant,
    default_embedding_fake_quant,
    default_embedding_fake_quant_4bit,
    default_fake_quant,
    default_fused_act_fake_quant,
    default_fused_per_channel_wt_fake_quant,
    default_fused_wt_fake_quant,
    default_per_channel_weight_fake_quant,
    default_weight_fake_quant,
    fused_per_channel_wt_fake_quant_range_neg_127_to_127,
    fused_wt_fake_quant_range_neg_127_to_127,
)
from qlab.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    NoopObserver,
    PlaceholderObserver,
    default_debug_observer,
    default_dynamic_quant_observer,
    default_float_qparams_observer,
    default_float_qparams_observer_4bit,
    default_observer,
    default_per_channel_weight_observer,
    default_placeholder_observer,
    default_reuse_input_observer,
    default_weight_observer,
    per_channel_weight_observer_range_neg_127_to_127,
    weight_observer_range_neg_127_to_127,
)
from qlab.qconfig.qconfig import QConfig

default_qconfig = QConfig(default_observer, default_weight_observer)
default_debug_qconfig = QConfig(default_debug_observer, default_weight_observer)
default_per_channel_qconfig = QConfig(default_observer, default_per_channel_weight_observer)
default_quint8_weight_qconfig = QConfig(HistogramObserver, MinMaxObserver)
default_reuse_input_qconfig = QConfig(default_reuse_input_observer, NoopObserver)

default_dynamic_qconfig = QConfig(default_dynamic_quant_observer, default_weight_observer)
per_channel_dynamic_qconfig = QConfig(
    default_dynamic_quant_observer, default_per_channel_weight_observer
)
float16_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=torch.float16, is_dynamic=True),
    PlaceholderObserver.with_args(dtype=torch.float16),
)
float16_static_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=torch.float16),
    PlaceholderObserver.with_args(dtype=torch.float16),
)
float_qparams_weight_only_qconfig = QConfig(
    default_placeholder_observer, default_float_qparams_observer
)
float_qparams_weight_only_qconfig_4bit = QConfig(
    default_placeholder_observer, default_float_qparams_observer_4bit
)

default_qat_qconfig = QConfig(default_fake_quant, default_weight_fake_quant)
default_dynamic_qat_qconfig = QConfig(default_dynamic_fake_quant, default_weight_fake_quant)
default_qat_qconfig_v2 = QConfig(default_fused_act_fake_quant, default_fused_wt_fake_quant)
default_weight_only_qconfig = QConfig(nn.Identity, default_weight_fake_quant)
default_activation_only_qconfig = QConfig(default_fake_quant, nn.Identity)
default_embedding_qat_qconfig = QConfig(
    NoopObserver.with_args(dtype=torch.float32), default_embedding_fake_quant
)
default_embedding_qat_qconfig_4bit = QConfig(
    NoopObserver.with_args(dtype=torch.float32), default_embedding_fake_quant_4bit
)

_symmetric_activation = HistogramObserver.with_args(dtype=qint8, reduce_range=False, eps=2**-12)
default_symmetric_qnnpack_qconfig = QConfig(
    _symmetric_activation, weight_observer_range_neg_127_to_127
)
default_per_channel_symmetric_qnnpack_qconfig = QConfig(
    _symmetric_activation, per_channel_weight_observer_range_neg_127_to_127
)
_symmetric_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=qint8,
    reduce_range=False,
    eps=2**-12,
)
default_symmetric_qnnpack_qat_qconfig = QConfig(
    _symmetric_fake_quant, fused_wt_fake_quant_range_neg_127_to_127
)
default_per_channel_symmetric_qnnpack_qat_qconfig = QConfig(
    _symmetric_fake_quant, fused_per_channel_wt_fake_quant_range_neg_127_to_127
)

BACKENDS = ("onednn", "x86", "fbgemm", "qnnpack")
"""Engines of the reference, whose habits a default qconfig can follow."""


def _check(backend: str, version: int, versions: tuple[int, ...]) -> None:
    if backend not in BACKENDS:
        raise UnknownNameError.of("quantization backend", backend, BACKENDS)
    if version not in versions:
        raise ArgumentError(
            "No such version of the default qconfig",
            expected=" or ".join(map(str, versions)),
            received=version,
        )


def get_default_qconfig(backend: str = "onednn", version: int = 0) -> QConfig:
    """The default qconfig for quantization after training.

    Activations: uint8, affine, per tensor, `HistogramObserver`. Weights: int8, symmetric, per
    channel (``"qnnpack"``: per tensor), min-max.

    Args:
        backend: ``"onednn"``, ``"x86"``, ``"fbgemm"`` or ``"qnnpack"``. ``"x86"`` and ``"fbgemm"``
            use half the codes for activations, because their kernels' sums saturate on old
            processors; qlab's do not, which is why the default differs from the reference's
            ``"x86"``.
        version: 0.

    Raises:
        UnknownNameError: An unknown backend.
        ArgumentError: An unknown version.
    """
    _check(backend, version, (0,))
    activation = HistogramObserver.with_args(reduce_range=backend in ("x86", "fbgemm"))
    per_tensor = backend == "qnnpack"
    weight = default_weight_observer if per_tensor else default_per_channel_weight_observer
    return QConfig(activation, weight)


def get_default_qat_qconfig(backend: str = "onednn", version: int = 1) -> QConfig:
    """The default qconfig for quantization-aware training.

    Moving averages instead of histograms; otherwise as in `get_default_qconfig`.

    Args:
        backend: As in `get_default_qconfig`.
        version: 1 for `FusedMovingAvgObsFakeQuantize`, 0 for `FakeQuantize`.

    Raises:
        UnknownNameError: An unknown backend.
        ArgumentError: An unknown version.
    """
    _check(backend, version, (0, 1))
    cls, weights = (
        (FakeQuantize, (default_weight_fake_quant, default_per_channel_weight_fake_quant)),
        (
            FusedMovingAvgObsFakeQuantize,
            (default_fused_wt_fake_quant, default_fused_per_channel_wt_fake_quant),
        ),
    )[version]
    activation = cls.with_args(
        observer=MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=255,
        reduce_range=backend in ("x86", "fbgemm"),
    )
    return QConfig(activation, weights[backend != "qnnpack"])
