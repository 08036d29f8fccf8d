"""Graph workflow: trace → fuse → annotate → prepare → convert, one file per pass."""

from qlab.graph.annotate import annotate
from qlab.graph.attributes import attach_preserved_attrs_to_model
from qlab.graph.convert import convert
from qlab.graph.fuse import fuse
from qlab.graph.plan import Plan, Step, Value
from qlab.graph.prepare import prepare
from qlab.graph.trace import trace
from qlab.graph.workflow import (
    as_mapping,
    convert_fx,
    convert_to_reference_fx,
    fuse_fx,
    prepare_fx,
    prepare_qat_fx,
)

__all__ = [
    "Plan",
    "Step",
    "Value",
    "annotate",
    "as_mapping",
    "attach_preserved_attrs_to_model",
    "convert",
    "convert_fx",
    "convert_to_reference_fx",
    "fuse",
    "fuse_fx",
    "prepare",
    "prepare_fx",
    "prepare_qat_fx",
    "trace",
]
