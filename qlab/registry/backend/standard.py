"""The backends that the reference names, each derived from the registry's tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from qlab.dtypes import QDType, qint8, quint4x2, quint8
from qlab.errors import ArgumentError
from qlab.registry.backend.config import BackendConfig, BackendPatternConfig, ObservationType
from qlab.registry.backend.dtypes import DTypeConfig, DTypeWithConstraints
from qlab.registry.patterns import ON_REQUEST, PATTERNS, Pattern
from qlab.registry.rows import OutputKind, Row
from qlab.registry.table import ROWS

_TINY = 2**-12  # the smallest scale that QNNPACK and ExecuTorch take
_FLOAT = torch.float
ACTIVATION_QINT8 = DTypeWithConstraints(
    qint8, quant_min_lower_bound=-128, quant_max_upper_bound=127, scale_min_lower_bound=_TINY
)
WEIGHT_QINT8 = DTypeWithConstraints(
    qint8, quant_min_lower_bound=-127, quant_max_upper_bound=127, scale_min_lower_bound=_TINY
)

weighted_op_quint8_dtype_config = DTypeConfig(quint8, quint8, qint8, _FLOAT)
weighted_op_qint8_dtype_config = DTypeConfig(
    ACTIVATION_QINT8, ACTIVATION_QINT8, WEIGHT_QINT8, _FLOAT
)
default_op_quint8_dtype_config = DTypeConfig(quint8, quint8)
default_op_qint8_dtype_config = DTypeConfig(ACTIVATION_QINT8, ACTIVATION_QINT8)
default_op_fp16_dtype_config = DTypeConfig(
    torch.float16, torch.float16, torch.float16, torch.float16
)
default_dynamic_int8_dtype_config = DTypeConfig(quint8, _FLOAT, qint8, _FLOAT, is_dynamic=True)
default_dynamic_qint8_dtype_config = DTypeConfig(
    ACTIVATION_QINT8, _FLOAT, WEIGHT_QINT8, _FLOAT, is_dynamic=True
)
default_dynamic_float16_dtype_config = DTypeConfig(
    torch.float16, _FLOAT, torch.float16, _FLOAT, is_dynamic=True
)
input_output_only_quint8_dtype_config = DTypeConfig(quint8, quint8, _FLOAT, _FLOAT)
weight_only_quint8_dtype_config = DTypeConfig(_FLOAT, _FLOAT, quint8)
weight_only_quint4x2_dtype_config = DTypeConfig(_FLOAT, _FLOAT, quint4x2)

_DYNAMIC = (default_dynamic_int8_dtype_config, default_dynamic_float16_dtype_config)
_TABLES = (weight_only_quint8_dtype_config, weight_only_quint4x2_dtype_config)


@dataclass(frozen=True)
class Backend:
    """The data types that a backend takes.

    Attributes:
        weighted: For layers with a weight, statically.
        others: For the other operators.
        dynamic: For layers that quantize their input as it comes.
        tables: For embeddings.
        rows: The registry's rows that it runs; None for all.
        patterns: The chains that it fuses, as far as it runs their rows.
    """

    weighted: tuple[DTypeConfig, ...] = (weighted_op_quint8_dtype_config,)
    others: tuple[DTypeConfig, ...] = (default_op_quint8_dtype_config,)
    dynamic: tuple[DTypeConfig, ...] = _DYNAMIC
    tables: tuple[DTypeConfig, ...] = _TABLES
    rows: frozenset[str] | None = None
    patterns: tuple[Pattern, ...] = PATTERNS


_TINY_SCALES = {
    "weighted": (weighted_op_qint8_dtype_config, weighted_op_quint8_dtype_config),
    "others": (default_op_qint8_dtype_config, default_op_quint8_dtype_config),
    "dynamic": (default_dynamic_qint8_dtype_config, *_DYNAMIC),
}
_TENSORRT = DTypeConfig(qint8, qint8, qint8, _FLOAT)
_RUN_BY_TENSORRT = frozenset(
    row.name
    for row in ROWS
    if row.name in ("add", "cat", "relu", "batch_norm2d", "batch_norm3d", "reshape", "flatten")
    or "pool" in row.name
    or row.name.startswith(("linear", "conv"))
)

BACKENDS: dict[str, Backend] = {
    "native": Backend(),
    "native_legacy": Backend(
        (weighted_op_quint8_dtype_config, default_op_fp16_dtype_config),
        (default_op_quint8_dtype_config, default_op_fp16_dtype_config),
    ),
    "fbgemm": Backend(),
    "x86": Backend(),
    "onednn": Backend(patterns=(*PATTERNS, *ON_REQUEST)),
    "qnnpack": Backend(**_TINY_SCALES),
    "executorch": Backend(**_TINY_SCALES),
    "tensorrt": Backend((_TENSORRT,), (DTypeConfig(qint8, qint8),), (), (), _RUN_BY_TENSORRT),
}


def backend_config(name: str) -> BackendConfig:
    """The config of a backend: one pattern per class, function, method and chain it runs."""
    backend = BACKENDS[name]
    rows = [row for row in ROWS if backend.rows is None or row.name in backend.rows]
    made = BackendConfig(name)
    for row in rows:
        made.set_backend_pattern_configs(_of_row(row, backend))
    covered = {module for row in rows for module in (*row.modules, *row.qat)}
    for pattern in backend.patterns:
        if pattern.fused in covered:
            made.set_backend_pattern_config(_of_chain(pattern))
    return made


def _of_row(row: Row, backend: Backend) -> Iterator[BackendPatternConfig]:
    trained: dict[Any, Any] = {aware.float_type: aware for aware in row.qat}
    patterns = (*row.modules, *row.qat, *row.functions, *row.methods)
    shares = row.output.kind is OutputKind.SHARED
    kind = (
        ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
        if shares
        else ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
    )
    dtypes = _dtypes(row, backend)
    if not dtypes:
        return
    for pattern in patterns:
        made = BackendPatternConfig(pattern).set_observation_type(kind).set_dtype_configs(dtypes)
        if row.reference is not None:
            made.set_root_module(row.reference.float_type)
            made.set_reference_quantized_module(row.reference)
        yield made.set_qat_module(trained.get(pattern))


def _dtypes(row: Row, backend: Backend) -> list[DTypeConfig]:
    if row.output.kind is OutputKind.FLOAT:
        return list(backend.tables) if row.weight else []
    if row.static is None and row.dynamic is not None:
        return list(backend.dynamic)
    if row.weight and row.reference is not None:
        return [*backend.weighted, *(backend.dynamic if row.dynamic is not None else ())]
    if row.output.kind is OutputKind.FIXED:
        integer = (isinstance(config.output_dtype, QDType) for config in backend.others)
        return [
            _fixed(row, config) if codes else config
            for config, codes in zip(backend.others, integer, strict=True)
        ]
    return list(backend.others)


def _fixed(row: Row, config: DTypeConfig) -> DTypeConfig:
    """The same types, the output's scale and zero point those of its fixed range."""
    dtype = config.output_dtype
    assert isinstance(dtype, QDType)
    qparams = row.output.fixed_qparams(dtype)
    output = DTypeWithConstraints(
        dtype,
        quant_min_lower_bound=dtype.quant_min,
        quant_max_upper_bound=dtype.quant_max,
        scale_exact_match=qparams.scale_value,
        zero_point_exact_match=qparams.zero_point_value,
    )
    return DTypeConfig(config.input_dtype_with_constraints, output)


