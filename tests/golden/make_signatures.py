"""Makes `signatures.json`: what every public name of torch 2.13's quantization may be called with.

Never run by the suite: ``python -m tests.golden.make_signatures``. The file maps a path below
``torch.ao`` (or ``torch.``, ``Tensor.``) to the signatures found there: a class has that of its
constructor and of every public method, a function its own. A parameter is ``[name, kind]`` or
``[name, kind, default]`` with the kinds of `tests.golden.signatures`.
"""

import enum
import importlib
import inspect
import json
import warnings
from typing import Any

import torch

from qlab.coverage import names
from tests.golden.signatures import KINDS, MODULES, PATH

Signature = list[list[Any]]
PRIVATE = importlib.import_module("torch.ao.quantization.quantize")
"""Where torch 2.13 has, as private ones, names of the documentation."""


def default(value: Any) -> Any:
    """A default as JSON: itself where it is a plain value, else what it is called."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [default(item) for item in value]
    if isinstance(value, (torch.dtype, torch.qscheme)):
        return {"named": str(value).removeprefix("torch.")}
    if isinstance(value, enum.Enum):
        return {"named": value.name}
    return {"other": getattr(value, "__name__", type(value).__name__)}


def written(function: Any) -> Signature | None:
    """A signature without its ``self``; None where Python knows none."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return [
        [p.name, KINDS[p.kind], *([] if p.default is p.empty else [default(p.default)])]
        for p in found.parameters.values()
    ]


def schema(name: str) -> Signature | None:
    """The signature of an operator that Python knows none of: that of its first overload."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return None
    overload = getattr(packet, packet.overloads()[0])
    return [
        [
            a.name,
            "k" if a.kwarg_only else "p",
            *([default(a.default_value)] * a.has_default_value()),
        ]
        for a in overload._schema.arguments
        if a.name not in ("self", "out")
    ]


def methods(kind: type) -> dict[str, Signature]:
    """The constructor and the public methods that a class of the quantization API brings."""
    found: dict[str, Signature] = {}
    if (own := written(kind)) is not None:
        found["__init__"] = own
    for name in dir(kind):
        home = next((base for base in kind.__mro__ if name in vars(base)), object)
        if name.startswith("_") or not home.__module__.startswith("torch.ao"):
            continue
        raw = inspect.getattr_static(kind, name)
        if not isinstance(raw, classmethod | staticmethod) and not inspect.isfunction(raw):
            continue
        found_here = written(getattr(kind, name))
        if found_here is not None:
            found[name] = found_here[inspect.isfunction(raw) :]
    return found


def described(thing: Any) -> dict[str, Signature] | None:
    """What may be called on an object of the reference."""
    if inspect.isclass(thing):
        return methods(thing)
    own = written(thing) if inspect.isfunction(thing) else None
    return None if own is None else {"__call__": own}


def listed() -> dict[str, dict[str, Signature] | None]:
    """The 201 names, by the path that qlab gives them."""
    found: dict[str, dict[str, Signature] | None] = {}
    for name in names():
        place, _, last = name.reference.rpartition(".")
        if place in ("torch", "torch.Tensor"):
            own = schema(last)
            if own is not None and place == "torch" and last != "quantized_batch_norm":
                own = [["input", "p"], *own]
            found[name.path.removeprefix("qlab.")] = None if own is None else {"__call__": own}
            continue
        owner = importlib.import_module(place.replace("torch.", "torch.ao.", 1))
        thing = getattr(owner, last, None) or getattr(PRIVATE, f"_{last}")
        found[name.path.removeprefix("qlab.")] = described(thing)
    return found


def further() -> dict[str, dict[str, Signature] | None]:
    """What else the modules of the reference define for the public, each once."""
    found: dict[str, dict[str, Signature] | None] = {}
    seen: set[int] = set()
    for module in MODULES:
        home = importlib.import_module(f"torch.ao.{module}")
        for name in dir(home):
            thing = getattr(home, name)
            theirs = str(getattr(thing, "__module__", "")).startswith("torch.ao")
            if not name.startswith("_") and theirs and callable(thing) and id(thing) not in seen:
                seen.add(id(thing))
                found[f"{module}.{name}"] = described(thing)
    return found


def main() -> None:
    """Writes the file."""
    warnings.simplefilter("ignore")
    found = {path: calls for path, calls in (further() | listed()).items() if calls}
    text = {path: found[path] for path in sorted(found)}
    lines = ",\n".join(f"{json.dumps(path)}: {json.dumps(calls)}" for path, calls in text.items())
    PATH.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"{len(found)} names, {sum(map(len, found.values()))} signatures")


if __name__ == "__main__":
    main()
