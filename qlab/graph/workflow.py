"""`prepare_fx`, `convert_fx`, `fuse_fx`: the graph workflow by the reference's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from qlab import presets
from qlab.errors import ArgumentError, DTypeError, UncalibratedError, UnsupportedError
from qlab.graph.annotate import annotate
from qlab.graph.convert import check_parameters, convert, is_converted
from qlab.graph.custom import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    StandaloneModuleConfigEntry,
    as_custom,
)
from qlab.graph.fuse import fuse
from qlab.graph.plan import Plan, uncalibrated
from qlab.graph.prepare import prepare, without_observers
from qlab.graph.qat import prepare_for_training
from qlab.graph.special import at_borders, mark, observe, quantized
from qlab.graph.trace import Inputs, trace
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic.fold import core
from qlab.nn.quantized.observed import qparams_of, weight_qparams
from qlab.observers import registered_observers
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams


def prepare_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str,
    example_inputs: Inputs,
    prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None = None,
    _equalization_config: None = None,
    backend_config: None = None,
) -> fx.GraphModule:
    """A model as a graph with observers in it, ready for calibration.

    The model is copied, traced and fused in evaluation mode, and itself stays as it is. Run
    calibration data through the result, then call `convert_fx`.

    Args:
        model: A float model that traces.
        qconfig_mapping: A `QConfigMapping`, its dict form, or the name of a preset.
        example_inputs: One tensor, or the arguments of one call (see `qlab.graph.trace`).
        prepare_custom_config: Custom, standalone and non-traceable modules, and more; a
            `PrepareCustomConfig` or its dict form.
        _equalization_config: Not supported; None.
        backend_config: Not needed, qlab's registry says what has an integer form; None.

    Returns:
        A graph of the same outputs; ``meta["plan"]`` says what was decided.

    Raises:
        TraceError: The model cannot be turned into a graph; names module, file and line.
        ArgumentError: The inputs do not fit the model.
        UnknownNameError: No preset has this name.
        DTypeError: Not a mapping.
        UnsupportedError: A part of the customisation that is not known.

    Example:
        >>> import torch
        >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), torch.ones(1, 4)
        >>> prepared = prepare_fx(model, "int8", x)
        >>> prepared(x).shape
        torch.Size([1, 2])
        >>> convert_fx(prepared).get_submodule("0")
        QuantizedLinearReLU(...)
    """
    refuse_unknown(
        "prepare_fx", _equalization_config=_equalization_config, backend_config=backend_config
    )
    custom = as_custom("prepare_fx", PrepareCustomConfig, prepare_custom_config)
    return _prepared(model, as_mapping(qconfig_mapping), example_inputs, custom)


def prepare_qat_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str,
    example_inputs: Inputs,
    prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None = None,
    backend_config: None = None,
) -> fx.GraphModule:
    """A model as a graph that trains with rounded weights and activations.

    The model is copied, traced and fused in training mode, batch norm kept beside its layer, and
    itself stays as it is. Train the result, call ``eval()``, then `convert_fx`.

    Args:
        model: A float model in training mode that traces. A batch norm in evaluation mode stays
            frozen.
        qconfig_mapping: As in `prepare_fx`, with qconfigs of fake quantizers such as
            ``get_default_qat_qconfig_mapping()``.
        example_inputs: As in `prepare_fx`.
        prepare_custom_config: As in `prepare_fx`.
        backend_config: None.

    Returns:
        A graph in training mode; ``meta["plan"]`` says what was decided.

    Raises:
        ArgumentError: The model is in evaluation mode; or the inputs do not fit it.
        TraceError: The model cannot be turned into a graph; names module, file and line.
        UnknownNameError: No preset has this name.
        DTypeError: Not a mapping.
        UnsupportedError: A part of the customisation that is not known.
    """
    refuse_unknown("prepare_qat_fx", backend_config=backend_config)
    if isinstance(model, nn.Module) and not model.training:
        raise ArgumentError(
            "prepare_qat_fx: the model is not in training mode",
            expected="model.training",
            received="evaluation mode",
            fix="Call model.train() first; to quantize without training, use prepare_fx.",
        )
    custom = as_custom("prepare_qat_fx", PrepareCustomConfig, prepare_custom_config)
    return _prepared(model, as_mapping(qconfig_mapping), example_inputs, custom, training=True)


def _prepared(
    model: nn.Module,
    mapping: QConfigMapping,
    example_inputs: Inputs,
    custom: PrepareCustomConfig,
    training: bool = False,
) -> fx.GraphModule:
    """A model traced, fused, annotated and prepared, to be calibrated or to be trained."""
    preserved = _attributes(model, custom.preserved_attributes)
    traced = fuse(trace(model, example_inputs, leaves=custom.leaves, training=training))
    mark(traced, custom)
    plan = annotate(traced, mapping)
    prepared = prepare_for_training(traced, plan) if training else prepare(traced, plan)

    def own(module: nn.Module, entry: StandaloneModuleConfigEntry) -> fx.GraphModule:
        refuse_unknown("A standalone module's entry", backend_config=entry.backend_config)
        if not entry.example_inputs:
            raise ArgumentError(
                "A standalone module needs example inputs",
                expected="a tuple of the arguments of one call",
                received=repr(entry.example_inputs),
            )
        its = mapping if entry.qconfig_mapping is None else as_mapping(entry.qconfig_mapping)
        inner = entry.prepare_custom_config or PrepareCustomConfig()
        return _prepared(module, its, entry.example_inputs, inner, training)

    observe(prepared, plan, custom, own)
    prepared.meta["custom"] = custom
    return _with_attributes(prepared, preserved)


def convert_fx(
    graph_module: fx.GraphModule,
    convert_custom_config: ConvertCustomConfig | Mapping[str, Any] | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str | None = None,
    backend_config: None = None,
    keep_original_weights: bool = False,
) -> fx.GraphModule:
    """The quantized model of a calibrated one that `prepare_fx` made.

    Args:
        graph_module: What `prepare_fx` returned, after calibration; it stays as it is.
        convert_custom_config: What custom modules become, and attributes to carry over; a
            `ConvertCustomConfig` or its dict form.
        _remove_qconfig: As in the reference; qconfigs are never left on the modules.
        qconfig_mapping: A mapping to use instead of the one given to `prepare_fx`. It may leave
            more in float, not less.
        backend_config: None.
        keep_original_weights: Not supported; False.

    Returns:
        A graph in evaluation mode, floating point in and out, plain integer tensors inside.

    Raises:
        ArgumentError: The model was not prepared, or is converted already.
        NonFiniteError: NaN or infinity in a parameter of a layer to be quantized; names it.
        UncalibratedError: An observer has seen no data; names the layer.
        UnsupportedError: A part of the customisation that is not known.
    """
    plan = _plan_of(graph_module)
    custom = as_custom("convert_fx", ConvertCustomConfig, convert_custom_config)
    preserved = _attributes(graph_module, custom.preserved_attributes)
    refuse_unknown(
        "convert_fx",
        backend_config=backend_config,
        keep_original_weights=keep_original_weights,
    )
    floating, observers = without_observers(graph_module)
    if qconfig_mapping is not None:
        plan = annotate(floating, as_mapping(qconfig_mapping))
    check_parameters(floating, plan)  # before NaN that they cause is taken for missing data
    qparams = _observed_qparams(plan, observers)
    inner = replace(custom, preserved_attributes=[])
    own = partial(convert_fx, convert_custom_config=inner)
    replaced = quantized(floating, plan, observers, custom, own)
    weights = _own_weights(floating, plan)
    converted = convert(floating, plan, qparams, weights=weights, replaced=replaced)
    converted = at_borders(converted, graph_module.meta.get("custom") or PrepareCustomConfig())
    return _with_attributes(converted, preserved)


def fuse_fx(
    model: nn.Module,
    fuse_custom_config: FuseCustomConfig | Mapping[str, Any] | None = None,
    backend_config: None = None,
) -> fx.GraphModule:
    """A model as a graph in evaluation mode, its convolutions, norms and activations fused.

    Args:
        model: A float model that traces; it stays as it is.
        fuse_custom_config: Attributes to carry over; a `FuseCustomConfig` or its dict form.
        backend_config: None.

    Raises:
        TraceError: The model cannot be turned into a graph; names module, file and line.
        UnsupportedError: A part of the customisation that is not known.
    """
    custom = as_custom("fuse_fx", FuseCustomConfig, fuse_custom_config)
    preserved = _attributes(model, custom.preserved_attributes)
    refuse_unknown("fuse_fx", backend_config=backend_config)
    return _with_attributes(fuse(trace(model)), preserved)


def as_mapping(mapping: QConfigMapping | Mapping[str, Any] | str) -> QConfigMapping:
    """A `QConfigMapping` from itself, its dict form or a preset's name.

    Raises:
        UnknownNameError: No preset has this name.
        DTypeError: Something else.
    """
    match mapping:
        case QConfigMapping():
            return mapping
        case str():
            return presets.get(mapping).mapping()
        case Mapping():
            return QConfigMapping.from_dict(dict(mapping))
    raise DTypeError(
        "Not a qconfig mapping",
        expected="a QConfigMapping, its dict form, or a preset's name",
        received=type(mapping).__name__,
    )


def _attributes(model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """Attributes of a model that its converted form shall have too."""
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise ArgumentError(
            "A preserved attribute is not there",
            expected=f"names of attributes of {type(model).__name__}",
            received=", ".join(map(repr, missing)),
        )
    return {name: getattr(model, name) for name in names}


def _plan_of(graph_module: fx.GraphModule) -> Plan:
    if isinstance(graph_module, fx.GraphModule) and is_converted(graph_module):
        raise ArgumentError(
            "convert_fx: the model is converted already",
            expected="what prepare_fx returned",
            received="what convert_fx returned",
        )
    plan = graph_module.meta.get("plan") if isinstance(graph_module, fx.GraphModule) else None
    if not isinstance(plan, Plan):
        raise ArgumentError(
            "convert_fx: the model was not prepared",
            expected="what prepare_fx returned",
            received=type(graph_module).__name__,
            fix="Call prepare_fx, run calibration data through its result, then convert_fx.",
        )
    return plan


def _observed_qparams(plan: Plan, observers: Mapping[str, nn.Module]) -> dict[str, QParams]:
    """What the observers of a prepared graph found, by the node they observe."""
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


def _own_weights(graph_module: fx.GraphModule, plan: Plan) -> dict[str, QParams]:
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


def refuse_unknown(function: str, **given: object) -> None:
    """Raises for customisations that are asked for and not known."""
    for name, value in given.items():
        if value:
            raise UnsupportedError(
                f"{function} does not know {name}",
                received=repr(value),
                fix="Leave it out.",
            )


def _with_attributes(graph_module: fx.GraphModule, given: Mapping[str, Any]) -> fx.GraphModule:
    for name, value in given.items():
        setattr(graph_module, name, value)
    return graph_module