def _of_chain(pattern: Pattern) -> BackendPatternConfig:
    made = BackendPatternConfig(pattern.modules).set_fused_module(pattern.fused)
    return made.set_fuser_method(partial(fuse, pattern))


def fuse(pattern: Pattern, is_qat: bool, *modules: nn.Module) -> nn.Module:
    """Fuses modules that a pattern describes, as ``fuser_method`` is called.

    Raises:
        ArgumentError: They are in training mode, or not, where the opposite is asked for.
    """
    if modules[0].training != is_qat:
        raise ArgumentError(
            f"{pattern.title} cannot be fused: the modules are in another mode than is_qat says",
            expected="training mode" if is_qat else "evaluation mode",
            received="training mode" if modules[0].training else "evaluation mode",
        )
    return pattern.fuse(modules)


def get_native_backend_config() -> BackendConfig:
    """Everything that qlab runs in integers on quint8 and qint8."""
    return backend_config("native")


def get_test_only_legacy_native_backend_config() -> BackendConfig:
    """As `get_native_backend_config`, and float16: weights and results are rounded to it."""
    return backend_config("native_legacy")


def get_fbgemm_backend_config() -> BackendConfig:
    """The backend of x86 servers."""
    return backend_config("fbgemm")


def get_x86_backend_config() -> BackendConfig:
    """The backend of x86 CPUs."""
    return backend_config("x86")


def get_onednn_backend_config() -> BackendConfig:
    """The backend of x86 CPUs by oneDNN: also a convolution with a sum, linear with GELU and kin,
    fused into one operator with one requantization."""
    return backend_config("onednn")


def get_qnnpack_backend_config() -> BackendConfig:
    """The backend of mobile CPUs: also signed activations, scales of at least 2⁻¹²."""
    return backend_config("qnnpack")


def get_executorch_backend_config() -> BackendConfig:
    """The backend of ExecuTorch: as QNNPACK's."""
    return backend_config("executorch")


def get_tensorrt_backend_config() -> BackendConfig:
    """The backend of TensorRT: signed activations, layers, sums and pooling only."""
    return backend_config("tensorrt")


def get_native_backend_config_dict() -> dict[str, Any]:
    """The dict form of `get_native_backend_config`."""
    return get_native_backend_config().to_dict()


def get_test_only_legacy_native_backend_config_dict() -> dict[str, Any]:
    """The dict form of `get_test_only_legacy_native_backend_config`."""
    return get_test_only_legacy_native_backend_config().to_dict()


def get_tensorrt_backend_config_dict() -> dict[str, Any]:
    """The dict form of `get_tensorrt_backend_config`."""
    return get_tensorrt_backend_config().to_dict()
