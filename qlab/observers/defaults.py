"""The reference's ready-made observers, and the helpers for their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qlab.dtypes import integer, qint8, quint8
from qlab.errors import FormatError, check_type
from qlab.granularity import (
    per_channel_affine_float_qparams,
    per_channel_symmetric,
    per_tensor_symmetric,
)
from qlab.observers.histogram import HistogramObserver
from qlab.observers.minmax import MinMaxObserver, PerChannelMinMaxObserver
from qlab.observers.passive import (
    FixedQParamsObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
)
from qlab.ops import checks

_EPS_12 = 2**-12  # keeps requantization scales in the range that XNNPACK takes

default_observer = MinMaxObserver.with_args(quant_min=0, quant_max=127)
default_histogram_observer = HistogramObserver.with_args(quant_min=0, quant_max=127)
default_placeholder_observer = PlaceholderObserver
default_debug_observer = RecordingObserver
default_reuse_input_observer = ReuseInputObserver

default_weight_observer = MinMaxObserver.with_args(dtype=qint8, qscheme=per_tensor_symmetric)
default_per_channel_weight_observer = PerChannelMinMaxObserver.with_args(
    dtype=qint8, qscheme=per_channel_symmetric
)
weight_observer_range_neg_127_to_127 = default_weight_observer.with_args(
    quant_min=-127, quant_max=127, eps=_EPS_12
)
per_channel_weight_observer_range_neg_127_to_127 = default_per_channel_weight_observer.with_args(
    quant_min=-127, quant_max=127, eps=_EPS_12
)

default_dynamic_quant_observer = PlaceholderObserver.with_args(
    dtype=quint8, quant_min=0, quant_max=255, is_dynamic=True
)
default_float_qparams_observer = PerChannelMinMaxObserver.with_args(
    dtype=quint8, qscheme=per_channel_affine_float_qparams, ch_axis=0
)
default_float_qparams_observer_4bit = default_float_qparams_observer.with_args(
    dtype=integer(4, signed=False)
)

default_fixed_qparams_range_neg1to1_observer = FixedQParamsObserver.with_args(
    scale=2 / 256, zero_point=128, dtype=quint8, quant_min=0, quant_max=255
)
default_fixed_qparams_range_0to1_observer = FixedQParamsObserver.with_args(
    scale=1 / 256, zero_point=0, dtype=quint8, quant_min=0, quant_max=255
)
default_symmetric_fixed_qparams_observer = default_fixed_qparams_range_neg1to1_observer
default_affine_fixed_qparams_observer = default_fixed_qparams_range_0to1_observer

_OBSERVER_KEY = "activation_post_process"


def get_observer_state_dict(mod: nn.Module) -> dict[str, Any]:
    """The part of a prepared model's state dict that belongs to observers.

    Args:
        mod: A prepared model.

    Returns:
        Entries whose name contains ``activation_post_process``, in order.
    """
    checks.model("get_observer_state_dict", mod)
    return {name: value for name, value in mod.state_dict().items() if _OBSERVER_KEY in name}


def load_observer_state_dict(mod: nn.Module, obs_dict: dict[str, Any]) -> None:
    """Puts what `get_observer_state_dict` returned into a model prepared in the same way.

    Args:
        mod: A prepared model.
        obs_dict: Observer entries by name.

    Raises:
        FormatError: An observer's entry is missing, or there is one that the model does not have.
            The model is left as it was.
    """
    checks.model("load_observer_state_dict", mod)
    check_type("load_observer_state_dict", "obs_dict", obs_dict, Mapping, "a state dict")
    expected = {name for name in mod.state_dict() if _OBSERVER_KEY in name}
    given = {name for name in obs_dict if _OBSERVER_KEY in name}
    if expected != given:
        raise FormatError(
            "The observers of the model and of the state dict differ",
            expected=f"also {', '.join(sorted(expected - given)) or 'nothing'}",
            received=f"unknown {', '.join(sorted(given - expected)) or 'nothing'}",
            fix="Prepare the model with the qconfig that was in use when the state was saved.",
        )
    mod.load_state_dict({name: obs_dict[name] for name in given}, strict=False)
