"""`prepare_fx`, `convert_fx`, `fuse_fx`: the graph workflow by the reference's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx, nn

from qlab import presets
from qlab.errors import ArgumentError, DTypeError, UnsupportedError
from qlab.graph.annotate import annotate
from qlab.graph.attributes import attach_preserved_attrs_to_model, preserved
from qlab.graph.backend import as_backend, check_allowed, fused_patterns
from qlab.graph.convert import Conversion, convert, is_converted
from qlab.graph.custom import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    StandaloneModuleConfigEntry,
    as_custom,
)
from qlab.graph.finite import check_parameters
from qlab.graph.found import observed_qparams, own_weights, without_data
from qlab.graph.fuse import fuse
from qlab.graph.plan import Plan
from qlab.graph.prepare import prepare, without_observers
from qlab.graph.qat import prepare_for_training
from qlab.graph.reasons import warn_of_impossible_pairs
from qlab.graph.reference import ReferenceConversion, forget_reference
from qlab.graph.requests import asked_of
from qlab.graph.special import at_borders, mark, observe, quantized, read_standalone
from qlab.graph.trace import Inputs, trace
from qlab.nn.quantized.observed import (
    forget_calibration,
    placeholder,
    warn_uncalibrated,
)
from qlab.nn.quantized.whole import loads_as_a_whole
from qlab.qconfig import QConfigMapping
from qlab.registry.backend import BackendConfig
from qlab.registry.sharing import Sharing


def prepare_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str,
    example_inputs: Inputs,
    prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None = None,
    _equalization_config: None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
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
        backend_config: What may be fused and quantized at all, and in which data types: a
            `qlab.quantization.backend_config.BackendConfig` or its dict form. Whatever has an
            integer form if not given.

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
    refuse_unknown("prepare_fx", _equalization_config=_equalization_config)
    custom = as_custom("prepare_fx", PrepareCustomConfig, prepare_custom_config)
    backend = as_backend("prepare_fx", backend_config)
    return _prepared(model, as_mapping(qconfig_mapping), example_inputs, custom, backend)


def prepare_qat_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str,
    example_inputs: Inputs,
    prepare_custom_config: PrepareCustomConfig | Mapping[str, Any] | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
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
        backend_config: As in `prepare_fx`.

    Returns:
        A graph in training mode; ``meta["plan"]`` says what was decided.

    Raises:
        ArgumentError: The model is in evaluation mode; or the inputs do not fit it.
        TraceError: The model cannot be turned into a graph; names module, file and line.
        UnknownNameError: No preset has this name.
        DTypeError: Not a mapping.
        UnsupportedError: A part of the customisation that is not known.
    """
    backend = as_backend("prepare_qat_fx", backend_config)
    if isinstance(model, nn.Module) and not model.training:
        raise ArgumentError(
            "prepare_qat_fx: the model is not in training mode",
            expected="model.training",
            received="evaluation mode",
            fix="Call model.train() first; to quantize without training, use prepare_fx.",
        )
    custom = as_custom("prepare_qat_fx", PrepareCustomConfig, prepare_custom_config)
    mapping = as_mapping(qconfig_mapping)
    return _prepared(model, mapping, example_inputs, custom, backend, training=True)


def _prepared(
    model: nn.Module,
    mapping: QConfigMapping,
    example_inputs: Inputs,
    custom: PrepareCustomConfig,
    backend: BackendConfig | None,
    *,
    training: bool = False,
    inner: bool = False,
) -> fx.GraphModule:
    """A model traced, fused, annotated and prepared, to be calibrated or to be trained.

    An inner one is a standalone module of another.
    """
    kept = preserved(model, custom.preserved_attributes)
    traced = trace(model, example_inputs, leaves=custom.leaves, training=training)
    traced = fuse(traced, fused_patterns(backend), asked_of(traced, mapping))
    mark(traced, custom)
    sharing = Sharing.TRAINED if training else Sharing.CALIBRATED
    plan = annotate(traced, mapping, backend, sharing=sharing)
    caller = "prepare_qat_fx" if training else "prepare_fx"
    alone = {*custom.standalone_module_names, *custom.standalone_module_classes}
    warn_of_impossible_pairs(caller, plan, mapping, whole=not (alone or inner))
    prepared = prepare_for_training(traced, plan) if training else prepare(traced, plan)

    def own(module: nn.Module, entry: StandaloneModuleConfigEntry) -> fx.GraphModule:
        its_backend = as_backend("A standalone module's entry", entry.backend_config) or backend
        if not entry.example_inputs:
            raise ArgumentError(
                "A standalone module needs example inputs",
                expected="a tuple of the arguments of one call",
                received=repr(entry.example_inputs),
            )
        its = mapping if entry.qconfig_mapping is None else as_mapping(entry.qconfig_mapping)
        config, given = entry.prepare_custom_config or PrepareCustomConfig(), entry.example_inputs
        return _prepared(module, its, given, config, its_backend, training=training, inner=True)

    observe(prepared, plan, custom, own)
    prepared.meta["custom"], prepared.meta["backend"] = custom, backend
    attach_preserved_attrs_to_model(prepared, kept)
    return loads_as_a_whole(prepared)


