"""Observers: they look at a tensor during calibration, and choose its scale and zero point.

Each is a collector of statistics and a range policy (`qlab.ranges`), under the reference's name
and with its arguments. `spec_of` and `observer_for` lead from a qconfig's factory to a
`TensorSpec` and back.
"""

from qlab.observers.base import (
    ActivationPostProcess,
    DTypeLike,
    ObserverBase,
    ObserverOptions,
    Partial,
    UniformQuantizationObserverBase,
    qparams_from,
    spec_from,
)
from qlab.observers.defaults import (
    default_affine_fixed_qparams_observer,
    default_debug_observer,
    default_dynamic_quant_observer,
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
    default_float_qparams_observer,
    default_float_qparams_observer_4bit,
    default_histogram_observer,
    default_observer,
    default_per_channel_weight_observer,
    default_placeholder_observer,
    default_reuse_input_observer,
    default_symmetric_fixed_qparams_observer,
    default_weight_observer,
    get_observer_state_dict,
    load_observer_state_dict,
    per_channel_weight_observer_range_neg_127_to_127,
    weight_observer_range_neg_127_to_127,
)
from qlab.observers.histogram import (
    EntropyObserver,
    HistogramObserver,
    MSEObserver,
    PercentileObserver,
    StatsObserver,
)
from qlab.observers.minmax import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from qlab.observers.passive import (
    FixedQParamsObserver,
    NoopObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
)
from qlab.observers.serial import factory_from_dict, factory_to_dict
from qlab.observers.specs import (
    Factory,
    SpecObserver,
    observer_for,
    register_observer,
    registered_observers,
    scheme_of,
    spec_of,
)

__all__ = [
    "ActivationPostProcess",
    "DTypeLike",
    "EntropyObserver",
    "Factory",
    "FixedQParamsObserver",
    "HistogramObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "NoopObserver",
    "ObserverBase",
    "ObserverOptions",
    "Partial",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
    "PlaceholderObserver",
    "RecordingObserver",
    "ReuseInputObserver",
    "SpecObserver",
    "StatsObserver",
    "UniformQuantizationObserverBase",
    "default_affine_fixed_qparams_observer",
    "default_debug_observer",
    "default_dynamic_quant_observer",
    "default_fixed_qparams_range_0to1_observer",
    "default_fixed_qparams_range_neg1to1_observer",
    "default_float_qparams_observer",
    "default_float_qparams_observer_4bit",
    "default_histogram_observer",
    "default_observer",
    "default_per_channel_weight_observer",
    "default_placeholder_observer",
    "default_reuse_input_observer",
    "default_symmetric_fixed_qparams_observer",
    "default_weight_observer",
    "factory_from_dict",
    "factory_to_dict",
    "get_observer_state_dict",
    "load_observer_state_dict",
    "observer_for",
    "per_channel_weight_observer_range_neg_127_to_127",
    "qparams_from",
    "register_observer",
    "registered_observers",
    "scheme_of",
    "spec_from",
    "spec_of",
    "weight_observer_range_neg_127_to_127",
]
