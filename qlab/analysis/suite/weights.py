"""The weights of two forms of a model, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qlab import registry
from qlab.analysis.suite.matching import matched
from qlab.analysis.suite.reading import module_of, target_name
from qlab.analysis.suite.results import rekeyed
from qlab.analysis.suite.types import (
    NSResultsType,
    NSSingleResultType,
    NSSubgraph,
    TargetSets,
    Values,
)
from qlab.errors import UnsupportedError
from qlab.nn.intrinsic.fold import fold_batch_norm
from qlab.nn.quantized.dynamic.recurrent import RecurrentModule
from qlab.nn.quantized.weight import WeightModule
from qlab.nn.quantized.weighted import WeightedModule

Weight = Tensor | list[Tensor]
#: By ``"call_module"`` and ``"call_function"``: class → function of a module, function → function
#: of a node and its graph.
Extractors = dict[str, dict[Callable[..., Any], Callable[..., Any]]]


def extract_weights(
    model_name_a: str,
    model_a: nn.Module,
    model_name_b: str,
    model_b: nn.Module,
    base_name_to_sets_of_related_ops: TargetSets | None = None,
    unmatchable_types_map: TargetSets | None = None,
    op_to_type_to_weight_extraction_fn: Extractors | None = None,
) -> NSResultsType:
    """The weights of every layer that two models share.

    Of a float layer the weight that is quantized: a batch norm behind it is folded in.

    Args:
        model_name_a: What the results call the first model.
        model_a: A form of a model: float, prepared, trained or converted. It stays as it is.
        model_name_b: What they call the second.
        model_b: Another form of it.
        base_name_to_sets_of_related_ops: See `get_matching_subgraph_pairs`.
        unmatchable_types_map: Likewise.
        op_to_type_to_weight_extraction_fn: How to get the weights of modules and functions, in
            place of the registry's way.

    Returns:
        ``results[layer]["weight"][model name]``, a list of one result, whose ``values`` hold the
        weight; for recurrent layers a list of weights. Quantized weights are `QTensor`. Layers are
        called as in model b.

    Raises:
        GraphMatchingException: The models do not correspond.
        ArgumentError: Both have one name.
        TraceError: A model has no single graph.
    """
    graphs, pairs = matched(
        "extract_weights",
        (model_name_a, model_a),
        (model_name_b, model_b),
        base_name_to_sets_of_related_ops,
        unmatchable_types_map,
    )
    results: NSResultsType = {}
    for ref_name, pair in pairs.items():
        for name, graph, subgraph in zip((model_name_a, model_name_b), graphs, pair, strict=True):
            weight = _weight_of(graph, subgraph, op_to_type_to_weight_extraction_fn)
            if weight is not None:
                entry = results.setdefault(ref_name, {Values.WEIGHT.value: {}})
                result = _result(graph, subgraph.base_op_node, weight)
                entry[Values.WEIGHT.value][name] = [result]
    return rekeyed(results, model_name_b)


def _result(graph: fx.GraphModule, node: fx.Node, weight: Weight) -> NSSingleResultType:
    kind = target_name(graph, node)
    return {
        "type": Values.WEIGHT.value,
        "values": [weight],
        "prev_node_name": node.name,
        "prev_node_target_type": kind,
        "ref_node_name": node.name,
        "ref_node_target_type": kind,
        "index_within_arg": 0,
        "index_of_arg": 0,
        "fqn": node.meta.get("path"),
    }


def _weight_of(
    graph: fx.GraphModule, subgraph: NSSubgraph, extractors: Extractors | None
) -> Weight | None:
    node = subgraph.base_op_node
    module = module_of(graph, node)
    if extractors is not None:
        if module is None:
            extract = extractors.get("call_function", {}).get(node.target)  # pyright: ignore[reportArgumentType, reportCallIssue]
            return None if extract is None else extract(node, graph)
        extract = extractors.get("call_module", {}).get(type(module))
        return None if extract is None else extract(module)
    if module is None:
        return None
    norm = module_of(graph, next(iter(node.users))) if subgraph.end_node is not node else None
    if isinstance(norm, _BatchNorm) and not isinstance(module, _BatchNorm):
        try:
            module = fold_batch_norm(module, norm)
        except UnsupportedError:  # without running statistics it stays a layer of its own
            return weight_of(module)
    return weight_of(module)


def weight_of(module: nn.Module) -> Weight | None:
    """The weight of a layer that the registry quantizes; None where it has none.

    Args:
        module: In any form.

    Returns:
        Float32 with batch norm folded in, or a `QTensor`; of recurrent layers a list of the
        products' weights, layer by layer, that of the input before that of the state.
    """
    if isinstance(module, RecurrentModule):
        return list(module.get_weight().values())
    if isinstance(module, WeightedModule):
        return module.weight()
    if isinstance(module, WeightModule):
        return module.quantized_weight
    row = registry.row_for_module(type(module))
    if row is None:
        return None
    if row.weight and row.static is not None:
        return row.static.weight_of(module)
    if row.dynamic is not None and issubclass(row.dynamic, RecurrentModule):
        named = module.named_parameters(recurse=False)
        return [value.detach() for name, value in named if name.startswith("weight_")]
    return None
