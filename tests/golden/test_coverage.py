"""Every public name of the reference has a golden case that really exercises it.

What must have one is derived from the table of names and from what the packages of modules offer;
what has one from running or reading the committed cases, by the identity of the objects.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

import qlab
from qlab import quantization
from qlab.coverage import names
from qlab.quantization import quantize_fx
from qlab.registry import row_for_module
from tests.golden import (
    qat_cases,
    quantizable_cases,
    reference_cases,
    test_dynamic,
    test_modules,
    test_observers,
)
from tests.golden.dynamic_cases import CASES as DYNAMIC
from tests.golden.test_every_name import CASES as EVERY_NAME

PACKAGES = (
    *("quantized", "quantized.functional", "quantized.dynamic", "quantized.reference"),
    *("intrinsic", "intrinsic.quantized", "intrinsic.quantized.dynamic", "intrinsic.qat"),
    *("qat", "qat.dynamic", "quantizable"),
)
#: What only qlab has: the reference has no module of that name.
OWN = {
    *(f"Adaptive{kind}Pool{n}d" for kind in ("Avg", "Max") for n in (1, 2, 3)),
    *("AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool3d", "Mean", "MatMul"),
    *("Add", "AddScalar", "AddReLU", "Mul", "MulScalar", "Cat", "Stack", "Output", "Upsample"),
    *("GELU", "Hardsigmoid", "Hardtanh", "ReLU", "Tanh", "LinearReLU6", "LinearGELU"),
    *(f"Conv{n}dReLU6" for n in (1, 2, 3)),
    *("QuantizedModule", "FusedModule", "ReferenceQuantizedModule", "RNNBase", "RNNCellBase"),
    "get_quantized_weight",
}


def required() -> dict[str, Any]:
    """Every object that needs a golden case, by path."""
    found = {name.path: name.resolve() for name in names()}
    for package in PACKAGES:
        module = importlib.import_module(f"qlab.nn.{package}")
        offered = [name for name in module.__all__ if name not in OWN]
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in offered}
    for place in ("observer", "fake_quantize"):
        module = importlib.import_module(f"qlab.quantization.{place}")
        defaults = [name for name in dir(module) if name.startswith("default_")]
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in defaults}
    return found


def models() -> Iterator[nn.Module]:
    """The models that golden cases run: in training, observed, converted, in reference form."""
    for case in qat_cases.CASES:
        yield qat_cases.build(quantization, case)
    stubs = quantization.QuantStub, quantization.DeQuantStub
    for case in quantizable_cases.CASES:
        module = getattr(nn, case.kind)(*case.args, **case.kwargs).eval()
        model = quantizable_cases.Wrapped(module, *(make() for make in stubs)).eval()
        model.qconfig = quantization.default_qconfig
        prepared = quantization.prepare(model)
        prepared(torch.randn(case.shape))
        yield prepared
        yield quantization.convert(prepared)
    for case in reference_cases.CASES:
        if not case.half:
            mapping, x = case.mapping(quantization), case.inputs()[0]
            prepared = quantize_fx.prepare_fx(case.model().eval(), mapping, (x,))
            prepared(x)
            yield quantize_fx.convert_to_reference_fx(prepared)


def named() -> Iterator[Any]:
    """What cases name."""
    for case in test_modules.CASES:
        places = [test_modules.nnq, test_modules.nniq, test_modules.qF]
        name = case["name"]
        if case["kind"] == "top":
            yield getattr(qlab, name)
        yield from (getattr(place, name) for place in places if hasattr(place, name))
    for case in DYNAMIC:
        row = row_for_module(type(test_dynamic.floating(case)))
        assert row is not None
        yield row.dynamic
    for name, _ in test_observers.CASES:
        yield getattr(quantization, name)


@cache
def exercised() -> tuple[dict[int, Any], set[str]]:
    """Objects by identity, and paths."""
    kinds = {id(type(module)): type(module) for model in models() for module in model.modules()}
    paths = {f"qlab.{path}" for path in EVERY_NAME}
    paths |= {f"qlab.quantization.fake_quantize.{name}" for name in test_observers.FAKE}
    return kinds | {id(kind): kind for kind in named()}, paths


def without(objects: dict[str, Any]) -> list[str]:
    """Paths of those that no golden case exercises."""
    kinds, paths = exercised()
    return [
        path
        for path, found in objects.items()
        if path not in paths and not (callable(found) and id(found) in kinds)
    ]


def test_every_public_name_has_a_golden_case():
    objects = required()
    assert len(objects) > 230
    assert without(objects) == []


def test_a_name_without_a_golden_case_is_noticed():
    class Fresh(nn.Module):
        pass

    assert without({"qlab.nn.quantized.Fresh": Fresh}) == ["qlab.nn.quantized.Fresh"]


def test_what_counts_as_qlabs_own_is_offered_and_is_no_name_of_the_reference():
    packages = [importlib.import_module(f"qlab.nn.{package}") for package in PACKAGES]
    offered = {name for package in packages for name in package.__all__}
    assert offered >= OWN
    assert not OWN & {name.name for name in names()} - {"AddReLU"}
    assert all(inspect.isclass(getattr(p, n)) or callable(getattr(p, n)) for p in packages
               for n in p.__all__)  # fmt: skip
