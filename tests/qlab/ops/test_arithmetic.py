"""Sums, products and concatenations of codes against float64; scalars."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qlab import ops
from qlab.dtypes import float8_e4m3fn, integer, qint8, qint32, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    NonFiniteError,
    ShapeError,
    UnsupportedError,
)
from qlab.granularity import PerAxis
from qlab.qparams import QParams, dequantize, quantize
from tests.qlab.ops.examples import X, Y, codes

COMBINE = {"add": torch.add, "mul": torch.mul}
INT16 = integer(16, signed=True)
SCALAR = {"add_scalar": torch.add, "mul_scalar": torch.mul}


def real(x: Tensor, qparams: QParams) -> Tensor:
    return (x.double() - int(qparams.zero_point)) * qparams.scale.double()


def rounded(value: Tensor, qparams: QParams) -> Tensor:
    steps = (value / qparams.scale.double()).round() + int(qparams.zero_point)
    return steps.clamp(qparams.quant_min, qparams.quant_max)


@st.composite
def operands(draw: st.DrawFn) -> tuple[Tensor, QParams]:
    dtype = draw(
        st.sampled_from([quint8, qint8, integer(4, signed=False), integer(16, signed=True)])
    )
    scale = draw(st.floats(1e-3, 1.0))
    qparams = QParams.per_tensor(scale, draw(st.integers(dtype.quant_min, dtype.quant_max)), dtype)
    shape = draw(st.sampled_from([(2, 3, 4), (3, 4), (1, 4), (2, 1, 1), ()]))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    return codes(dtype, *shape), qparams


@given(st.sampled_from(sorted(COMBINE)), operands(), operands(), st.booleans())
def test_at_most_one_step_from_exact(op: str, a, b, relu: bool) -> None:
    exact = COMBINE[op](real(*a), real(*b))
    exact = exact.relu() if relu else exact
    y = getattr(ops, op)(*a, *b, Y, relu=relu)
    assert y.shape == exact.shape and y.dtype == torch.uint8
    assert (y.double() - rounded(exact, Y)).abs().max() <= 1


@pytest.mark.parametrize("op", COMBINE)
def test_bad_operands_are_named(op: str) -> None:
    function, x = getattr(ops, op), codes(quint8, 2, 3)
    with pytest.raises(
        ShapeError, match=rf"{op}: the operands do not broadcast.*\(2, 3\) and \(4,\)"
    ):
        function(x, X, codes(quint8, 4), X, Y)
    with pytest.raises(DTypeError, match=f"{op}: the second operand does not hold codes"):
        function(x, X, x.float(), X, Y)
    with pytest.raises(DTypeError, match=f"{op}: the first operand does not.*qparams that these"):
        function(x.int(), X, x, X, Y)


def test_cat_copies_codes_whose_parameters_are_the_outputs() -> None:
    same = QParams.per_tensor(float(Y.scale), int(Y.zero_point), quint8)
    parts = [codes(quint8, 2, n) for n in (1, 4, 3)]
    y = ops.cat(parts, [Y, same, X], 1, Y)
    assert torch.equal(y[:, :5], torch.cat(parts[:2], 1))
    assert torch.equal(y[:, 5:].double(), rounded(real(parts[2], X), Y))


def test_cat_copies_codes_that_float32_cannot_hold() -> None:
    qparams = QParams.per_tensor(0.1, 7, qint32)
    x = torch.tensor([2**30 + 1, -(2**30) - 3], dtype=torch.int32)
    assert torch.equal(ops.cat([x, x], [qparams, qparams], 0, qparams), x.repeat(2))


def test_cat_takes_operands_of_different_types() -> None:
    signed = QParams.per_tensor(0.4, 3, qint8)
    y = ops.cat([codes(qint8, 2), codes(quint8, 2)], [signed, X], 0, Y)
    assert y.dtype == torch.uint8 and y.shape == (4,)


def test_cat_names_what_does_not_fit() -> None:
    x = codes(quint8, 2, 3)
    with pytest.raises(ArgumentError, match=r"cat: every operand needs.*1 tensors and 2"):
        ops.cat([x], [X, X], 0, Y)
    with pytest.raises(ArgumentError, match="at least one tensor"):
        ops.cat([], [], 0, Y)
    with pytest.raises(ArgumentError, match=r"cat: the arguments do not fit.*\(2, 3\), \(2, 4\)"):
        ops.cat([x, codes(quint8, 2, 4)], [X, X], 0, Y)
    with pytest.raises(ArgumentError, match="Dimension out of range"):
        ops.cat([x], [X], 5, Y)
    with pytest.raises(DTypeError, match="cat: the operand 1 does not hold codes"):
        ops.cat([x, x.float()], [X, X], 0, Y)


def test_quantize_and_dequantize_are_those_of_qparams() -> None:
    x = torch.randn(40) * 9
    assert torch.equal(ops.quantize(x, X), quantize(x, X))
    assert torch.equal(ops.dequantize(quantize(x, X), X), dequantize(quantize(x, X), X))
    with pytest.raises(DTypeError, match="quantize: the input is not a tensor"):
        ops.quantize([1.0], X)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DTypeError, match="dequantize: the input does not hold codes of quint8"):
        ops.dequantize(x.int(), X)


FINITE = st.floats(-50, 50, width=32)


@given(st.sampled_from(sorted(SCALAR)), st.integers(0, 255), FINITE, st.booleans())
def test_a_scalar_without_output_parameters_keeps_every_value(
    op: str, zero_point: int, scalar: float, relu: bool
) -> None:
    """Within half a step of the input's for the rounded scalar, and half a step of the output's."""
    x, x_qparams = torch.arange(256).to(torch.uint8), QParams.per_tensor(0.05, zero_point, quint8)
    if op == "mul_scalar" and 0 < abs(scalar) < 1e-30:
        scalar = 1e-30
    y = getattr(ops, op)(x, x_qparams, scalar, relu=relu)
    y_qparams = getattr(ops, f"{op}_qparams")(x_qparams, scalar)
    y_qparams.check()
    exact = SCALAR[op](real(x, x_qparams), torch.tensor(scalar, dtype=torch.float64))
    exact = exact.relu() if relu else exact
    allowed = 0.5 * float(y_qparams.scale) + (0.025 if op == "add_scalar" else 0.0)
    assert (real(y, y_qparams) - exact).abs().max() <= allowed * 1.001 + 1e-6


@given(st.sampled_from(sorted(SCALAR)), FINITE, st.booleans())
def test_a_scalar_with_output_parameters(op: str, scalar: float, relu: bool) -> None:
    x = torch.arange(256).to(torch.uint8)
    exact = SCALAR[op](real(x, X), torch.tensor(scalar, dtype=torch.float64))
    exact = exact.relu() if relu else exact
    y = getattr(ops, op)(x, X, scalar, Y, relu=relu)
    assert (y.double() - rounded(exact, Y)).abs().max() <= 1


def test_adding_what_the_zero_point_can_take_moves_no_code() -> None:
    x = codes(quint8, 50)
    assert torch.equal(ops.add_scalar(x, X, 1.02), x)
    assert int(ops.add_scalar_qparams(X, 1.02).zero_point) == 117 - 20


def test_a_negative_factor_mirrors_the_codes() -> None:
    x = codes(quint8, 50)
    assert torch.equal(ops.mul_scalar(x, X, -2.0), 255 - x)
    assert int(ops.mul_scalar_qparams(X, -2.0).zero_point) == 255 - 117
    assert torch.equal(real(ops.mul_scalar(x, X, 0.0), ops.mul_scalar_qparams(X, 0.0)), x * 0.0)


def test_float8_has_no_zero_point_to_move() -> None:
    qparams = QParams.per_tensor(0.1, 0, float8_e4m3fn)
    x = quantize(torch.tensor([-3.0, 0.0, 2.0]), qparams)
    with pytest.raises(UnsupportedError, match=r"no zero point to move.*Give the output's qparams"):
        ops.add_scalar(x, qparams, 1.0)
    mirrored = ops.mul_scalar(x, qparams, -1.0)
    assert torch.equal(mirrored.float(), -x.float())


@pytest.mark.parametrize("op", SCALAR)
def test_bad_scalars_are_named(op: str) -> None:
    function, x = getattr(ops, op), codes(quint8, 3)
    with pytest.raises(NonFiniteError, match=f"{op}: the scalar must be finite"):
        function(x, X, float("nan"))
    with pytest.raises(NonFiniteError, match=r"must be finite.*Received -inf"):
        function(x, X, -float("inf"), Y)
    with pytest.raises(DTypeError, match=f"{op}: the scalar is not a number.*Received str"):
        function(x, X, "2")
    rows = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), quint8, PerAxis(0))
    with pytest.raises(ShapeError, match=f"{op}: the input needs one scale"):
        function(x, rows, 1.0)


def test_a_product_that_leaves_float32_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="must be finite"):
        ops.mul_scalar(codes(quint8, 3), X, 1e300)
    with pytest.raises(ArgumentError, match="A scale must be positive"):
        ops.mul_scalar(codes(quint8, 3), X, 1e-300)
