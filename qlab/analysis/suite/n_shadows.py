"""One float model with every layer quantized beside it, in several ways at once."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx, nn

from qlab.analysis.suite.loggers import OutputComparisonLogger, OutputLogger
from qlab.analysis.suite.matching import Relations
from qlab.analysis.suite.reading import target_name
from qlab.analysis.suite.results import logged
from qlab.analysis.suite.types import NSResultsType, Values
from qlab.analysis.suite.wiring import Wiring
from qlab.errors import ArgumentError, DTypeError, QlabError, UncalibratedError, check_type
from qlab.graph.annotate import annotate
from qlab.graph.backend import as_backend
from qlab.graph.fuse import chains, fuse
from qlab.graph.prepare import device_of
from qlab.graph.trace import Inputs, trace
from qlab.graph.workflow import convert_fx, prepare_fx, refuse_unknown
from qlab.nn.quantized.observed import is_uncalibrated
from qlab.ops import checks
from qlab.qconfig import QConfig, QConfigMapping
from qlab.qconfig.multi_mapping import QConfigMultiMapping
from qlab.registry.backend import BackendConfig

_WRAPPER = "shadow_wrapper_"
_MODEL = "model"
_WORDS = ("node_name", "node_type", "fqn")


@dataclass(frozen=True)
class _Layer:
    """An operator with what is quantized with it, and the qconfigs to try; None to try nothing."""

    nodes: list[fx.Node]
    qconfigs: list[QConfig | None]


def prepare_n_shadows_model(
    model: nn.Module,
    example_inputs: Inputs,
    qconfig_multi_mapping: QConfigMultiMapping,
    backend_config: BackendConfig | Mapping[str, Any] | None = None,
    custom_prepare_fn: Callable[..., nn.Module] | None = None,
    custom_prepare_kwargs: Mapping[str, Any] | None = None,
    custom_tracer: None = None,
) -> fx.GraphModule:
    """A float model in which each layer has a copy for every qconfig, prepared and beside it.

    All copies read what the float layer reads. Calibrate it, convert the copies, switch the
    loggers on, which are off until then, run data through it, and look at the results::

        shadows = prepare_n_shadows_model(model, (x,), multi_mapping)
        shadows(calibration)
        shadows = convert_n_shadows_model(shadows)
        loggers_set_enabled(shadows, True)
        shadows(x)
        print_comparisons_n_shadows_model(extract_results_n_shadows_model(shadows))

    Args:
        model: A float model that traces; it stays as it is.
        example_inputs: One tensor, or the arguments of one call.
        qconfig_multi_mapping: The qconfigs to try. Layers for which they are all None, and those
            that do not take and give tensors, get no copies.
        backend_config: What may be quantized, as in `prepare_fx`; by default all that the
            registry knows.
        custom_prepare_fn: Prepares a copy in place of `prepare_fx`.
        custom_prepare_kwargs: Its further arguments.
        custom_tracer: Not supported; None.

    Returns:
        A graph of the same outputs: ``shadow_<layer>_0`` keeps what the float layer gives,
        ``shadow_wrapper_<layer>_<n>`` is the copy for the n-th qconfig, from 1, and
        ``shadow_<layer>_<n>`` compares it.

    Raises:
        DTypeError: Not a `QConfigMultiMapping`.
        ArgumentError: No layer has a qconfig; or the custom arguments name what is set here.
        UnsupportedError: A tracer of one's own, or a backend config as in `prepare_fx`.
        TraceError: The model has no single graph.
    """
    caller = "prepare_n_shadows_model"
    refuse_unknown(caller, custom_tracer=custom_tracer)
    backend = as_backend(caller, backend_config)
    if not isinstance(qconfig_multi_mapping, QConfigMultiMapping):
        raise DTypeError(
            "prepare_n_shadows_model: not a mapping to several qconfigs",
            expected="a QConfigMultiMapping",
            received=type(qconfig_multi_mapping).__name__,
            fix="QConfigMultiMapping.from_list_qconfig_mapping([mapping]) makes one.",
        )
    kwargs = dict(custom_prepare_kwargs or {})
    if custom_prepare_fn is None:
        kwargs.setdefault("backend_config", backend)
    prepare = _prepare_with(custom_prepare_fn, kwargs)
    traced = trace(model, example_inputs)
    layers = list(_layers(traced, qconfig_multi_mapping.qconfig_mappings_list, backend))
    if not layers:
        raise ArgumentError(
            "prepare_n_shadows_model: no layer has a qconfig",
            expected="rules that match layers of the model",
            received=repr(qconfig_multi_mapping),
        )
    wiring = Wiring(traced)
    for index, layer in enumerate(layers):
        _add_shadows(wiring, index, layer, prepare)
    return wiring.done()


def _prepare_with(
    function: Callable[..., nn.Module] | None, kwargs: dict[str, Any]
) -> Callable[..., nn.Module]:
    if own := kwargs.keys() & {"example_inputs", "prepare_custom_config", "qconfig_mapping"}:
        raise ArgumentError(
            "custom_prepare_kwargs names what is set for every layer",
            expected="other arguments of custom_prepare_fn",
            received=", ".join(sorted(own)),
        )
    chosen = prepare_fx if function is None else function
    return lambda model, mapping, inputs: chosen(
        model, qconfig_mapping=mapping, example_inputs=inputs, **kwargs
    )


def _layers(
    traced: fx.GraphModule, mappings: Sequence[QConfigMapping], backend: BackendConfig | None
) -> Iterator[_Layer]:
    """The layers of which there shall be copies, in graph order."""
    fused = fuse(traced)
    plans = [{step.node: step for step in annotate(fused, m, backend).steps} for m in mappings]
    chain_of = {chain[0]: chain for chain in chains(traced).values()}
    relations = Relations.of(None, None)
    for node in traced.graph.nodes:
        if relations.passes_over(traced, node):
            continue
        steps = [plan.get(node.name) for plan in plans]
        nodes = chain_of.get(node, [node])
        if not all(map(_gives_tensor, (nodes[-1], *node.all_input_nodes))):
            continue
        qconfigs = [s.requested if s is not None and s.row is not None else None for s in steps]
        if any(qconfig is not None for qconfig in qconfigs):
            yield _Layer(nodes, qconfigs)


def _gives_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("dtype"), torch.dtype)


def _add_shadows(
    wiring: Wiring, index: int, layer: _Layer, prepare: Callable[..., nn.Module]
) -> None:
    first, last = layer.nodes[0], layer.nodes[-1]

    def put(name: str, module: nn.Module, *args: fx.Node) -> fx.Node:
        wiring.module.add_submodule(name, module)
        return wiring.create("call_module", name, name, args, last)

    def logger(kind: type[OutputLogger], number: int, qconfig: str) -> OutputLogger:
        made = kind(
            ref_node_name=first.name,
            prev_node_name=last.name,
            model_name=f"subgraph_{index}_{number}",
            ref_name=_MODEL,
            prev_node_target_type=target_name(wiring.module, last),
            ref_node_target_type=target_name(wiring.module, first),
            results_type=Values.NODE_OUTPUT.value,
            index_within_arg=0,
            index_of_arg=0,
            fqn=first.meta.get("path"),
            qconfig_str=qconfig,
        )
        made.enabled = False  # what passes during calibration is compared with itself
        return made

    put(f"shadow_{index}_0", logger(OutputLogger, 0, ""), last)
    for number, qconfig in enumerate(layer.qconfigs, 1):
        if qconfig is None:
            continue
        mapping = QConfigMapping().set_global(qconfig)
        shadow = prepare(_alone(wiring.module, layer.nodes), mapping, _examples(wiring, first))
        copied = put(f"{_WRAPPER}{index}_{number}", shadow, *first.all_input_nodes)
        compare = logger(OutputComparisonLogger, number, str(qconfig))
        put(f"shadow_{index}_{number}", compare, copied, last)


def _examples(wiring: Wiring, node: fx.Node) -> tuple[Tensor, ...]:
    """Inputs of the shapes and types that an operator reads."""
    device = device_of(wiring.module)
    metas = (given.meta for given in node.all_input_nodes)
    return tuple(torch.zeros(m["shape"], dtype=m["dtype"], device=device) for m in metas)


def _alone(graph_module: fx.GraphModule, nodes: list[fx.Node]) -> fx.GraphModule:
    """A copy of an operator as a model of its own."""
    graph = fx.Graph()
    copies = {given: graph.placeholder(given.name) for given in nodes[0].all_input_nodes}
    modules: dict[str, Any] = {}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op == "call_module":
            modules[str(node.target)] = copy.deepcopy(graph_module.get_submodule(str(node.target)))
    graph.output(copies[nodes[-1]])
    return fx.GraphModule(modules, graph).eval()


def convert_n_shadows_model(
    model: fx.GraphModule,
    custom_convert_fn: Callable[..., nn.Module] | None = None,
    custom_convert_kwargs: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Converts the copies in a model of `prepare_n_shadows_model`, in place.

    Args:
        model: Calibrated.
        custom_convert_fn: Converts a copy in place of `convert_fx`.
        custom_convert_kwargs: Its further arguments.

    Returns:
        The model.

    Raises:
        ArgumentError: It has no copies of layers.
        UncalibratedError: No data was run through it; it stays as it was.
    """
    checks.model("convert_n_shadows_model", model)
    shadows = {n: module for n, module in model.named_children() if n.startswith(_WRAPPER)}
    if not shadows:
        raise ArgumentError(
            "convert_n_shadows_model: the model has no copies of layers",
            expected="what prepare_n_shadows_model returned",
            received=type(model).__name__,
        )
    convert: Any = convert_fx if custom_convert_fn is None else custom_convert_fn
    converted = {}
    for name, shadow in shadows.items():
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "convert_fx: no calibration data")  # raised below
                converted[name] = convert(shadow, **(custom_convert_kwargs or {}))
        except QlabError as error:
            raise type(error)(f"convert_n_shadows_model, {name}: {error}") from error
        if convert is convert_fx and is_uncalibrated(converted[name]):
            raise UncalibratedError(
                f"convert_n_shadows_model, {name}: no data was run through it",
                fix="Run calibration data through the model before converting.",
            )
    for name, shadow in converted.items():
        model.add_submodule(name, shadow)
    return model


