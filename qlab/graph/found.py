"""What the observers and fake quantizers of a prepared graph found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from qlab.errors import UncalibratedError
from qlab.fake_quantize import FixedQParamsFakeQuantize
from qlab.graph.plan import Plan, uncalibrated
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized.observed import qparams_of, weight_qparams
from qlab.observers import FixedQParamsObserver, registered_observers
from qlab.qparams import QParams


def observed_qparams(plan: Plan, observers: Mapping[str, nn.Module]) -> dict[str, QParams]:
    """What the observers of a prepared graph found, by the node they observe.

    Raises:
        UncalibratedError: Some have seen data and another has not; names it.
    """
    found = {}
    for value in plan.values:
        if value.observed and value.node in observers:
            try:
                qparams = qparams_of(observers[value.node])
            except UncalibratedError as error:
                raise uncalibrated(value) from error
            if qparams is not None:
                found[value.node] = qparams
    return found


def without_data(plan: Plan, observers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The observers of a prepared graph, by node, if no data has reached any; else none.

    Those whose scale is known beforehand do not count.
    """
    empty = {}
    for node in (value.node for value in plan.values if value.observed):
        observer = observers.get(node)
        if isinstance(observer, FixedQParamsObserver | FixedQParamsFakeQuantize):
            continue
        try:
            qparams_of(observer)
        except UncalibratedError:
            empty[node] = observers[node]
        else:
            return {}
    return empty


def own_weights(graph_module: fx.GraphModule, plan: Plan) -> dict[str, QParams]:
    """What the weights' fake quantizers, and observers that qlab does not know, find, by step.

    For its own observers the step's spec says the same.
    """
    known = set(registered_observers().values())
    found = {}
    for step in plan.steps:
        if step.weight is None or step.requested is None or step.requested.weight is None:
            continue
        layer = graph_module.get_submodule(step.name)
        if isinstance(layer, QuantizationAware) and step.execution != "dynamic":
            found[step.name] = weight_qparams(layer, _folded(layer), observe=True)
            continue
        observer = step.requested.weight()
        if type(observer) not in known:
            observer(_folded(layer))
            found[step.name] = qparams_of(observer)
    return {name: qparams for name, qparams in found.items() if qparams is not None}


def _folded(layer: nn.Module) -> Tensor:
    """A layer's weight in float32, batch norm folded in."""
    weight: Any = core(layer).weight
    return weight.detach().float()
