"""The registry claims each operator once, and its patterns fuse what they name."""

from collections import Counter

import pytest
import torch
from torch import nn

import qlab.nn.intrinsic as nni
from qlab.dtypes import as_qdtype
from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError
from qlab.nn.functions import Add
from qlab.registry import (
    OBSERVED,
    PATTERNS,
    ROWS,
    SHARED,
    SIGNED_UNIT_INTERVAL,
    UNIT_INTERVAL,
    Pattern,
    quantized_module,
    row_for_function,
    row_for_method,
    row_for_module,
)


@pytest.mark.parametrize("column", ["modules", "functions", "methods"])
def test_no_operator_is_claimed_twice(column: str):
    claims = Counter(claim for row in ROWS for claim in getattr(row, column))
    assert [claim for claim, times in claims.items() if times > 1] == []


def test_names_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_functions_and_methods_can_be_lifted_or_run_on_codes():
    calls = [row for row in ROWS if row.functions or row.methods]
    assert [row.name for row in calls if (row.lift is None) != row.on_codes] == []


def test_lookups():
    assert row_for_module(nn.Conv2d).name == "conv2d"
    assert row_for_module(nni.ConvBn2d).name == "conv2d"
    assert row_for_function(torch.add).name == "add"
    assert row_for_method("view").name == "reshape"
    assert row_for_module(nn.Transformer) is None
    assert row_for_function(torch.fft.fft) is None
    assert row_for_method("fft") is None


def test_quantized_modules_by_name():
    classes = [row.static for row in ROWS if row.static]
    assert [quantized_module(cls.__name__) for cls in classes] == classes
    with pytest.raises(UnknownNameError, match=r"quantized module 'system'.*ConvReLU2d"):
        quantized_module("system")


@pytest.mark.parametrize(
    ("rule", "dtype", "scale", "zero_point"),
    [
        (UNIT_INTERVAL, "quint8", 1 / 256, 0),
        (UNIT_INTERVAL, "qint8", 1 / 256, -128),
        (UNIT_INTERVAL, "quint4", 1 / 16, 0),
        (SIGNED_UNIT_INTERVAL, "quint8", 2 / 256, 128),
        (SIGNED_UNIT_INTERVAL, "qint8", 2 / 256, 0),
        (SIGNED_UNIT_INTERVAL, "qint16", 2 / 65536, 0),
        (SIGNED_UNIT_INTERVAL, "float8_e4m3fn", 1 / 448, 0),
    ],
)
def test_fixed_outputs(rule, dtype: str, scale: float, zero_point: int):
    qparams = rule.fixed_qparams(as_qdtype(dtype))
    assert qparams.scale_value == torch.tensor(scale).item()
    assert qparams.zero_point_value == zero_point


@pytest.mark.parametrize("rule", [OBSERVED, SHARED])
def test_only_fixed_rules_have_a_scale(rule):
    with pytest.raises(ArgumentError, match="Only a FIXED output rule"):
        rule.fixed_qparams(as_qdtype("quint8"))


def chain(pattern: Pattern) -> list[nn.Module]:
    """Fresh modules of a pattern's classes, with four channels."""
    sizes = {"Conv": (4, 4, 3), "Batc": (4,), "Line": (4, 4)}
    return [module(*sizes.get(module.__name__[:4], ())) for module in pattern.modules]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.title)
def test_patterns_fuse_without_changing_the_function(pattern: Pattern):
    modules = [module.eval() for module in chain(pattern)]
    rank = next((int(d) for m in pattern.modules for d in "123" if d + "d" in m.__name__), 1)
    inputs = [torch.randn(2, 4) if nn.Linear in pattern.modules else torch.randn(2, 4, *[5] * rank)]
    if Add in pattern.modules:
        inputs *= 2
    expected = modules[0](*inputs)
    for module in modules[1:]:
        expected = module(expected)
    fused = pattern.fuse(modules)
    assert type(fused) is pattern.fused and not fused.training
    assert row_for_module(pattern.fused) is not None
    torch.testing.assert_close(fused(*inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.title)
def test_patterns_in_training_mode(pattern: Pattern):
    if pattern.train is None:
        with pytest.raises(UnsupportedError, match=r"cannot be fused in training mode.*eval"):
            pattern.fuse(chain(pattern))
    else:
        assert type(pattern.fuse(chain(pattern))) is pattern.train


def test_longer_patterns_come_first():
    lengths = [len(pattern.modules) for pattern in PATTERNS]
    assert lengths == sorted(lengths, reverse=True)


def test_mixed_modes_are_refused():
    modules = [nn.Conv2d(4, 4, 3).eval(), nn.ReLU().train()]
    with pytest.raises(ArgumentError, match=r"Conv2d \+ ReLU: some modules are in training mode"):
        row = next(p for p in PATTERNS if p.modules == (nn.Conv2d, nn.ReLU))
        row.fuse(modules)


def test_clamps_hold_what_they_say():
    clamps = {row.name: row for row in ROWS if row.clamps}
    assert set(clamps) == {"relu", "relu6", "hardtanh"}
    for row in clamps.values():
        clamp = row.modules[0]()
        x = clamp(torch.linspace(-9, 9, 99))
        assert row.output is SHARED and torch.equal(clamp(x), x)