def extract_results_n_shadows_model(model: nn.Module) -> NSResultsType:
    """What the loggers of a model of `prepare_n_shadows_model` kept.

    Returns:
        ``results["model"]["node_output"]["subgraph_<layer>_<n>"]``, a list of one result; n = 0 is
        the float layer, the others have ``comparisons`` with it, SQNR in dB, one per call.

    Raises:
        ArgumentError: The model has no loggers.
        UncalibratedError: None of them has kept anything.
    """
    results: NSResultsType = {}
    logged("extract_results_n_shadows_model", model, OutputLogger, results)
    return results


def comparisons_frame(results: NSResultsType) -> pd.DataFrame:
    """The means of all comparisons, one row per layer.

    Args:
        results: From `extract_results_n_shadows_model`.

    Returns:
        Columns ``node_name``, ``node_type``, ``fqn`` and per qconfig its number, from 0: the mean
        SQNR in dB over all calls; NaN where a layer was not quantized so.

    Raises:
        ArgumentError: Results of something else.
    """
    expected = "what extract_results_n_shadows_model returned"
    check_type("print_comparisons_n_shadows_model", "results", results, Mapping, expected)
    by_type = results.get(_MODEL, {})
    if not by_type:
        raise ArgumentError(
            "These are no results of a model with copies of its layers",
            expected="what extract_results_n_shadows_model returned",
            received=f"results of {', '.join(map(repr, results)) or 'nothing'}",
        )
    rows: dict[int, dict[Any, Any]] = {}
    for by_subgraph in by_type.values():
        for name, (result, *_) in by_subgraph.items():
            layer, number = map(int, name.split("_")[1:])
            row = rows.setdefault(layer, {})
            if number == 0:
                row["node_name"] = result["ref_node_name"]
                row["node_type"] = result["ref_node_target_type"]
                row["fqn"] = result["fqn"]
            elif result["comparisons"]:
                row[number - 1] = torch.stack(result["comparisons"]).mean().item()
    numbers = sorted({column for row in rows.values() for column in row if column not in _WORDS})
    ordered = [rows[layer] for layer in sorted(rows)]
    return pd.DataFrame(ordered, columns=[*_WORDS, *numbers])


def print_comparisons_n_shadows_model(results: NSResultsType) -> None:
    """Prints `comparisons_frame` of results.

    Raises:
        ArgumentError: Results of something else.
    """
    print(comparisons_frame(results).to_string(index=False, float_format="%.4f"))
