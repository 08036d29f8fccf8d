"""Rounding, against exact arithmetic, and the properties that everything above rests on."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qlab.dtypes import QDType, all_dtypes, as_qdtype, integer, qint8, qint32, quint8
from qlab.errors import ArgumentError, DTypeError, NonFiniteError, ShapeError, UncalibratedError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import (
    EPS,
    QParams,
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
    quantize_round_first,
    reduced_range,
    requantize,
)

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
INTEGERS = [d for d in all_dtypes() if not d.is_float and d.bits <= 16]
largest = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = st.floats(-(2.0**20), 2.0**20, width=32)
scales = st.floats(2.0**-20, 2.0**10, width=32)


@st.composite
def integer_qparams(draw) -> QParams:
    dtype = draw(st.sampled_from(INTEGERS))
    zero_point = draw(st.integers(dtype.quant_min, dtype.quant_max))
    return QParams.per_tensor(draw(scales), zero_point, dtype)


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def f32(exact: Fraction | float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(float(exact))


def inverse(qparams: QParams) -> np.float32:
    return np.float32(1) / np.float32(qparams.scale_value)


def clamped(code: float, qparams: QParams) -> int:
    return int(min(max(code, qparams.quant_min), qparams.quant_max))


class TestQuantize:
    @given(st.lists(values, min_size=1, max_size=20), integer_qparams())
    def test_rounds_the_exact_product_and_sum_once(self, numbers, qparams: QParams):
        x, zero_point = tensor(*numbers), qparams.zero_point_value
        expected = [
            clamped(
                np.rint(f32(Fraction(v) * Fraction(float(inverse(qparams))) + zero_point)), qparams
            )
            for v in x.tolist()
        ]
        assert quantize(x, qparams).tolist() == expected

    @given(st.lists(values, min_size=1, max_size=20), integer_qparams())
    def test_round_first_rounds_the_product(self, numbers, qparams: QParams):
        x, zero_point = tensor(*numbers), qparams.zero_point_value
        expected = [
            clamped(np.rint(np.float32(v) * inverse(qparams)) + zero_point, qparams)
            for v in x.tolist()
        ]
        assert quantize_round_first(x, qparams).tolist() == expected

    @given(st.lists(values, min_size=1, max_size=20), integer_qparams())
    def test_requantize_rounds_product_and_sum_each(self, numbers, qparams: QParams):
        x, zero_point = tensor(*numbers), np.float32(qparams.zero_point_value)
        expected = [
            clamped(np.rint(np.float32(v) * inverse(qparams) + zero_point), qparams)
            for v in x.tolist()
        ]
        assert requantize(x, qparams).tolist() == expected

    def test_ties_go_to_the_even_sum_or_the_even_product(self):
        qparams = QParams.per_tensor(1.0, 3, quint8)
        x = tensor(-0.5, 0.5, 1.5, 2.5)
        assert quantize(x, qparams).tolist() == [2, 4, 4, 6]
        assert requantize(x, qparams).tolist() == [2, 4, 4, 6]
        assert quantize_round_first(x, qparams).tolist() == [3, 3, 5, 5]

    @given(st.lists(values, min_size=1, max_size=20), integer_qparams())
    def test_orders_differ_on_ties_only(self, numbers, qparams: QParams):
        x = tensor(*numbers)
        fraction = (x.double() * float(inverse(qparams))).frac().abs()
        steps = (quantize(x, qparams).int() - quantize_round_first(x, qparams).int()).abs()
        assert bool((steps <= 1).all())
        # float32 has 24 bits, so that a large product lies within 2**-7 of a tie more often.
        assert bool(((fraction - 0.5).abs() < 2**-6)[steps == 1].all())

    @given(values, integer_qparams())
    def test_again_changes_nothing(self, value: float, qparams: QParams):
        codes = quantize(tensor(value), qparams)
        assert torch.equal(quantize(dequantize(codes, qparams), qparams), codes)
        assert torch.equal(quantize_round_first(dequantize(codes, qparams), qparams), codes)

    @given(st.floats(0, 1), integer_qparams())
    def test_error_is_at_most_half_a_step_in_range(self, share: float, qparams: QParams):
        low = (qparams.quant_min - qparams.zero_point_value) * qparams.scale_value
        high = (qparams.quant_max - qparams.zero_point_value) * qparams.scale_value
        x = tensor(low + share * (high - low))
        error = abs(float(x.double() - dequantize(quantize(x, qparams), qparams).double()))
        # Codes of 16 bits lie up to 2**-8 of a step off in float32.
        assert error <= (0.5 + 2**-7) * qparams.scale_value

    @given(integer_qparams())
    def test_zero_is_exact(self, qparams: QParams):
        for zero in (0.0, -0.0):
            codes = quantize(tensor(zero), qparams)
            assert codes.tolist() == [qparams.zero_point_value]
            assert dequantize(codes, qparams).tolist() == [0.0]

    @given(st.lists(values, min_size=2, max_size=20), integer_qparams())
    def test_keeps_the_order(self, numbers, qparams: QParams):
        codes = quantize(tensor(*sorted(numbers)), qparams).int()
        assert bool((codes.diff() >= 0).all())

    @pytest.mark.parametrize("function", [quantize, quantize_round_first, requantize])
    @pytest.mark.parametrize("dtype", all_dtypes(), ids=repr)
    def test_of_nan_is_zero_and_infinities_saturate(self, function, dtype: QDType):
        zero_point = 0 if dtype.is_float else dtype.quant_min + 1
        qparams = QParams.per_tensor(0.5, zero_point, dtype)
        codes = function(tensor(math.nan, math.inf, -math.inf, 3e38, -3e38), qparams)
        low, high = float(dtype.quant_min), float(dtype.quant_max)
        assert codes.dtype == dtype.storage
        assert codes.double().tolist() == [zero_point, high, low, high, low]
        assert dequantize(codes, qparams)[0] == 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_reads_other_floats_as_float32(self, dtype: torch.dtype):
        x, qparams = torch.randn(100).to(dtype), QParams.per_tensor(0.03, 7, quint8)
        for function in (quantize, quantize_round_first):
            assert torch.equal(function(x, qparams), function(x.float(), qparams))

    @pytest.mark.parametrize("dtype", all_dtypes(), ids=repr)
    @pytest.mark.parametrize("shape", [(0,), (2, 0, 3)], ids=str)
    def test_of_an_empty_tensor_is_empty(self, dtype: QDType, shape: tuple[int, ...]):
        qparams = QParams.per_tensor(0.5, 0, dtype)
        codes = quantize(torch.zeros(shape), qparams)
        assert codes.shape == dequantize(codes, qparams).shape == shape
        assert fake_quantize(torch.zeros(shape), qparams).shape == shape

    @pytest.mark.parametrize("function", [quantize, quantize_round_first, fake_quantize])
    def test_refuses_integers(self, function):
        with pytest.raises(DTypeError, match=rf"{function.__name__} takes real.*torch.int32"):
            function(torch.ones(2, dtype=torch.int32), QParams.per_tensor(1.0, 0, quint8))

    @pytest.mark.parametrize("function", [quantize, quantize_round_first, fake_quantize])
    def test_refuses_scales_that_do_not_fit(self, function):
        qparams = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), qint8, PerAxis(0))
        with pytest.raises(ShapeError, match=r"scale does not fit.*\(2, 3\)"):
            function(torch.ones(2, 3), qparams)

    def test_is_the_same_on_any_device(self, device: torch.device):
        x = torch.cat([torch.randn(10_000), torch.arange(-64, 64) + 0.5])
        for dtype in (quint8, qint8, integer(16, signed=True), qint32, *map(as_qdtype, FLOAT8)):
            here = QParams.per_tensor(1.0, 0, dtype)
            there = here.to(device)
            for function in (quantize, quantize_round_first, fake_quantize):
                moved = function(x.to(device), there)
                assert moved.device.type == device.type
                assert torch.equal(moved.cpu().double(), function(x, here).double())


class TestWideTypes:
    def test_qint32_saturates_at_its_ends(self):
        qparams = QParams.per_tensor(1.0, 0, qint32)
        codes = quantize(tensor(2.0**31, -(2.0**31), 2.0**31 - 128, 1e30), qparams)
        assert codes.tolist() == [2**31 - 1, -(2**31), 2**31 - 128, 2**31 - 1]
        ends = torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32)
        far = QParams.per_tensor(1.0, 2**31 - 1, qint32)
        # q - z leaves int32 here.
        assert dequantize(ends, far).tolist() == [0.0, -(2.0**32)]

    def test_unsigned_16_bits_reach_their_top_code(self):
        qparams = QParams.per_tensor(1.0, 0, integer(16, signed=False))
        assert quantize(tensor(65535, 70000, -3), qparams).tolist() == [65535, 65535, 0]


class TestFloat8:
    @pytest.mark.parametrize("name", FLOAT8)
    def test_every_value_maps_to_itself(self, name: str):
        dtype = as_qdtype(name)
        every = torch.arange(256, dtype=torch.uint8).view(dtype.storage)
        finite = every[every.float().isfinite()]
        qparams = QParams.per_tensor(0.25, 0, dtype)
        reals = dequantize(finite, qparams)
        assert torch.equal(quantize(reals, qparams).float(), finite.float())
        assert torch.equal(fake_quantize(reals, qparams), reals)

    @pytest.mark.parametrize("name", FLOAT8)
    @given(values)
    def test_rounds_to_the_nearest_value(self, name: str, value: float):
        dtype = as_qdtype(name)
        qparams = QParams.per_tensor(0.5, 0, dtype)
        got = float(dequantize(quantize(tensor(value), qparams), qparams))
        every = torch.arange(256, dtype=torch.uint8).view(dtype.storage).double() * 0.5
        every = every[every.isfinite()]
        assert abs(got - value) == float((every - value).abs().min())


class TestDequantize:
    @given(integer_qparams(), st.data())
    def test_is_the_rounded_product(self, qparams: QParams, data):
        code = data.draw(st.integers(qparams.quant_min, qparams.quant_max))
        codes = torch.tensor([code], dtype=qparams.dtype.storage)
        exact = (code - qparams.zero_point_value) * Fraction(qparams.scale_value)
        assert dequantize(codes, qparams).tolist() == [float(f32(exact))]

    def test_refuses_other_storage(self):
        with pytest.raises(DTypeError, match=r"not stored as quint8.*torch.uint8.*torch.int8"):
            dequantize(torch.ones(2, dtype=torch.int8), QParams.per_tensor(1.0, 0, quint8))

    def test_refuses_scales_that_do_not_fit(self):
        qparams = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), qint8, PerAxis(0))
        with pytest.raises(ShapeError, match="does not fit"):
            dequantize(torch.ones(2, dtype=torch.int8), qparams)


class TestFakeQuantize:
    @given(st.lists(values, min_size=1, max_size=20), integer_qparams())
    def test_is_dequantized_round_first(self, numbers, qparams: QParams):
        x = tensor(*numbers)
        expected = dequantize(quantize_round_first(x, qparams), qparams)
        assert torch.equal(fake_quantize(x, qparams), expected)

    @pytest.mark.parametrize("name", FLOAT8)
    def test_is_dequantized_float8(self, name: str):
        x, qparams = torch.randn(1000) * 9, QParams.per_tensor(0.01, 0, as_qdtype(name))
        assert torch.equal(fake_quantize(x, qparams), dequantize(quantize(x, qparams), qparams))

    def test_passes_the_gradient_where_the_code_is_in_range(self):
        qparams = QParams.per_tensor(1.0, 2, integer(3, signed=False))  # -2 to 5
        x = tensor(-2.6, -2.4, 0.0, 5.4, 5.6, math.nan).requires_grad_()
        fake_quantize(x, qparams).backward(tensor(1, 2, 3, 4, 5, 6))
        assert x.grad is not None
        assert x.grad.tolist() == [0, 2, 3, 4, 0, 0]

    def test_passes_the_gradient_where_float8_does_not_saturate(self):
        qparams = QParams.per_tensor(1.0, 0, as_qdtype("float8_e4m3fn"))
        x = tensor(-449, -448, 3.3, 448, 500).requires_grad_()
        fake_quantize(x, qparams).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0, 1, 1, 1, 0]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_keeps_the_dtype(self, dtype: torch.dtype):
        x, qparams = torch.randn(50).to(dtype), QParams.per_tensor(0.1, 0, qint8)
        got = fake_quantize(x, qparams)
        assert got.dtype == dtype
        assert torch.equal(got, fake_quantize(x.float(), qparams).to(dtype))


class TestGranularities:
    @pytest.mark.parametrize("granularity", [PerAxis(0), PerAxis(-1), PerGroup(3, 1)], ids=repr)
    def test_apply_each_scale_to_its_own_elements(self, granularity):
        x = torch.randn(4, 6, 2) * 10
        shape = granularity.scale_shape(x.shape)
        scale = torch.rand(shape) + 0.05
        zero_point = torch.randint(0, 256, shape, dtype=torch.int32)
        qparams = QParams(scale, zero_point, quint8, granularity)
        for function in (quantize, quantize_round_first, fake_quantize):
            together = granularity.rows(function(x, qparams))
            for i, row in enumerate(granularity.rows(x)):
                one = QParams.per_tensor(
                    float(scale.flatten()[i]), int(zero_point.flatten()[i]), quint8
                )
                assert torch.equal(together[i], function(row, one))
        codes = quantize(x, qparams)
        assert bool(((dequantize(codes, qparams) - x).abs() <= 300).all())


class TestChoose:
    @pytest.mark.parametrize(
        ("low", "high", "arguments", "scale", "zero_point"),
        [
            (-1.0, 2.0, {"dtype": "quint8"}, 3 / 255, 85),
            (-1.0, 2.0, {"dtype": "qint8"}, 3 / 255, -43),
            (1.0, 2.0, {"dtype": "quint8"}, 2 / 255, 0),
            (-2.0, -1.0, {"dtype": "quint8"}, 2 / 255, 255),
            (-1.0, 2.0, {"dtype": "qint8", "symmetric": True}, 2 / 127.5, 0),
            (-1.0, 2.0, {"dtype": "quint8", "symmetric": True}, 2 / 127.5, 128),
            (-3.0, 2.0, {"dtype": "quint4", "symmetric": True}, 3 / 7.5, 8),
            (0.0, 1.0, {"dtype": "qint8", "quant_min": -127, "symmetric": True}, 1 / 127, 0),
            (0.0, 1.0, {"dtype": "quint8", "quant_min": 0, "quant_max": 127}, 1 / 127, 0),
            (-4.0, 1.0, {"dtype": "float8_e4m3fn"}, 4 / 448, 0),
            (0.0, 0.0, {"dtype": "quint8"}, EPS, 0),
            (0.0, 1e-3, {"dtype": "quint8", "eps": 0.25}, 0.25, 0),
        ],
    )
    def test_known_values(self, low, high, arguments, scale: float, zero_point: int):
        qparams = choose_qparams(torch.tensor(low), torch.tensor(high), **arguments)
        assert qparams.scale_value == pytest.approx(scale, rel=1e-6)
        assert qparams.zero_point_value == zero_point
        assert qparams.per_tensor_granularity

    @given(values, values, st.sampled_from(INTEGERS), st.booleans())
    def test_covers_the_range_and_zero(self, a: float, b: float, dtype: QDType, symmetric: bool):
        low, high = tensor(min(a, b))[0], tensor(max(a, b))[0]
        qparams = choose_qparams(low, high, dtype, symmetric=symmetric)
        qparams.check()
        assert float(dequantize(quantize(torch.zeros(1), qparams), qparams)) == 0
        ends = torch.stack([low, high])
        error = (fake_quantize(ends, qparams) - ends).abs().max()
        # A symmetric range has half a code less on the positive side, a rounded zero point up to
        # half a code on either, and rounding itself adds half a code.
        assert float(error) <= 1.01 * qparams.scale_value

    @given(largest, largest)
    def test_of_the_largest_floats_is_finite(self, a: float, b: float):
        low, high = tensor(min(a, b))[0], tensor(max(a, b))[0]
        for symmetric in (False, True):
            choose_qparams(low, high, quint8, symmetric=symmetric).check()

    def test_of_many_ranges_is_each_alone(self):
        low, high = -torch.rand(2, 3), torch.rand(2, 3)
        together = choose_qparams(low, high, qint8, granularity=PerGroup(4))
        assert together.granularity == PerGroup(4)
        for i in range(2):
            for j in range(3):
                alone = choose_qparams(low[i, j], high[i, j], qint8)
                assert float(together.scale[i, j]) == alone.scale_value
                assert int(together.zero_point[i, j]) == alone.zero_point_value

    def test_float_zero_point_leaves_zero_out(self):
        qparams = choose_qparams(
            tensor(5.0, 1.0),
            tensor(6.0, 1.0),
            quint8,
            granularity=PerAxis(0),
            float_zero_point=True,
        )
        assert qparams.scale.tolist() == pytest.approx([1 / 255, 1.0])
        assert qparams.zero_point.tolist() == pytest.approx([-1275.0, -1.0])
        x = torch.tensor([[5.0, 5.5, 6.0], [1.0, 1.0, 1.0]])
        assert torch.allclose(dequantize(quantize(x, qparams), qparams), x, atol=0.5 / 255)
        assert torch.allclose(fake_quantize(x, qparams), x, atol=0.5 / 255)

    @pytest.mark.parametrize(
        ("low", "high", "arguments", "error", "message"),
        [
            ([1.0], [0.0], {}, UncalibratedError, r"above the largest.*Run calibration data"),
            ([math.inf], [-math.inf], {}, UncalibratedError, "min=.inf."),
            ([math.nan], [1.0], {}, NonFiniteError, "must be finite"),
            ([0.0], [math.inf], {}, NonFiniteError, r"max=\[inf\]"),
            ([0.0], [1.0, 2.0], {}, ShapeError, r"shape \(1,\).*shape \(2,\)"),
            ([0.0], [1.0], {"eps": 0.0}, ArgumentError, "eps must be positive"),
            ([0.0], [1.0], {"eps": math.nan}, ArgumentError, "eps must be positive"),
            ([0.0], [1.0], {"quant_max": 256}, ArgumentError, "does not fit quint8"),
            ([0.0], [1.0], {"quant_min": 3, "quant_max": 3}, ArgumentError, "quant_min=3"),
            (
                [0.0],
                [1.0],
                {"symmetric": True, "float_zero_point": True},
                ArgumentError,
                "affine integers",
            ),
        ],
    )
    def test_refuses(self, low, high, arguments, error, message: str):
        with pytest.raises(error, match=message):
            choose_qparams(tensor(*low), tensor(*high), quint8, **arguments)


class TestQParams:
    def test_takes_the_codes_of_its_type(self):
        qparams = QParams(torch.ones(()), torch.zeros((), dtype=torch.int32), qint8)
        assert (qparams.quant_min, qparams.quant_max) == (-128, 127)
        assert qparams.granularity == PerTensor()

    @pytest.mark.parametrize(
        ("scale", "zero_point", "dtype", "error", "message"),
        [
            (math.nan, 0, quint8, NonFiniteError, "scale must be finite"),
            (math.inf, 0, quint8, NonFiniteError, "scale must be finite"),
            (0.0, 0, quint8, ArgumentError, "positive in float32"),
            (1e-60, 0, quint8, ArgumentError, "positive in float32"),
            (-1.0, 0, quint8, ArgumentError, "positive in float32"),
            (1.0, 256, quint8, ArgumentError, r"code of quint8.*0 to 255.*256"),
            (1.0, -1, quint8, ArgumentError, "0 to 255"),
            (1.0, 1, as_qdtype("float8_e5m2"), ArgumentError, "0 to 0"),
        ],
    )
    def test_are_checked(self, scale, zero_point, dtype, error, message: str):
        with pytest.raises(error, match=message):
            QParams.per_tensor(scale, zero_point, dtype)

    def test_refuse_shapes_and_codes_that_do_not_fit(self):
        with pytest.raises(ShapeError, match=r"different shapes.*\(2,\).*\(1,\)"):
            QParams(torch.ones(2), torch.zeros(1, dtype=torch.int32), qint8)
        with pytest.raises(ArgumentError, match=r"-128 <= quant_min.*quant_min=-200"):
            QParams(torch.ones(()), torch.zeros((), dtype=torch.int32), qint8, quant_min=-200)

    def test_tell_the_same_map_from_another(self):
        a = QParams.per_tensor(0.5, 3, quint8)
        assert a.same_as(QParams.per_tensor(0.5, 3, quint8))
        others = [
            QParams.per_tensor(0.25, 3, quint8),
            QParams.per_tensor(0.5, 4, quint8),
            QParams.per_tensor(0.5, 3, qint8),
            QParams(a.scale, a.zero_point, quint8, quant_max=100),
            QParams(a.scale, a.zero_point, quint8, PerAxis(0)),
        ]
        assert not any(a.same_as(other) for other in others)

    def test_know_whether_zero_points_are_zero(self):
        assert QParams.per_tensor(0.5, 0, qint8).symmetric_around_zero
        assert not QParams.per_tensor(0.5, 1, qint8).symmetric_around_zero

    def test_move_to_a_device(self, device: torch.device):
        moved = QParams.per_tensor(0.5, 3, quint8).to(device)
        assert moved.scale.device.type == moved.zero_point.device.type == device.type
        assert (moved.dtype, moved.quant_max) == (quint8, 255)


@pytest.mark.parametrize("dtype", INTEGERS, ids=repr)
def test_reduced_range_has_half_the_codes(dtype: QDType):
    low, high = reduced_range(dtype)
    assert high - low + 1 == dtype.levels // 2
    assert dtype.quant_min <= low < high <= dtype.quant_max


def test_reduced_range_is_for_integers():
    assert reduced_range(qint8) == (-64, 63)
    with pytest.raises(DTypeError, match=r"integer types.*float8_e5m2"):
        reduced_range(as_qdtype("float8_e5m2"))
