"""What an operator could do with quantized numbers, seen alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import fx

from qlab.graph.requests import Request
from qlab.graph.special import STANDALONE
from qlab.registry.asked import Asked
from qlab.registry.quant_type import QuantType, kind_of


class Role(Enum):
    """What an operator does with quantized numbers."""

    NONE = "no tensor of real numbers"
    FLOAT = "computes in float"
    WEIGHT = "computes in float with a quantized weight"
    HALF = "computes in float and rounds its weight and output to float16"
    DYNAMIC = "quantizes its input as it comes and gives real numbers"
    CUSTOM = "a custom module that takes and gives real numbers"
    CODES = "takes codes and gives codes"
    SHARED = "passes on what comes"


@dataclass(frozen=True)
class Verdict:
    """A role, and in words why it is not another one."""

    role: Role
    reason: str = ""


def of_special(node: fx.Node, request: Request) -> Verdict:
    """The verdict on a custom module, or on one that is quantized on its own."""
    offered = node.meta["special"]
    if offered == STANDALONE:
        return Verdict(Role.FLOAT, "a standalone module: it is quantized on its own")
    if request.qconfig is None:
        return Verdict(Role.FLOAT, request.why_float)
    kind = kind_of(Asked(request.activation, request.dynamic))
    if kind not in offered:
        return Verdict(Role.FLOAT, f"a custom module without a {kind.name.lower()} form")
    if kind is QuantType.STATIC:
        return Verdict(Role.CODES, "a custom module: codes in, codes out")
    return Verdict(Role.CUSTOM, f"a custom module, {kind.name.lower()}: real numbers in and out")
