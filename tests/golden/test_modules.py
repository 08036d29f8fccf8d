"""Quantized functions and modules against the reference's, from vectors it made (torch 2.13)."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import qlab
import qlab.nn.intrinsic.quantized as nniq
import qlab.nn.quantized as nnq
import qlab.nn.quantized.functional as qF
from qlab.dtypes import quint4x2
from qlab.granularity import PerAxis, PerTensor
from qlab.qparams import QParams
from qlab.qtensor import QTensor

PATH = Path(__file__).with_name("modules.safetensors")

with safe_open(PATH, "pt") as file:
    TENSORS = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    CASES = json.loads(file.metadata()["cases"])

#: What only selects codes, or sums products exactly.
EXACT = {
    *("clamp", "hardtanh", "max_pool1d", "max_pool2d", "conv1d", "conv2d", "conv3d", "linear"),
    *("upsample", "upsample_nearest", "ReLU6", "Dropout", "MaxPool2d"),
}
DTYPES = {"quint8": qlab.quint8, "qint8": qlab.qint8, "quint4x2": quint4x2}


def read(value: Any) -> Any:
    """An argument of a case: tensors by number."""
    if isinstance(value, list):
        return [read(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return TENSORS[value["tensor"]]
    if "codes" not in value:
        return {name: read(item) for name, item in value.items()}
    granularity = PerTensor() if value["axis"] is None else PerAxis(value["axis"])
    numbers = TENSORS[value["scale"]], TENSORS[value["zero_point"]]
    qparams = QParams(*numbers, DTYPES[value["dtype"]], granularity)
    return QTensor(TENSORS[value["codes"]].clone(), qparams)


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if case["kind"] in kinds]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case["name"])


def check(name: str, result: Tensor, case: dict[str, Any]) -> None:
    """At the numeric contract's tolerance for what ``name`` computes."""
    expected = read(case["y"])
    assert isinstance(result, QTensor) and result.qparams.same_as(expected.qparams)
    steps = (result.codes.int() - expected.codes.int()).abs()
    if name in EXACT:
        assert not steps.any()
        return
    assert steps.max() <= 1
    away = ~TENSORS[case["ties"]] if "ties" in case else torch.ones_like(steps, dtype=torch.bool)
    assert int((steps * away).count_nonzero()) <= 1 + steps.numel() // 1000


def set_state(made: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor):
            made.get_buffer(name).copy_(value)
        else:
            setattr(made, name, value)


@of_kind("functional", "top")
def test_functions_give_what_the_reference_gives(case):
    name = case["name"]
    function = getattr(qlab if case["kind"] == "top" else qF, name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="upsample.* is an old name")
        result = function(*read(case["args"]), **read(case["kwargs"]))
    check(name, result, case)


@of_kind("module")
def test_modules_give_what_the_reference_gives(case):
    name = case["name"]
    made = getattr(nniq if name.startswith("BNReLU") else nnq, name)(**read(case["init"]))
    set_state(made, read(case["state"]))
    check(name, made(read(case["x"])), case)


@of_kind("prelu")
def test_prelu(case):
    made = nnq.PReLU(**read(case["init"]))
    made.set_weight(read(case["weight"]))
    check("PReLU", made(read(case["x"])), case)


@of_kind("transposed")
def test_transposed_convolutions_differ_from_fbgemm_on_single_ties_only(case):
    made = getattr(nnq, case["name"])(**read(case["init"]))
    made.set_weight_bias(read(case["weight"]), read(case["bias"]))
    set_state(made, read(case["state"]))
    result, expected = made(read(case["x"])), read(case["y"])
    steps = (result.codes.int() - expected.codes.int()).abs()
    assert steps.max() <= 1 and steps.sum() <= 1


@of_kind("embedding")
def test_embeddings_are_exact(case):
    made = getattr(nnq, case["name"])(
        **read(case["init"]), _weight=read(case["weight"]), dtype=DTYPES[case["dtype"]]
    )
    result = made(*read(case["args"]))
    assert result.dtype == torch.float32 and torch.equal(result, read(case["y"]))


@of_kind("table")
def test_tables_are_quantized_to_the_same_codes(case):
    expected = read(case["q"])
    made = qlab.quantize_per_channel(
        read(case["rows"]), expected.qparams.scale, expected.qparams.zero_point, 0, expected.qdtype
    )
    assert torch.equal(made.codes, expected.codes)
    assert made.qscheme() is qlab.per_channel_affine_float_qparams


def test_every_function_has_vectors():
    covered = {case["name"] for case in CASES}
    assert covered >= set(qF.__all__)
