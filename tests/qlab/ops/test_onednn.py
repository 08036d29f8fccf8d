"""When oneDNN's kernels are used, and that they are never used where they are not exact."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qlab import ops
from qlab.dtypes import QDType, float8_e4m3fn, integer, qint8, quint8
from qlab.granularity import Granularity, PerAxis, PerGroup
from qlab.ops import calls, onednn
from qlab.qparams import QParams
from tests.qlab.ops.examples import W, X, Y, codes, half_steps, per_channel

needs_vnni = pytest.mark.skipif(
    onednn.unavailable() is not None, reason=f"oneDNN is not exact: {onednn.unavailable()}"
)


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets obstacles of a call show on every CPU."""
    monkeypatch.setattr(onednn, "unavailable", lambda: None)


IMAGE = codes(quint8, 1, 4, 9, 9)
KERNEL = codes(qint8, 6, 4, 3, 3)
INT16 = QParams.per_tensor(0.1, 0, integer(16, signed=True))
FLOAT8 = QParams.per_tensor(0.1, 0, float8_e4m3fn)
UINT8 = QParams.per_tensor(0.1, 0, quint8)


def scales(granularity: Granularity, shape: tuple[int, ...], dtype: QDType) -> QParams:
    ones = torch.ones(granularity.scale_shape(shape))
    return QParams(ones, ones.int() * 0, dtype, granularity)


OBSTACLES: dict[str, dict[str, Any]] = {
    "the input's type qint16": {"x": IMAGE.short(), "x_qparams": INT16},
    "the weight's type float8": {"weight": KERNEL.to(torch.float8_e4m3fn), "w_qparams": FLOAT8},
    "the weight is stored as torch.uint8": {"weight": KERNEL.view(torch.uint8), "w_qparams": UINT8},
    "a zero point of the weight is not 0": {"w_qparams": QParams.per_tensor(0.1, 3, qint8)},
    "the weight's scale is PerAxis": {"w_qparams": scales(PerAxis(1), (6, 4, 3, 3), qint8)},
    "the weight's scale is PerGroup": {"w_qparams": scales(PerGroup(2, 1), (6, 4, 3, 3), qint8)},
    "the input's scale is PerAxis": {"x_qparams": scales(PerAxis(1), (1, 4, 9, 9), quint8)},
    "the input or the weight is empty": {"x": IMAGE[:0]},
    r"padding \(2, 2\) is more than half": {"padding": 2},
    r"dilation \(1, 4\) is larger than the input": {
        "x": codes(quint8, 1, 4, 9, 3),
        "weight": KERNEL[..., :2],
        "dilation": (1, 4),
        "padding": (0, 2),
    },
    "17 output channels per group": {"weight": codes(qint8, 34, 2, 3, 3), "groups": 2},
    "the output is one element wide, with a stride": {"x": IMAGE[..., :4], "stride": 2},
}


def conv_call(**change: Any) -> calls.ConvCall:
    own = {"x": IMAGE, "x_qparams": X, "weight": KERNEL, "w_qparams": W}
    return calls.bind_conv("conv2d", 2, **{**own, "bias": None, "y_qparams": Y, **change})


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("message", OBSTACLES)
def test_each_obstacle_is_named(message: str) -> None:
    assert onednn.obstacle(conv_call()) is None
    found = onednn.obstacle(conv_call(**OBSTACLES[message]))
    assert found is not None and re.match(message, found)


