"""Whether a module's static form can follow a qconfig, and why not: asked before calibration."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations as type_of

from qlab import registry
from qlab.errors import QlabError
from qlab.granularity import PerTensor
from qlab.nn.quantized import Embedding, EmbeddingBag
from qlab.nn.quantized.base import Output, QuantizedModule
from qlab.observers import RecordingObserver
from qlab.registry.asked import asked_by

_TABLE = (
    "every row of a table needs a scale and a real zero point "
    "(float_qparams_weight_only_qconfig), so it stays in float"
)


def why_unsuited(module: nn.Module, qconfig: Any) -> str | None:
    """Why the static form of a module cannot follow a qconfig, in words; None if it can.

    Args:
        module: A float, fused or quantization-aware module.
        qconfig: Its qconfig. One that records values, for debugging, is not meant to be converted.
    """
    row = registry.row_for_module(type_of(module))
    static = None if row is None else row.static
    if static is None or not issubclass(static, QuantizedModule):
        return None
    try:
        activation, weight = asked_by(qconfig.activation), asked_by(qconfig.weight)
    except QlabError as error:
        return str(error).rstrip(".")
    if _records(qconfig.activation):
        return None
    if issubclass(static, Embedding | EmbeddingBag):
        rows = weight.spec is not None and weight.spec.float_zero_point
        return None if rows else _TABLE
    if activation.dynamic and not (row and type_of(module) is row.qat_dynamic):
        return "its activation is to be quantized anew in every call: quantize_dynamic does that"
    if activation.spec is None and static.output_of is Output.OWN:
        return "it gives codes, and the activation is left in float"
    if activation.spec is not None and not isinstance(activation.spec.granularity, PerTensor):
        return "an activation has one scale for the whole tensor"
    if static.has_weight and weight.spec is None:
        return "its weight becomes codes, and the weight is left in float"
    return None


def is_unsuited_table(module: nn.Module, made: Any) -> bool:
    """Whether an embedding is left in float, because of what `why_unsuited` says.

    Args:
        module: With a qconfig.
        made: The class that the workflow makes of it.
    """
    table = isinstance(made, type) and issubclass(made, Embedding)
    return table and why_unsuited(module, getattr(module, "qconfig", None)) == _TABLE


def _records(factory: Any) -> bool:
    return factory is not None and isinstance(factory(), RecordingObserver)
