"""Convolutions by Triton: the integers of the reference kernel."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.errors import UnsupportedError
from tests.qlab.ops.examples import W, X, Y, assert_equal, codes, per_channel
from tests.qlab.ops.test_triton_gemm import TYPES, scales

examples = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of `qlab.ops.conv2d`: groups, strides, dilations and paddings beyond the kernel."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    groups = draw(st.sampled_from([1, 2, 5]))
    channels, each = draw(st.sampled_from([1, 3, 17])), draw(st.sampled_from([1, 2, 9]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    sizes = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    pairs = {
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
    }
    reach = (d * (k - 1) for d, k in zip(pairs["dilation"], kernel, strict=True))
    fits = zip(sizes, pairs["padding"], reach, strict=True)
    assume(all(size + 2 * p > r for size, p, r in fits))
    x_type, w_type, outputs = draw(TYPES), draw(TYPES), each * groups
    x = codes(x_type, draw(st.integers(1, 2)), channels * groups, *sizes)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    weight = codes(w_type, outputs, channels, *kernel)
    bias = torch.randn(outputs) if draw(st.booleans()) else None
    y = draw(st.none() | TYPES.flatmap(scales))
    given = (x, draw(scales(x_type)), weight, draw(scales(w_type, outputs)), bias, y)
    return given, {**pairs, "groups": groups, "relu": draw(st.booleans())}


@examples
@given(convolutions())
def test_conv2d_is_the_reference_bit_by_bit(triton_device: torch.device, case: Any):
    args, options = case
    assert_equal("triton", "conv2d", triton_device, *args, **options)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_all_paddings(triton_device: torch.device, mode: str):
    layer = (codes(quint8, 2, 3, 6, 5), X, codes(qint8, 4, 3, 3, 3), W, None, Y)
    options = {"padding": (1, 2), "padding_mode": mode}
    assert_equal("triton", "conv2d", triton_device, *layer, **options)


def test_uneven_padding_that_keeps_the_size(triton_device: torch.device):
    layer = (codes(quint8, 2, 3, 6, 5), X, codes(qint8, 4, 3, 2, 4), W, None, Y)
    assert_equal("triton", "conv2d", triton_device, *layer, padding="same")


def test_several_tiles_of_pixels_outputs_and_channels(triton_device: torch.device):
    layer = (codes(quint8, 1, 70, 12, 12), X, codes(qint8, 140, 70, 1, 1), per_channel(140))
    assert_equal("triton", "conv2d", triton_device, *layer, torch.randn(140), Y)


def test_depthwise_with_more_pixels_and_channels_than_a_tile(triton_device: torch.device):
    layer = (codes(quint8, 2, 70, 6, 6), X, codes(qint8, 140, 1, 3, 3), per_channel(140))
    options = {"groups": 70, "padding": 1}
    assert_equal("triton", "conv2d", triton_device, *layer, torch.randn(140), Y, **options)


@pytest.mark.parametrize("groups", [1, 6])
def test_one_axis(triton_device: torch.device, groups: int):
    layer = (codes(quint8, 2, 6, 11), X, codes(qint8, 12, 6 // groups, 3), per_channel(12), None, Y)
    options = {"groups": groups, "stride": 2, "padding": 2, "dilation": 2}
    assert_equal("triton", "conv1d", triton_device, *layer, **options)


def test_an_empty_batch(triton_device: torch.device):
    layer = (codes(quint8, 0, 3, 6, 5), X, codes(qint8, 4, 3, 3, 3), W, None, Y)
    assert_equal("triton", "conv2d", triton_device, *layer)


def test_a_narrow_output_of_a_wide_range_saturates_alike(triton_device: torch.device):
    y = Y.to("cpu")
    layer = (codes(quint8, 1, 40, 5, 5), X, codes(qint8, 8, 40, 3, 3), per_channel(8), None, y)
    assert_equal("triton", "conv2d", triton_device, *layer, padding=1, relu=True)


def test_three_axes_have_no_kernel_of_triton():
    layer = (codes(quint8, 1, 2, 3, 3, 3), X, codes(qint8, 4, 2, 1, 1, 1), W, None, Y)
    assert "triton" not in ops.kernels.kernels_of("conv3d")
    assert ops.kernel_for("conv3d", *layer) in ("onednn", "reference")


def test_a_weight_with_scales_along_the_sum_has_an_obstacle(triton_device: torch.device):
    from qlab.granularity import PerAxis
    from qlab.qparams import QParams

    along = QParams(torch.rand(3) + 0.1, torch.zeros(3, dtype=torch.int32), qint8, PerAxis(1))
    layer = (codes(quint8, 1, 3, 4, 4), X, codes(qint8, 4, 3, 1, 1), along, None, Y)
    with ops.use("triton"), pytest.raises(UnsupportedError, match="triton: the weight's scale is"):
        ops.conv2d(*(v.to(triton_device) if v is not None else None for v in layer))
