"""The weights of two state dicts, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qlab.analysis.suite.modules import matching_path
from qlab.dtypes import as_qdtype
from qlab.errors import ArgumentError, check_type
from qlab.granularity import granularities_of
from qlab.qparams import QParams
from qlab.qtensor import QTensor

_CODES = "weight_codes"


def compare_weights(
    float_dict: Mapping[str, Any], quantized_dict: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The weights of a float model beside those of the quantized model made of it.

    A batch norm is folded into the quantized weight: compare with the state dict of the fused
    model. Where a square weight could have its scales along either axis, the axis counts that
    restores the float weight better, since a state dict does not say.

    Args:
        float_dict: State dict of the float model.
        quantized_dict: State dict of the quantized model, static or dynamic.

    Returns:
        ``"<path>.weight"`` (``"<path>.weight_ih_l0"``, … of recurrent layers) →
        ``{"float": tensor, "quantized": QTensor}``; a float tensor where the weight stayed float
        or is stored as float16.

    Raises:
        ArgumentError: The state dicts have no weight in common.
    """
    for given in (float_dict, quantized_dict):
        check_type("compare_weights", "a state dict", given, Mapping, "model.state_dict()")
    found = {}
    for key, value in quantized_dict.items():
        path, _, last = key.rpartition(".")
        start = f"{path}." if path else ""
        if last == "weight":
            name, match = key, matching_path(start, float_dict, "weight")
            quantized = value
        elif last == _CODES:
            name, match = _float_name(start, float_dict)
            quantized = None if match is None else _weight(start, quantized_dict, float_dict[match])
        else:
            continue
        if match is not None:
            found[name] = {"float": float_dict[match], "quantized": quantized}
    if not found:
        some = [*list(float_dict)[:2], *list(quantized_dict)[:2]]
        raise ArgumentError(
            "compare_weights: the state dicts have no weight in common",
            expected="those of a float model and of the quantized model made of it",
            received=f"keys such as {', '.join(some)}",
        )
    return found


def _float_name(start: str, float_dict: Mapping[str, Any]) -> tuple[str, str | None]:
    """What a quantized weight is called in the results, and its key in the float state dict."""
    around, _, product = start.removesuffix(".").rpartition(".")
    recurrent = f"{around}.weight_{product}" if around else f"weight_{product}"
    if recurrent in float_dict:
        return recurrent, recurrent
    return f"{start}weight", matching_path(start, float_dict, "weight")


def _weight(start: str, quantized_dict: Mapping[str, Any], reference: Tensor) -> Tensor:
    codes: Tensor = quantized_dict[start + _CODES]
    scale = quantized_dict.get(f"{start}weight_scale")
    if scale is None:
        return codes.float()
    zero_point = quantized_dict[f"{start}weight_zero_point"]
    candidates = [
        QTensor(codes, QParams(scale, zero_point, as_qdtype(codes.dtype), granularity))
        for granularity in granularities_of(tuple(codes.shape), tuple(scale.shape))
    ]
    if reference.shape != codes.shape or len(candidates) == 1:
        return candidates[0]
    reference = reference.to(codes.device)
    return min(candidates, key=lambda weight: float((weight.dequantize() - reference).norm()))
