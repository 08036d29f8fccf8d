"""Every operator against torch 2.13's own quantized ones, each family at its stated tolerance."""

import os
from collections import defaultdict

import pytest
import torch

from qlab import ops
from qlab.ops import onednn
from tests.golden import Case, load
from tests.golden.operators import near_tie, run, steps, weighted_arguments

FAMILIES = (
    "quantize",
    "linear",
    "conv",
    "normalization",
    "activations",
    "arithmetic",
    "pooling",
    "interpolate",
)


def name_of(case: Case) -> str:
    return f"{case.op}-{case.kwargs['mode']}" if case.op == "interpolate" else case.op


CASES: dict[str, list[Case]] = defaultdict(list)
for family in FAMILIES:
    for case in load(family):
        CASES[name_of(case)].append(case)

WEIGHTED = ("linear", "conv1d", "conv2d", "conv3d")
SELECTING = (
    "relu",
    "relu6",
    "hardtanh",
    "max_pool1d",
    "max_pool2d",
    "interpolate-nearest",
    "interpolate-nearest-exact",
)
BIT_EQUAL = ("quantize", *WEIGHTED, *SELECTING)
SMOOTH = (
    "batch_norm",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "sigmoid",
    "tanh",
    "gelu",
    "softmax",
)
TIES_APART = tuple(op for op in CASES if op not in BIT_EQUAL + SMOOTH)


def difference(case: Case) -> torch.Tensor:
    return (run(case).long() - case.tensors["y"].long()).abs()


def test_every_family_is_covered() -> None:
    assert set(BIT_EQUAL + SMOOTH) < set(CASES)
    assert {"add", "mul", "cat", "avg_pool2d", "interpolate-bilinear"} < set(TIES_APART)
    assert all(sum(case.tensors["y"].numel() for case in CASES[op]) > 1000 for op in CASES)


@pytest.mark.parametrize("op", BIT_EQUAL)
def test_bit_equal(op: str) -> None:
    for case in CASES[op]:
        assert torch.equal(run(case), case.tensors["y"]), case


@pytest.mark.parametrize("op", SMOOTH)
def test_at_most_one_step_on_fewer_than_one_in_a_thousand(op: str) -> None:
    found = torch.cat([difference(case).flatten() for case in CASES[op]])
    assert found.max() <= 1
    assert found.double().mean() < 1e-3


@pytest.mark.parametrize("op", TIES_APART)
def test_at_most_one_step_and_away_from_ties_fewer_than_one_in_a_thousand(op: str) -> None:
    found = [difference(case) for case in CASES[op]]
    assert max(int(d.max()) for d in found) <= 1
    away = [d[~near_tie(case)] for d, case in zip(found, CASES[op], strict=True)]
    assert torch.cat(away).double().mean() < 1e-3


# add_scalar rounds the scalar to a multiple of the input's scale, as the reference does.
@pytest.mark.parametrize("op", sorted(set(CASES) - {"add_scalar"}))
def test_exact_arithmetic_gives_the_same_codes_away_from_ties(op: str) -> None:
    for case in CASES[op]:
        y = run(case).double()
        qparams = case.qparams["y"]
        zero_point = qparams.granularity.expand(qparams.zero_point, y.shape)
        expected = (steps(case) + zero_point).round().clamp(qparams.quant_min, qparams.quant_max)
        certain = ~near_tie(case)
        if qparams.dtype.bits > 16:  # float32 resolves 1e-4 of a step up to here
            certain &= expected.abs() < 2**9
        assert torch.equal(y[certain], expected[certain]), case


@pytest.mark.parametrize("op", WEIGHTED)
def test_every_kernel_gives_the_same_codes(op: str) -> None:
    for case in CASES[op]:
        with ops.use("reference"):
            assert torch.equal(run(case), case.tensors["y"]), case


@pytest.mark.parametrize("op", WEIGHTED)
def test_the_fallback_runs_where_onednn_is_not_exact(op: str) -> None:
    restricted = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() == "AVX2"
    assert not restricted or onednn.unavailable() is not None
    names = {ops.kernel_for(op, *weighted_arguments(c), **c.kwargs) for c in CASES[op]}
    exact = {"onednn"} if onednn.unavailable() is None else {"compiled", "reference"}
    assert names <= exact


def test_dequantize_is_bit_equal() -> None:
    for case in CASES["quantize"]:
        real = ops.dequantize(*case.pair("y"))
        assert torch.equal(real, case.tensors["dequantized"])


@pytest.mark.parametrize("op", ("add_scalar", "mul_scalar"))
def test_a_scalar_moves_scale_and_zero_point_as_in_the_reference(op: str) -> None:
    choose = {"add_scalar": ops.add_scalar_qparams, "mul_scalar": ops.mul_scalar_qparams}[op]
    for case in CASES[op]:
        chosen = choose(case.qparams["x"], case.kwargs["scalar"])
        expected = case.qparams["y"]
        assert torch.equal(chosen.zero_point, expected.zero_point), case
        torch.testing.assert_close(chosen.scale, expected.scale, rtol=1e-6, atol=0)
