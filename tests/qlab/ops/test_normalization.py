"""Normalizations of codes against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from qlab import ops
from qlab.dtypes import integer, quint8
from qlab.errors import ArgumentError, DTypeError, QlabError, ShapeError
from qlab.qparams import QParams
from tests.qlab.ops.examples import X, codes

Y = QParams.per_tensor(0.03, 120, quint8)
WEIGHT, BIAS = torch.linspace(-2, 2, 6), torch.linspace(1, -1, 6)
MEAN, VAR = torch.linspace(-3, 3, 6), torch.linspace(0.1, 4, 6)

CALLS: dict[str, dict[str, Any]] = {
    "batch_norm": {"weight": WEIGHT, "bias": BIAS, "mean": MEAN, "var": VAR, "eps": 1e-5},
    "group_norm": {"num_groups": 3, "weight": WEIGHT, "bias": BIAS, "eps": 1e-5},
    "instance_norm": {"weight": WEIGHT, "bias": BIAS, "eps": 1e-5},
    "layer_norm": {"normalized_shape": [6], "weight": WEIGHT, "bias": BIAS, "eps": 1e-5},
}


def call(op: str, x: Tensor, x_qparams: QParams = X, **changes: Any) -> Tensor:
    return getattr(ops, op)(x, x_qparams, y_qparams=Y, **{**CALLS[op], **changes})


def exact(op: str, x: Tensor, qparams: QParams, affine: bool) -> Tensor:
    real = (x.double() - int(qparams.zero_point)) * qparams.scale.double()
    weight, bias = (WEIGHT.double(), BIAS.double()) if affine else (None, None)
    functions: dict[str, Callable[[], Tensor]] = {
        "batch_norm": lambda: F.batch_norm(
            real, MEAN.double(), VAR.double(), weight, bias, eps=1e-5
        ),
        "group_norm": lambda: F.group_norm(real, 3, weight, bias),
        "instance_norm": lambda: F.instance_norm(real, weight=weight, bias=bias),
        "layer_norm": lambda: F.layer_norm(real, [6], weight, bias),
    }
    return functions[op]()


@given(st.sampled_from(sorted(CALLS)), st.booleans(), st.integers(0, 3), st.integers(0, 2**20))
def test_at_most_one_step_from_exact(op: str, affine: bool, spatial: int, seed: int) -> None:
    torch.manual_seed(seed)
    dtype = integer(8 if seed % 2 else 16, signed=False)
    x_qparams = QParams.per_tensor(0.01, 117, dtype)
    shape = {"layer_norm": (2, 4, 6), "batch_norm": (3, 6, *[3] * spatial)}
    x = codes(dtype, *shape.get(op, (2, 6, *[3] * max(spatial, 1)))) % 2000
    changes = {} if affine else {"weight": None, "bias": None}
    steps = exact(op, x, x_qparams, affine) / Y.scale.double()
    expected = (steps.round() + 120).clamp(0, 255)
    assert (call(op, x, x_qparams, **changes).double() - expected).abs().max() <= 1


def test_relu_after_batch_norm_leaves_no_code_below_zeros() -> None:
    x = codes(quint8, 2, 6, 5)
    y = call("batch_norm", x, relu=True)
    assert torch.equal(y, call("batch_norm", x).clamp(min=120))


@pytest.mark.parametrize("op", CALLS)
def test_an_empty_batch_gives_an_empty_output(op: str) -> None:
    shape = (0, 6) if op == "layer_norm" else (0, 6, 4)
    assert call(op, codes(quint8, *shape)).shape == shape


BAD: list[tuple[str, dict[str, Any], type[QlabError], str]] = [
    *[(op, {"weight": WEIGHT[:5]}, ShapeError, f"{op}: the weight has the wrong") for op in CALLS],
    *[(op, {"bias": BIAS.double()}, DTypeError, f"{op}: the bias holds real") for op in CALLS],
    *[(op, {"eps": -1.0}, ArgumentError, f"{op}: eps must not be negative") for op in CALLS],
    *[(op, {"x": torch.rand(2, 6, 6)}, DTypeError, f"{op}: the input does not") for op in CALLS],
    *[(op, {"x": 3}, DTypeError, f"{op}: the input is not a tensor") for op in CALLS],
    ("batch_norm", {"var": VAR[None]}, ShapeError, "the variance has the wrong shape"),
    ("batch_norm", {"x": codes(quint8, 6)}, ShapeError, "wrong number of axes"),
    ("group_norm", {"num_groups": 4}, ShapeError, r"do not divide.*a divisor of 6.*4 groups"),
    ("group_norm", {"num_groups": 0}, ShapeError, "do not divide the channels"),
    ("instance_norm", {"x": codes(quint8, 2, 6)}, ShapeError, "wrong number of axes"),
    ("layer_norm", {"x": codes(quint8, 6, 5)}, ShapeError, r"does not end in.*\(\*, 6\)"),
    ("layer_norm", {"normalized_shape": []}, ShapeError, "the weight has the wrong shape"),
]


@pytest.mark.parametrize("op, change, error, message", BAD)
def test_bad_input_is_named(
    op: str, change: dict[str, Any], error: type[QlabError], message: str
) -> None:
    x = change.get("x", codes(quint8, 2, 6, 6))
    rest = {name: value for name, value in change.items() if name != "x"}
    with pytest.raises(error, match=message):
        call(op, x, **rest)
