"""What the reference may be called with, and whether a signature of qlab's takes the same calls."""

from __future__ import annotations

import inspect
import json
import typing
from pathlib import Path
from typing import Any

from qlab.dtypes import QDType
from qlab.granularity import QScheme

PATH = Path(__file__).with_name("signatures.json")
KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "/",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "p",
    inspect.Parameter.KEYWORD_ONLY: "k",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_NN = ("intrinsic", "intrinsic.qat", "intrinsic.quantized", "intrinsic.quantized.dynamic", "qat",
       "qat.dynamic", "quantizable", "quantized", "quantized.dynamic", "quantized.functional",
       "quantized.reference")  # fmt: skip
_QUANTIZATION = ("backend_config", "observer", "fake_quantize", "fuse_modules",
                 "fuser_method_mappings", "fx.custom_config", "qconfig", "qconfig_mapping",
                 "quantization_mappings", "quantize", "quantize_fx", "stubs", "utils")  # fmt: skip
#: Modules below ``torch.ao`` and below ``qlab`` whose names are compared, beside the listed ones.
MODULES = (
    *(f"nn.{name}" for name in _NN),
    *(f"quantization.{name}" for name in _QUANTIZATION),
    "quantization",
)


def recorded() -> dict[str, dict[str, list[list[Any]]]]:
    """Path → call (``__init__``, ``__call__`` or a method) → the reference's parameters."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def plain(value: Any) -> Any:
    """A default as the file writes it; data types and schemes by name."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, QDType):
        return {"named": value.name}
    if isinstance(value, QScheme):
        return {"named": value.value}
    named = str(value)
    return {"named": named.removeprefix("torch.")} if named.startswith("torch.") else value


def refusals(theirs: list[list[Any]], ours: inspect.Signature, hints: dict[str, Any]) -> list[str]:
    """Which calls that the reference takes are not taken, or mean something else.

    Args:
        theirs: The reference's parameters.
        ours: The signature of qlab's.
        hints: The annotations, for the names that ``**options: Unpack[...]`` takes.
    """
    parameters = list(ours.parameters.values())
    ordered = [p for p in parameters if KINDS[p.kind] in "/p"]
    named = {p.name: p for p in parameters if KINDS[p.kind] in "pk"}
    any_number = any(KINDS[p.kind] == "*" for p in parameters)
    options = next((p.name for p in parameters if KINDS[p.kind] == "**"), None)
    typed = typing.get_args(hints.get(options or "")) or (None,)
    allowed = getattr(typed[0], "__annotations__", None)
    found = []
    for at, (name, kind, *default) in enumerate(theirs):
        if kind.startswith("*"):
            continue
        by_place = ordered[at] if at < len(ordered) else None
        if kind != "k" and not any_number and (by_place is None or by_place.name != name):
            where = by_place.name if by_place else "nothing"
            found.append(f"{name}: argument {at + 1} is {where}")
        takes = options is not None and (allowed is None or name in allowed)
        if kind != "/" and name not in named and not takes:
            found.append(f"{name}: no such keyword")
        own = named.get(name)
        if own is not None and default and _differs(own.default, default[0]):
            found.append(f"{name}: {own.default!r} instead of {default[0]!r}")
    if any(kind.startswith("*") for _, kind, *_ in theirs):
        return found
    known = {name for name, *_ in theirs}
    found += [
        f"{p.name}: required"
        for p in parameters
        if p.name not in known and p.default is p.empty and KINDS[p.kind] in "/pk"
    ]
    return found


def _differs(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, dict) and "other" in theirs:
        return ours is inspect.Parameter.empty
    return ours is inspect.Parameter.empty or plain(ours) != theirs
