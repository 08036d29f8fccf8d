"""Wrong arguments of linear, convolutions and matmul are named, with what would be right."""

from typing import Any

import pytest
import torch

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    NonFiniteError,
    QlabError,
    ShapeError,
    UnknownNameError,
)
from tests.qlab.ops.examples import W, X, Y, codes, per_channel

ONE_NAN = torch.tensor([0, 0, 0, 0, 0, torch.nan])

CASES: dict[str, tuple[type[QlabError], str, dict[str, Any]]] = {
    "real input": (
        DTypeError,
        "does not hold codes.*Call ops.quantize",
        {"x": torch.rand(1, 4, 9, 9)},
    ),
    "codes of another type": (
        DTypeError,
        "Expected a tensor of torch.uint8",
        {"x": torch.zeros(1, 4, 9, 9, dtype=torch.int8)},
    ),
    "not a tensor": (DTypeError, "the input is not a tensor", {"x": [1, 2]}),
    "weight of another type": (
        DTypeError,
        "the weight does not hold codes of qint8",
        {"weight": codes(quint8, 6, 4, 3, 3)},
    ),
    "unbatched": (ShapeError, r"Expected 4 axes, \(N, C, H, W\)", {"x": codes(quint8, 4, 9, 9)}),
    "weight of another rank": (
        ShapeError,
        "weight has the wrong number",
        {"weight": codes(qint8, 6, 4, 3)},
    ),
    "channels": (ShapeError, "channels, weight and groups", {"x": codes(quint8, 1, 5, 9, 9)}),
    "groups": (ShapeError, "channels, weight and groups", {"groups": 3}),
    "no groups": (ArgumentError, "invalid groups", {"groups": 0}),
    "kernel too large": (
        ShapeError,
        "larger than the padded input",
        {"x": codes(quint8, 1, 4, 2, 9)},
    ),
    "stride": (ArgumentError, "invalid stride", {"stride": 0}),
    "strides": (ArgumentError, "invalid stride.*2 of them", {"stride": (1, 1, 1)}),
    "padding": (ArgumentError, "invalid padding", {"padding": -1}),
    "padding word": (
        UnknownNameError,
        "Unknown padding 'sane'.*Did you mean 'same'",
        {"padding": "sane"},
    ),
    "padding mode": (
        UnknownNameError,
        "Unknown padding mode 'mirror'.*zeros, reflect, replicate, circular",
        {"padding_mode": "mirror"},
    ),
    "same with stride": (ArgumentError, "'same' needs stride 1", {"padding": "same", "stride": 2}),
    "reflect too wide": (
        ShapeError,
        "reflect padding is wider than the input.*at most 8",
        {"padding": 9, "padding_mode": "reflect"},
    ),
    "bias shape": (ShapeError, "the bias has the wrong shape", {"bias": torch.zeros(5)}),
    "bias type": (
        DTypeError,
        "the bias holds real numbers",
        {"bias": torch.zeros(6, dtype=torch.int32)},
    ),
    "bias NaN": (NonFiniteError, "the bias must be finite.*1 NaN", {"bias": ONE_NAN}),
    "bias infinite": (
        NonFiniteError,
        "the bias must be finite",
        {"bias": torch.full((6,), torch.inf)},
    ),
    "scales of another layer": (
        ShapeError,
        "weight's scale does not fit",
        {"w_qparams": per_channel(5)},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_input_is_named(name: str, packed: bool) -> None:
    error, message, change = CASES[name]
    call: dict[str, Any] = {
        "x": codes(quint8, 1, 4, 9, 9),
        "x_qparams": X,
        "weight": codes(qint8, 6, 4, 3, 3),
        "w_qparams": W,
        "bias": None,
        "y_qparams": Y,
        "packed": ops.PackedWeight() if packed else None,
    }
    ops.conv2d(**call)
    with pytest.raises(error, match=message):
        ops.conv2d(**{**call, **change})


def test_linear_and_matmul_name_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"Expected 4 features.*Received shape \(2, 5\)"):
        ops.linear(codes(quint8, 2, 5), X, codes(qint8, 6, 4), W, None, Y)
    with pytest.raises(ShapeError, match="the operands do not fit each other"):
        ops.matmul(codes(quint8, 2, 5), X, codes(qint8, 4, 6), W, Y)
    with pytest.raises(ShapeError, match=r"leading axes equal or 1.*\(2, 3, 4, 5\)"):
        ops.matmul(codes(quint8, 2, 3, 4, 5), X, codes(qint8, 4, 5, 6), W, Y)
