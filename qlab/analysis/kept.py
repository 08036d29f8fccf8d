"""A configuration with a layer left in float."""

from __future__ import annotations

from qlab.graph.plan import Step
from qlab.qconfig import QConfigMapping


def kept_in_float(mapping: QConfigMapping, step: Step) -> QConfigMapping:
    """A copy of a mapping that leaves one layer in float, whatever it said of it before."""
    kept = mapping.copy().set_module_name(step.name, None)
    for rule in mapping.rules():
        if rule.style == "module_name_object_type_order" and str(rule) == step.rule:
            scope, kind, index = rule.key
            kept.set_module_name_object_type_order(scope, kind, index, None)
    return kept
