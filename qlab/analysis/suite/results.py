"""What loggers kept, as the nested dictionaries of the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from qlab.analysis.suite.types import NSResultsType, NSSingleResultType
from qlab.errors import (
    ArgumentError,
    UncalibratedError,
    UnknownNameError,
    check_callable,
    check_type,
)
from qlab.ops import checks

_FIELDS = (
    "ref_node_name",
    "ref_node_target_type",
    "prev_node_name",
    "prev_node_target_type",
    "index_within_arg",
    "index_of_arg",
    "fqn",
    "qconfig_str",
)


def logged(caller: str, model: nn.Module, logger_cls: Any, results: NSResultsType) -> None:
    """Adds what the loggers of a model kept to results, by their ``ref_name``.

    Raises:
        ArgumentError: The model has no loggers.
        UncalibratedError: It has, and none of them was called.
    """
    checks.model(caller, model)
    check_type(caller, "logger_cls", logger_cls, type, "the class of the loggers")
    loggers: list[Any] = [module for module in model.modules() if isinstance(module, logger_cls)]
    if not loggers:
        raise ArgumentError(
            f"{caller}: the model has no loggers",
            expected=f"a model with {getattr(logger_cls, '__name__', logger_cls)} modules, as "
            "add_loggers, add_shadow_loggers or prepare_n_shadows_model return",
            received=type(model).__name__,
        )
    found = [_result(logger) for logger in loggers]
    if not any(result["values"] or result["comparisons"] for result in found):
        raise UncalibratedError(
            f"{caller}: no logger has kept anything yet",
            expected="a model that data was run through, with its loggers enabled",
            received=f"{len(loggers)} loggers without a value",
            fix="Call the model that carries the loggers first; it is a new one, the model "
            "given to add_loggers has none. Those of prepare_n_shadows_model are off until "
            "loggers_set_enabled(model, True).",
        )
    for logger, result in zip(loggers, found, strict=True):
        of_type = results.setdefault(logger.ref_name, {}).setdefault(logger.results_type, {})
        same = of_type.setdefault(logger.model_name, [])
        same.append(result)
        same.sort(key=lambda result: (result["index_of_arg"], result["index_within_arg"]))


def _result(logger: Any) -> NSSingleResultType:
    return {
        "type": logger.results_type,
        "values": getattr(logger, "stats_rnn", None) or logger.stats,
        **{name: getattr(logger, name) for name in _FIELDS},
        "comparisons": getattr(logger, "comparisons", []),
        "comparison_fn_name": getattr(logger, "comparison_fn_name", ""),
    }


def rekeyed(results: NSResultsType, model_name: str) -> NSResultsType:
    """The same results by the names that a model has for its layers.

    Raises:
        UnknownNameError: No result is of that model.
    """
    renamed: NSResultsType = {}
    models: set[str] = set()
    for ref_name, by_type in results.items():
        of_model = [by_model[model_name] for by_model in by_type.values() if model_name in by_model]
        models.update(*by_type.values())
        renamed[of_model[-1][0]["ref_node_name"] if of_model else ref_name] = by_type
    if models and model_name not in models:
        raise UnknownNameError.of("model", model_name, sorted(models))
    return renamed


def extract_logger_info(
    model_a: nn.Module, model_b: nn.Module, logger_cls: Any, model_name_to_use_for_layer_names: str
) -> NSResultsType:
    """What the loggers of two models kept.

    Args:
        model_a: The first model that `add_loggers` returned, after data was run through it.
        model_b: The second.
        logger_cls: The class of the loggers.
        model_name_to_use_for_layer_names: Name of the model whose names the layers get.

    Returns:
        ``results[layer]["node_output"][model name]``, a list of results; ``"node_input"`` where
        inputs were logged. Their ``values`` hold one tensor per call, a `QTensor` where it is
        codes.

    Raises:
        ArgumentError: A model has no loggers.
        UncalibratedError: No data was run through one of them.
        UnknownNameError: No model has this name.
    """
    results: NSResultsType = {}
    for model in (model_a, model_b):
        logged("extract_logger_info", model, logger_cls, results)
    return rekeyed(results, model_name_to_use_for_layer_names)


def extract_shadow_logger_info(
    model_a_shadows_b: nn.Module, logger_cls: Any, model_name_to_use_for_layer_names: str
) -> NSResultsType:
    """What the loggers of a model with shadows kept; otherwise as `extract_logger_info`.

    Args:
        model_a_shadows_b: What `add_shadow_loggers` returned, after data was run through it.
        logger_cls: The class of the loggers.
        model_name_to_use_for_layer_names: Name of the model whose names the layers get.
    """
    results: NSResultsType = {}
    logged("extract_shadow_logger_info", model_a_shadows_b, logger_cls, results)
    return rekeyed(results, model_name_to_use_for_layer_names)


def extend_logger_results_with_comparison(
    results: NSResultsType,
    model_name_1: str,
    model_name_2: str,
    comparison_fn: Callable[[Any, Any], Any],
    comparison_name: str,
) -> None:
    """Compares the values of two models, in place.

    Args:
        results: From `extract_weights`, `extract_logger_info` or `extract_shadow_logger_info`.
        model_name_1: The reference.
        model_name_2: The model whose results get the comparison.
        comparison_fn: Takes a value of each model, such as `compute_sqnr`.
        comparison_name: The key under which each result gets a list of one number per value.

    Raises:
        UnknownNameError: A layer has no values of one of the models.
        ArgumentError: The models have values of different inputs.
    """
    caller = "extend_logger_results_with_comparison"
    check_callable(caller, "comparison_fn", comparison_fn)
    check_type(caller, "results", results, Mapping, "what extract_logger_info returned")
    for layer, by_type in results.items():
        check_type(caller, f"results of {layer!r}", by_type, Mapping, "values by type and model")
        for by_model in by_type.values():
            for name in (model_name_1, model_name_2):
                if name not in by_model:
                    raise UnknownNameError.of(f"model, for layer {layer!r},", name, by_model)
            references = {_place(result): result for result in by_model[model_name_1]}
            for result in by_model[model_name_2]:
                reference = references.get(_place(result))
                if reference is None:
                    raise ArgumentError(
                        f"The values of layer {layer!r} have nothing to be compared with",
                        expected=f"values of {model_name_1!r} for argument {_place(result)}",
                        received=f"values for arguments {sorted(references)}",
                    )
                result[comparison_name] = [
                    comparison_fn(a, b)
                    for a, b in zip(reference["values"], result["values"], strict=False)
                ]


def _place(result: NSSingleResultType) -> tuple[int, int]:
    return result["index_of_arg"], result["index_within_arg"]
