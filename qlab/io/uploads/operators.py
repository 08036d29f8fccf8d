"""The operators that an uploaded program may call: a literal list; nothing else is looked up.

They compute tensors from tensors. None reads a file, hands out memory that nobody wrote, calls
back into Python, or reinterprets memory (`as_strided`, `set_`, `empty`, `from_file` and kin).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from qlab.errors import UnsupportedError
from qlab.io.uploads.strict_json import shown

_LAYERS = (
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d addmm "
    "avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bmm channel_shuffle conv1d "
    "conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d convolution dropout alpha_dropout "
    "feature_dropout einsum embedding group_norm instance_norm layer_norm rms_norm linear matmul "
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices mm mv dot "
    "native_group_norm native_layer_norm _native_batch_norm_legit_no_training "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d outer pixel_shuffle pixel_unshuffle "
    "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu "
    "gru lstm rnn_tanh rnn_relu _trilinear upsample_bilinear2d upsample_nearest1d "
    "upsample_nearest2d "
    "upsample_nearest3d upsample_bicubic2d upsample_linear1d upsample_trilinear3d"
)
_ACTIVATIONS = (
    "celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid "
    "log_softmax _log_softmax mish prelu relu relu6 rrelu selu sigmoid silu softmax _softmax "
    "softplus softshrink tanh threshold"
)
_ARITHMETIC = (
    "abs add addcdiv addcmul bitwise_and bitwise_not bitwise_or bitwise_xor ceil clamp clamp_max "
    "__and__ __or__ __xor__ "
    "clamp_min clip cos div eq erf exp expm1 floor floor_divide fmod ge gt isfinite isinf isnan le "
    "lerp log log10 log1p log2 logical_and logical_not logical_or logical_xor lt maximum minimum "
    "mul nan_to_num ne neg pow reciprocal remainder round rsqrt rsub sign sin sqrt square sub "
    "true_divide trunc where"
)
_REDUCTIONS = (
    "all amax amin any argmax argmin cumprod cumsum logsumexp max mean median min norm "
    "linalg_vector_norm prod std sum topk sort argsort var var_mean std_mean"
)
_SHAPES = (
    "alias broadcast_tensors broadcast_to cat chunk clone constant_pad_nd contiguous detach "
    "diagonal expand expand_as flatten flip gather im2col index index_select lift_fresh "
    "lift_fresh_copy masked_fill meshgrid movedim narrow numpy_T pad permute "
    "reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d "
    "replication_pad2d reshape roll scatter select slice split split_with_sizes squeeze stack "
    "swapaxes t tensor_split tile transpose tril triu type_as unbind unflatten unfold unsqueeze "
    "_unsafe_view unsafe_chunk unsafe_split view view_as hstack vstack concat"
)
_MAKERS = (
    "arange full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor "
    "zeros zeros_like to _to_copy sym_size sym_numel"
)
_CHECKS = "_assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range_for_size"

CHECKS = frozenset(_CHECKS.split())
ALLOWED = frozenset(
    " ".join((_LAYERS, _ACTIVATIONS, _ARITHMETIC, _REDUCTIONS, _SHAPES, _MAKERS, _CHECKS)).split()
)
#: Arithmetic on sizes, by the name that an archive gives it.
ON_SIZES: dict[str, Callable[..., Any]] = {
    f"_operator.{function.__name__}": function
    for function in (
        operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg,
        operator.truediv, operator.eq, operator.ne, operator.ge, operator.gt, operator.le,
        operator.lt, operator.and_, operator.or_, operator.not_,
    )
}  # fmt: skip
_TARGET = re.compile(r"torch\.ops\.aten\.([a-z_A-Z0-9]{1,64})\.([a-zA-Z_0-9]{1,64})\Z")


def operator_of(target: str) -> Callable[..., Any]:
    """The operator behind a target of an archive.

    Args:
        target: Such as ``"torch.ops.aten.conv2d.default"``.

    Returns:
        An overload of `torch.ops.aten` that writes to nothing but, for names that end in ``_``, its
        first argument; or a function on sizes.

    Raises:
        UnsupportedError: Not in the list; names it and what is.
    """
    if target in ON_SIZES:
        return ON_SIZES[target]
    match = _TARGET.match(target)
    if match is None:
        raise UnsupportedError(
            "An uploaded program may call operators of torch.ops.aten only",
            expected="torch.ops.aten.NAME.OVERLOAD",
            received=shown(target),
            fix="Export with plain PyTorch operators, in eval mode and without torch.no_grad() "
            "inside the forward: program.run_decompositions({}) flattens what it can.",
        )
    name, overload = match.groups()
    plain = name.removesuffix("_")
    if name not in ALLOWED and plain not in ALLOWED and plain != "detach":
        raise UnsupportedError(
            f"The operator aten.{name} is not among those that an uploaded program may call",
            expected="one of: " + ", ".join(sorted(ALLOWED)),
            fix="Replace it in the model, or load the model from Python code instead of a file.",
        )
    packet = getattr(torch.ops.aten, name, None)
    found = getattr(packet, overload, None) if packet and overload in packet.overloads() else None
    if found is None:
        raise UnsupportedError(f"This torch has no operator {shown(target)}")
    if _writes_elsewhere(found, in_place=name not in ALLOWED):
        raise UnsupportedError(f"The operator {shown(target)} writes into tensors it was given")
    return found


def _writes_elsewhere(overload: torch._ops.OpOverload, in_place: bool) -> bool:
    written = [
        index
        for index, argument in enumerate(overload._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return written != ([0] if in_place else [])


def not_in_place(overload: Any) -> Callable[..., Any]:
    """What gives the same values as an operator whose name ends in ``_``, as a new tensor."""
    name, kind = overload._schema.name.removeprefix("aten::"), overload._overloadname
    found = getattr(getattr(torch.ops.aten, name.removesuffix("_")), kind, None)
    if found is None:
        raise UnsupportedError(f"The operator aten.{name}.{kind} writes in place")
    return found


def is_in_place(function: object) -> bool:
    """Whether an operator writes to its first argument."""
    if not isinstance(function, torch._ops.OpOverload):
        return False
    name = function._schema.name
    return name.endswith("_") and not name.endswith("__")  # aten.__and__ is Python's &
