"""The reference form of a float module: its layer computes with a quantized weight."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qlab.granularity import per_tensor_affine
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic import FusedModule
from qlab.nn.intrinsic.fold import core
from qlab.registry.rows import Row

#: A weight that is rounded to float16, as a reference module takes it.
HALF_WEIGHT: Mapping[str, Any] = {"qscheme": per_tensor_affine, "dtype": torch.float16}


def reference_form(row: Row, module: nn.Module, weight_qparams: Mapping[str, Any]) -> nn.Module:
    """The reference module of a float, fused or quantization-aware one, in evaluation mode.

    Args:
        row: The module's row, which has a reference class.
        module: The module; batch norm is folded in.
        weight_qparams: How its weight is quantized.

    Returns:
        A module of the row's reference class; for a row that fuses an activation its fused class,
        with that module in it.
    """
    reference: Any = row.reference
    layer = reference.from_float(core(module), weight_qparams).eval()
    fused = row.modules[0]
    if not issubclass(fused, FusedModule):
        return layer
    source: Any = module.to_float() if isinstance(module, QuantizationAware) else module
    return fused(layer, *map(copy.copy, source.behind)).eval()