@pytest.mark.usefixtures("available")
def test_the_device_is_an_obstacle() -> None:
    call = conv_call(x=IMAGE.to("meta"), weight=KERNEL.to("meta"))
    assert onednn.obstacle(call) == "the tensors are on meta, not on the CPU"


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("groups, depth", [(2, 3), (1, 1)])
def test_three_axes_with_groups_or_without_depth_are_left_out(groups: int, depth: int) -> None:
    x, weight = codes(quint8, 1, 4, depth, 5, 5), codes(qint8, 4, 4 // groups, 1, 3, 3)
    call = calls.bind_conv("conv3d", 3, x, X, weight, W, None, Y, groups=groups)
    assert onednn.obstacle(call) == "three axes with groups, or with a depth of 1"


@needs_vnni
@given(st.data())
@settings(max_examples=300)
def test_no_shape_without_an_obstacle_is_wrong(data: st.DataObject) -> None:
    """Shapes around those that oneDNN gets wrong, with results near the middle of two codes."""
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 2**20)))
    n = draw(st.integers(1, 3))
    axis = st.lists(st.integers(1, 4), min_size=n, max_size=n)
    kernel, stride, dilation, sizes = draw(axis), draw(axis), draw(axis), draw(axis)
    padding = [
        draw(st.integers(0, d * (k - 1) // 2)) for d, k in zip(dilation, kernel, strict=True)
    ]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = [
        s + max(r - 2 * p, d) - 1
        for s, r, p, d in zip(sizes, reach, padding, dilation, strict=True)
    ]
    groups, inner = draw(st.sampled_from([1, 1, 2, 5])), draw(st.integers(1, 20))
    outer = draw(st.integers(1, 16 if groups > 1 else 40))
    w_qparams = per_channel(groups * outer) if draw(st.booleans()) else W
    zero_point = draw(st.sampled_from([0, 117, 128, 255]))
    x_qparams = QParams.per_tensor(0.0371, zero_point, quint8)
    factor = 2 ** draw(st.integers(5, 12))
    arguments = (
        codes(quint8, draw(st.integers(1, 2)), groups * inner, *sizes),
        x_qparams,
        codes(qint8, groups * outer, inner, *kernel),
        w_qparams,
        draw(st.sampled_from([None, torch.randn(groups * outer) * 9])),
        half_steps(x_qparams.scale * w_qparams.scale, factor),
    )
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    assume(onednn.obstacle(calls.bind_conv(f"conv{n}d", n, *arguments, **options)) is None)
    run = getattr(ops, f"conv{n}d")
    with ops.use("onednn"):
        fast = run(*arguments, **options)
    with ops.use("reference"):
        assert torch.equal(fast, run(*arguments, **options))


@needs_vnni
@given(
    st.integers(1, 64),
    st.integers(1, 900),
    st.integers(1, 70),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_linear_is_bit_equal_near_the_middle_of_two_codes(
    rows: int, features: int, outputs: int, signed: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    dtype = qint8 if seed % 3 == 0 else quint8
    x_qparams = QParams.per_tensor(0.0371, 17, dtype)
    w_qparams = per_channel(outputs) if seed % 2 else W
    x, weight = codes(dtype, rows, features), codes(qint8, outputs, features)
    y_qparams = half_steps(x_qparams.scale * w_qparams.scale, 2 ** (5 + seed % 8))
    with ops.use("onednn"):
        fast = ops.linear(x, x_qparams, weight, w_qparams, None, y_qparams)
    with ops.use("reference"):
        assert torch.equal(fast, ops.linear(x, x_qparams, weight, w_qparams, None, y_qparams))


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_process_restricted_below_vnni_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "avx2")
    reason = onednn.unavailable.__wrapped__()
    assert reason == f"{name}=avx2 forbids the VNNI instructions"


@pytest.mark.parametrize(
    "features, built, message",
    [
        ({"avx2": True}, True, "this CPU has no VNNI instructions"),
        ({"avx512_vnni": True}, False, "this PyTorch is built without oneDNN"),
    ],
)
def test_a_machine_without_the_instructions_says_so(
    features: dict[str, bool], built: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built)
    assert onednn.unavailable.__wrapped__() == message


@needs_vnni
def test_saturating_kernels_are_noticed_without_being_told() -> None:
    """In a fresh process, since oneDNN reads the variable once."""
    assert onednn._wrong_sums() is None
    code = "from qlab.ops import onednn; print(onednn._wrong_sums())"
    path = os.pathsep.join(sys.path)
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "oneDNN's integer convolution is not exact on this CPU"


@needs_vnni
def test_int8_activations_give_what_uint8_gives() -> None:
    signed = QParams.per_tensor(float(X.scale), 117 - 128, qint8)
    y = ops.conv2d(IMAGE, X, KERNEL, W, None, Y)
    with ops.use("onednn"):
        other = ops.conv2d((IMAGE.short() - 128).to(torch.int8), signed, KERNEL, W, None, Y)
    assert torch.equal(y, other)
