"""What the results of the numeric suite are made of."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from torch import fx

from qlab.registry.relations import Target

NSNodeTargetType = Target


class NSSingleResultValuesType(enum.StrEnum):
    """What the values of a result are."""

    WEIGHT = "weight"
    NODE_OUTPUT = "node_output"
    NODE_INPUT = "node_input"


class NSSubgraph(NamedTuple):
    """An operator of a graph with what belongs to it.

    Attributes:
        start_node: Takes the operator's inputs.
        end_node: Gives its output: the last layer of a chain that is quantized as one, or the
            observer behind it.
        base_op_node: The layer that says what it is: in conv + batch norm + ReLU the convolution.
    """

    start_node: fx.Node
    end_node: fx.Node
    base_op_node: fx.Node


#: One tensor of one model: ``type`` (see `NSSingleResultValuesType`), ``values``,
#: ``prev_node_name`` and ``prev_node_target_type`` (which node gives the values),
#: ``ref_node_name`` and ``ref_node_target_type`` (which operator they belong to),
#: ``index_of_arg`` and ``index_within_arg`` (which of its inputs), ``fqn`` (module path),
#: ``qconfig_str``, ``comparisons`` and ``comparison_fn_name``.
NSSingleResultType = dict[str, Any]

#: Layer → type of values → model → results.
NSResultsType = dict[str, dict[str, dict[str, list[NSSingleResultType]]]]

#: The names of `qlab.registry.relations.Target` sets, or of sets that are passed over.
TargetSets = dict[str, set[NSNodeTargetType]]

Values = NSSingleResultValuesType
