"""Everything public takes the calls that the reference takes: same names, order and defaults."""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from typing import Any

import pytest
import torch

from tests.golden.signatures import recorded, refusals

CALLS = recorded()
_RNN = r"nn\.quantized\.dynamic\.(LSTM|GRU|RNNCell|LSTMCell|GRUCell)"
_STEPS = r"(check_|forward_|permute_|get_expected_).*"
#: Path, call, what is refused there → why it is so.
EXCEPTIONS = {
    (r"nn\..*", "from_reference", ".*"): (
        "has its arguments by place; in each class the reference has other names for them"
    ),
    (r"nn\.quantized\.reference\..*", "from_float", r"float_.*|mod: required"): (
        "likewise: the layer comes first"
    ),
    (r"nn\..*", "get_qconv", "no such method"): "a step of the reference's from_float",
    (_RNN, _STEPS, "no such method"): "a step of the reference's forward",
    (r"quantization\.qconfig.*", "__call__", "backend: 'onednn' instead of 'x86'"): (
        "qlab computes what the reference's engine onednn does: eight bits, none kept back"
    ),
    (r"quantization\.observer\.FixedQParamsObserver", "__init__", "quant_m.*: None .*"): (
        "0 and 255 for quint8 as there; other types have their own, which 0 and 255 do not fit"
    ),
    (r"quantization\.observer\.HistogramObserver", "reset_histogram", "no such method"): (
        "the bins are fixed"
    ),
    (r".*\.(UniformQuantizationObserverBase|FakeQuantizeBase)", "forward", ".*"): (
        "abstract there; it has the name that its subclasses have"
    ),
    (r"quantization\.quantize_fx\.ObservedGraphModule", "__init__", ".*"): (
        "for isinstance: prepare_fx makes such models"
    ),
    ("dequantize", "__call__", ".*tensors.*|input.*"): "takes any number, or one sequence",
}
#: Names of torch 2.13 that qlab has not, by why; docs/migrating.md says what to use.
ABSENT = {
    "pt2e and torchao": {
        f"observer.{name}"
        for name in (
            *("AffineQuantizedObserverBase", "Granularity", "MappingType", "PerAxis", "PerBlock"),
            *("PerGroup", "PerRow", "PerTensor", "PerToken", "TorchAODType", "ZeroPointDomain"),
            "get_block_size",
        )
    },
    "sparse modules": {
        "quantization_mappings.get_default_dynamic_sparse_quant_module_mappings",
        "quantization_mappings.get_default_static_sparse_quant_module_mappings",
    },
    "steps inside the reference's graph workflow": {
        *("quantize_fx.convert", "quantize_fx.fuse", "quantize_fx.prepare"),
        *("quantize_fx.ScopeContextManager", "utils.check_node"),
    },
    "patterns nested in patterns": {"fuser_method_mappings.MatchAllNode"},
}


def resolved(path: str) -> Any:
    """The object of qlab's at a path below ``qlab``."""
    parts = ["qlab", *path.split(".")]
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AttributeError(path)


def refused(owner: Any, call: str, theirs: list[list[Any]]) -> list[str]:
    """What one call of qlab's does not take."""
    function = owner if call in ("__call__", "__init__") else getattr(owner, call, None)
    if function is None:
        return ["no such method"]
    name = getattr(function, "__name__", "")
    if function is getattr(torch.Tensor, name, None):
        return []  # torch's own: it hands to QTensor what it was given
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    raw = inspect.getattr_static(owner, call, None) if call != "__init__" else None
    if inspect.isfunction(raw) or (parameters and parameters[0].name == "self"):
        signature = signature.replace(parameters=parameters[1:])
    documented = function.__init__ if inspect.isclass(function) else function
    return refusals(theirs, signature, typing.get_type_hints(documented))


def absent(path: str) -> bool:
    """Whether qlab has not got it, on purpose."""
    return path.removeprefix("quantization.") in set().union(*ABSENT.values())


def excused(path: str, call: str, refusal: str) -> bool:
    """Whether an exception covers it."""
    parts = (path, call, refusal)
    return any(
        all(re.fullmatch(p, part) for p, part in zip(patterns, parts, strict=True))
        for patterns in EXCEPTIONS
    )


@pytest.mark.parametrize("path", CALLS)
def test_it_takes_the_references_calls(path: str):
    if absent(path):
        with pytest.raises(AttributeError):
            resolved(path)
        return
    owner = resolved(path)
    found = {
        call: [r for r in refused(owner, call, theirs) if not excused(path, call, r)]
        for call, theirs in CALLS[path].items()
    }
    assert {call: refusal for call, refusal in found.items() if refusal} == {}


def test_every_exception_is_needed():
    used = {
        patterns
        for path, calls in CALLS.items()
        if not absent(path)
        for call, theirs in calls.items()
        for refusal in refused(resolved(path), call, theirs)
        for patterns in EXCEPTIONS
        if all(re.fullmatch(p, x) for p, x in zip(patterns, (path, call, refusal), strict=True))
    }
    assert used == set(EXCEPTIONS)


def test_other_names_order_and_defaults_are_noticed():
    theirs = [["a", "p"], ["b", "p", 1], ["c", "k", None]]

    def swapped(b: int, a: int = 1, c: None = None) -> None: ...
    def other(a: int, b: int = 2, *, c: None = None, d: int) -> None: ...
    def keyword(a: int, **options: int) -> None: ...

    def found(function: Any) -> list[str]:
        return refusals(theirs, inspect.signature(function), {})

    assert found(swapped)[:2] == ["a: argument 1 is b", "b: argument 2 is a"]
    assert found(other) == ["b: 2 instead of 1", "d: required"]
    assert found(keyword) == ["b: argument 2 is nothing"]