def convert_fx(
    graph_module: fx.GraphModule,
    convert_custom_config: ConvertCustomConfig | Mapping[str, Any] | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
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
        backend_config: Must allow what the one given to `prepare_fx` did.
        keep_original_weights: Not supported; False.

    Returns:
        A graph in evaluation mode, floating point in and out, plain integer tensors inside.

    Raises:
        ArgumentError: The model was not prepared, or is converted already.
        NonFiniteError: NaN or infinity in a parameter of a layer to be quantized; names it.
        UncalibratedError: An observer has seen no data and others have; names the layer. Where
            no data was seen at all, a warning says so, and the graph can only be used after a
            state dict of a calibrated one is loaded.
        UnsupportedError: A part of the customisation that is not known.
    """
    refuse_unknown("convert_fx", keep_original_weights=keep_original_weights)
    return _converted(
        "convert_fx", graph_module, convert_custom_config, qconfig_mapping, backend_config
    )


def convert_to_reference_fx(
    graph_module: fx.GraphModule,
    convert_custom_config: ConvertCustomConfig | Mapping[str, Any] | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """The quantize–dequantize form of a calibrated model: what a backend's own compiler takes.

    Every integer operator of `convert_fx` is taken apart: `qlab.quantize_per_tensor` and
    ``dequantize`` around the float operator, and a module of `qlab.nn.quantized.reference` where
    there is a weight. Its outputs are those of the integer model but for ties and the order of
    floating-point sums.

    Args:
        graph_module: What `prepare_fx` returned, after calibration; it stays as it is.
        convert_custom_config: As in `convert_fx`.
        _remove_qconfig: As in the reference; qconfigs are never left on the modules.
        qconfig_mapping: As in `convert_fx`.
        backend_config: As in `convert_fx`.

    Returns:
        A graph in evaluation mode, floating point in and out.

    Raises:
        As `convert_fx`.
    """
    return _converted(
        "convert_to_reference_fx",
        graph_module,
        convert_custom_config,
        qconfig_mapping,
        backend_config,
        writer=ReferenceConversion,
    )


def _converted(
    caller: str,
    graph_module: fx.GraphModule,
    convert_custom_config: ConvertCustomConfig | Mapping[str, Any] | None,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | str | None,
    backend_config: BackendConfig | Mapping[str, Any] | None,
    *,
    writer: type[Conversion] = Conversion,
) -> fx.GraphModule:
    """A calibrated graph converted, in one of the two forms."""
    plan = _plan_of(caller, graph_module)
    custom = as_custom(caller, ConvertCustomConfig, convert_custom_config)
    kept = preserved(graph_module, custom.preserved_attributes)
    given = as_backend(caller, backend_config)
    backend = given or graph_module.meta.get("backend")
    floating, observers = without_observers(graph_module)
    if qconfig_mapping is not None:
        plan = annotate(floating, as_mapping(qconfig_mapping), backend, sharing=plan.sharing)
    if given is not None:
        check_allowed(caller, floating, plan, given)
    check_parameters(floating, plan)  # before NaN that they cause is taken for missing data
    unseen = without_data(plan, observers)
    observers = {**observers, **{node: placeholder(unseen[node]) for node in unseen}}
    qparams = observed_qparams(plan, observers)
    inner = replace(custom, preserved_attributes=[])

    def own(prepared: fx.GraphModule) -> fx.GraphModule:
        return _converted(caller, prepared, inner, None, None, writer=writer)

    replaced = quantized(floating, plan, observers, custom, own)
    weights = own_weights(floating, plan)
    converted = convert(floating, plan, qparams, weights=weights, replaced=replaced, writer=writer)
    read_standalone(converted, floating, replaced)
    converted = at_borders(converted, graph_module.meta.get("custom") or PrepareCustomConfig())
    attach_preserved_attrs_to_model(converted, kept)
    if unseen:
        forget_calibration(converted)
        forget_reference(converted, plan, unseen)
        warn_uncalibrated(caller, unseen)
    return loads_as_a_whole(converted)


def fuse_fx(
    model: nn.Module,
    fuse_custom_config: FuseCustomConfig | Mapping[str, Any] | None = None,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """A model as a graph in evaluation mode, its convolutions, norms and activations fused.

    Args:
        model: A float model that traces; it stays as it is.
        fuse_custom_config: Attributes to carry over; a `FuseCustomConfig` or its dict form.
        backend_config: Which chains to fuse; as in `prepare_fx`.

    Raises:
        TraceError: The model cannot be turned into a graph; names module, file and line.
        UnsupportedError: A part of the customisation that is not known.
    """
    custom = as_custom("fuse_fx", FuseCustomConfig, fuse_custom_config)
    kept = preserved(model, custom.preserved_attributes)
    patterns = fused_patterns(as_backend("fuse_fx", backend_config))
    fused = fuse(trace(model), patterns)
    attach_preserved_attrs_to_model(fused, kept)
    return fused


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


def _plan_of(caller: str, graph_module: fx.GraphModule) -> Plan:
    if isinstance(graph_module, fx.GraphModule) and is_converted(graph_module):
        raise ArgumentError(
            f"{caller}: the model is converted already",
            expected="what prepare_fx returned",
            received="a converted model",
        )
    plan = graph_module.meta.get("plan") if isinstance(graph_module, fx.GraphModule) else None
    if not isinstance(plan, Plan):
        raise ArgumentError(
            f"{caller}: the model was not prepared",
            expected="what prepare_fx returned",
            received=type(graph_module).__name__,
            fix=f"Call prepare_fx, run calibration data through its result, then {caller}.",
        )
    return plan


def refuse_unknown(function: str, **given: object) -> None:
    """Raises for customisations that are asked for and not known."""
    for name, value in given.items():
        if value:
            raise UnsupportedError(
                f"{function} does not know {name}",
                received=type(value).__name__,
                fix="Leave it out.",
            )
