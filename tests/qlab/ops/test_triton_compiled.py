"""Triton's kernels are compiled for chips that are not here: what their instructions tell.

Every product and sum of the contract is rounded on its own; int8 products run on tensor cores.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted functions cannot be compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from qlab.ops import triton_conv, triton_elementwise, triton_gemm  # noqa: E402
from qlab.ops.triton_rounding import OPTIONS  # noqa: E402

POINTERS = {
    "x": "*u8", "weight": "*i8", "y": "*u8", "scale": "*fp32", "bias": "*fp32",
    "offset": "*i32", "w_zero": "*i32",
    "a": "*u8", "b": "*u8", "zero": "*i32",
    **{f"{tensor}_scale": "*fp32" for tensor in "xyab"},
    **{f"{tensor}_zero": "*i32" for tensor in "xyab"},
}  # fmt: skip
REALS = ("inverse", "zero_point", "low", "high", "eps")
TILE = {"unsigned": True, "relu": True, "codes": True, "block_m": 128, "block_n": 128}
GEMM = TILE | {"zeros": False, "block_k": 64}
LINEAR = (triton_gemm.linear_kernel, GEMM | {"band": 8}, ("outputs", "depth"))
PLACES = ("at_n", "at_h", "at_w")
CONV = (triton_conv.conv_kernel, GEMM | {"deep": True, "at_c": 1}, ("channels", "outputs", *PLACES))
FIRST = (triton_conv.conv_kernel, GEMM | {"deep": False, "zeros": True, "at_c": 1}, ("outputs",))
DEPTHWISE = (
    triton_conv.depthwise_kernel,
    TILE | {"block_m": 32, "block_n": 64, "at_c": 1, "each": 1},
    ("outputs", *PLACES),
)


def compiled(kernel: Any, constants: dict[str, Any], even: tuple[str, ...], chip: int) -> Any:
    """A kernel as it is launched, for a chip's compute capability; needs no driver.

    Args:
        kernel: A function of `triton.jit`.
        constants: What is known at compilation.
        even: Arguments that are multiples of 16, as pointers are.
        chip: Ten times the capability.
    """
    types = {name: POINTERS.get(name, "i32") for name in kernel.arg_names}
    if kernel is triton_elementwise.quantize_kernel:
        types["x"] = "*fp32"
    if kernel is triton_elementwise.layer_norm_kernel:
        types["weight"] = "*fp32"
    if kernel is triton_conv.depthwise_kernel:
        types["x_zero"] = "i32"
    types |= dict.fromkeys(set(REALS) & set(types), "fp32")
    types |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(types.items())
        if kind.startswith("*") or name in even
    }
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    options = {"num_warps": 8, "num_stages": 3, **OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)


SINGLE = {f"{kind}.rn.f32" for kind in ("mul", "add", "sub", "div")}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def operations(code: str) -> set[str]:
    """Arithmetic on float32: one that fuses, flushes or approximates has another name."""
    return set(re.findall(r"\b(?:fma|mad|mul|add|sub|div|sqrt|rsqrt|rcp)\.[\w.]*f32\w*", code))


@pytest.mark.parametrize(
    ("kernel", "chip", "product"),
    [
        (LINEAR, 80, "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"),
        (LINEAR, 90, "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8"),
        (CONV, 90, "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8"),
        (FIRST, 80, "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"),
        (DEPTHWISE, 90, "mad.lo.s32"),
    ],
    ids=["linear-80", "linear-90", "conv-90", "first-conv-80", "depthwise-90"],
)
def test_products_run_on_tensor_cores_and_each_operation_rounds_once(
    kernel: Any, chip: int, product: str
):
    made = compiled(*kernel, chip)
    code = made.asm["ptx"]
    assert product in code
    assert {"mul.rn.f32", "add.rn.f32"} <= operations(code) <= SINGLE
    assert "st.global.v" in code, "codes are not written in groups"
    if kernel in (LINEAR, CONV):
        assert "cp.async" in code, "loads and products do not overlap"
    assert made.metadata.shared <= 48 * 1024


BLOCK = {"block": 1024}
QUANTIZE = (triton_elementwise.quantize_kernel, BLOCK | {"each": False}, ("count",))
ADD = (triton_elementwise.combine_kernel, BLOCK | {"product": False, "relu": True}, ("count",))
NORM = (
    triton_elementwise.layer_norm_kernel,
    BLOCK | {"weighted": True, "biased": True},
    ("features",),
)


def test_rows_of_one_feature_compile():
    """Triton takes an argument that is 1 for a constant, which the interpreter does not."""
    kernel, constants, _ = NORM
    assert "div.rn.f32" in compiled(kernel, constants | {"features": 1}, (), 90).asm["ptx"]


@pytest.mark.parametrize("kernel", [QUANTIZE, ADD, NORM], ids=["quantize", "add", "layer_norm"])
def test_elements_are_computed_in_groups_and_each_operation_rounds_once(kernel: Any):
    code = compiled(*kernel, 90).asm["ptx"]
    assert "add.rn.f32" in operations(code)
    assert operations(code) <= SINGLE | {"sqrt.rn.f32"}
    assert re.search(r"ld\.global\.(v\d\.)?b(32|64)", code), "codes are read one by one"


def test_quantize_rounds_product_and_sum_in_float64():
    code = compiled(*QUANTIZE, 90).asm["ptx"]
    assert "cvt.rn.f32.f64" in code
