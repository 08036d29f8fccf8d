"""`quantize_dynamic`: weights are quantized now, activations in every call."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import type_before_parametrizations as type_of

from qlab import registry
from qlab.dtypes import QDType, as_qdtype, integer, qint8, quint8
from qlab.eager.convert import ModuleMapping, convert, swap_module
from qlab.eager.prepare import propagate_qconfig_
from qlab.errors import DTypeError, UnknownNameError, UnsupportedError, check_dict
from qlab.ops import checks
from qlab.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
)
from qlab.registry.asked import asked_by

QConfigSpec = Mapping[Any, QConfig | None] | Set[Any] | None

_RECURRENT = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.RNNCell, nn.GRUCell)
_DEFAULTS: dict[Any, tuple[QConfig, tuple[type[nn.Module], ...]]] = {
    qint8: (default_dynamic_qconfig, (nn.Linear, *_RECURRENT)),
    torch.float16: (float16_dynamic_qconfig, (nn.Linear, *_RECURRENT)),
    quint8: (float_qparams_weight_only_qconfig, (nn.EmbeddingBag, nn.Embedding)),
    integer(4, signed=False): (float_qparams_weight_only_qconfig_4bit, (nn.EmbeddingBag,)),
}


def dynamic_mappings() -> dict[type[nn.Module], type[nn.Module]]:
    """Which dynamically quantized class takes the place of which float class, from the registry.

    The output layer inside ``nn.MultiheadAttention`` is not in it: the attention reads its weight
    as a float tensor.
    """
    return {
        module: row.dynamic
        for row in registry.ROWS
        if row.dynamic is not None
        for module in (*row.modules, row.qat_dynamic)
        if module not in (None, NonDynamicallyQuantizableLinear)
    }


def embedding_mappings() -> dict[type[nn.Module], type[nn.Module]]:
    """Which quantized class takes the place of which embedding: weights only, from the registry."""
    rows = [registry.row_for_module(kind) for kind in (nn.Embedding, nn.EmbeddingBag)]
    return {row.modules[0]: row.static for row in rows if row is not None and row.static}


def _float_zero_points(qconfig: QConfig | None) -> bool:
    """Whether a qconfig is for embeddings, whose zero points are real numbers."""
    spec = None if qconfig is None else asked_by(qconfig.weight).spec
    return spec is not None and spec.float_zero_point


def quantize_dynamic(
    model: nn.Module,
    qconfig_spec: QConfigSpec = None,
    dtype: QDType | torch.dtype | str = qint8,
    mapping: ModuleMapping | None = None,
    inplace: bool = False,
) -> nn.Module:
    """A model whose layers have quantized weights and quantize their inputs as they come.

    No calibration is needed. Inputs and outputs of every layer stay real numbers.

    Args:
        model: A float model; the result is in evaluation mode.
        qconfig_spec: Which modules: a dict from class or path to qconfig (None for float), where
            a module's entry holds for all that is in it; a set of classes and paths, which get the
            qconfig of ``dtype``; None for linear and recurrent layers.
        dtype: `qlab.qint8` or ``torch.float16`` for linear and recurrent layers, `qlab.quint8` or
            4-bit unsigned for embeddings. Not read if ``qconfig_spec`` is a dict.
        mapping: Float class → dynamically quantized class; the registry's if not given.
        inplace: Change the model itself instead of a copy. A model that is itself such a layer
            cannot become another in place: use what is returned.

    Warns:
        UserWarning: A class that was asked for occurs in the model and has no dynamically
            quantized form.

    Raises:
        DTypeError: No qconfig is known for ``dtype``, or the spec is no dict or set.
        UnknownNameError: The model has no module of a path in the spec.
        UnsupportedError: A layer cannot be quantized as asked; names it. The model stays as it was.

    Example:
        >>> from torch import nn
        >>> quantize_dynamic(nn.Sequential(nn.Linear(4, 2)), {nn.Linear})[0]
        DynamicQuantizedLinear(in_features=4, out_features=2, dtype=qlab.qint8, ...)
    """
    checks.model("quantize_dynamic", model)
    check_dict("quantize_dynamic", "mapping", mapping)
    spec = _spec(qconfig_spec, dtype)
    known = dynamic_mappings() if mapping is None else mapping
    if qconfig_spec is not None:
        _check(model, spec, {**known, **embedding_mappings()})
    if mapping is None and any(map(_float_zero_points, spec.values())):
        known = {**known, **embedding_mappings()}
    mapping = known
    if not inplace:
        model = copy.deepcopy(model)
    model.eval()
    propagate_qconfig_(model, spec)
    if type_of(model) in mapping and getattr(model, "qconfig", None) is not None:
        return swap_module(model, mapping)
    return convert(model, mapping, inplace=True)


def _spec(
    qconfig_spec: QConfigSpec, dtype: QDType | torch.dtype | str
) -> Mapping[Any, QConfig | None]:
    """A qconfig spec as a dict."""
    if isinstance(qconfig_spec, Mapping):
        return qconfig_spec
    if not isinstance(qconfig_spec, Set | None):
        raise DTypeError(
            "quantize_dynamic: qconfig_spec says which modules to quantize",
            expected="a dict, a set of classes and paths, or None",
            received=type(qconfig_spec).__name__,
        )
    qconfig, classes = _DEFAULTS.get(_known(dtype), (None, ()))
    if qconfig is None:
        raise DTypeError(
            "quantize_dynamic: no default qconfig for this dtype",
            expected=", ".join(getattr(known, "name", str(known)) for known in _DEFAULTS),
            received=repr(dtype),
            fix="Pass a dict from module class or path to QConfig.",
        )
    return dict.fromkeys(classes if qconfig_spec is None else qconfig_spec, qconfig)


def _known(dtype: QDType | torch.dtype | str) -> QDType | torch.dtype | None:
    if dtype is torch.float16:
        return torch.float16
    try:
        return as_qdtype(dtype)
    except (DTypeError, UnknownNameError):
        return None


def _check(model: nn.Module, spec: Mapping[Any, QConfig | None], mapping: ModuleMapping) -> None:
    """Raises for paths that do not exist, and warns of classes that would silently stay float."""
    paths = dict(model.named_modules())
    for key, qconfig in spec.items():
        if qconfig is not None and not (isinstance(qconfig, tuple) and len(qconfig) == 2):
            raise DTypeError(
                f"quantize_dynamic: {key!r} is given something that is no qconfig",
                expected="a QConfig(activation=..., weight=...) or None",
                received=repr(qconfig),
            )
        if isinstance(key, str):
            if key not in paths:
                raise UnknownNameError.of("module", key, [path for path in paths if path])
            asked = {key: paths[key]}
        else:
            asked = {path: module for path, module in paths.items() if type_of(module) is key}
        for path, module in asked.items() if qconfig is not None else ():
            if type_of(module) in embedding_mappings() and not _float_zero_points(qconfig):
                raise UnsupportedError(
                    f"quantize_dynamic: {path or 'the model'!r} ({type(module).__name__}) cannot "
                    "be quantized so: every row of a table needs a scale of its own",
                    expected="float_qparams_weight_only_qconfig, the one of dtype=qlab.quint8",
                    received=repr(qconfig),
                )
            if not any(type_of(part) in mapping for part in module.modules()):
                warnings.warn(
                    f"quantize_dynamic: {path or 'the model'!r} stays in float: "
                    f"{type(module).__name__} has no dynamically quantized form",
                    stacklevel=3,
                )
