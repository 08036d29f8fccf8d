"""What ``torch.compile`` and ``torch.export`` see of operators that no trace can hold.

Two operators of the dispatcher, opaque to the compiler. ``qlab::contract`` is linear and the
convolutions: their kernels choose by memory layout, keep packed weights and count their runs.
``qlab::embedding_bag`` adds as many rows as its longest bag has, which depends on values. Every
other operator of `qlab.ops` is traced through its definition, whose element-wise operations a
compiler fuses better than we do.

A call is described by JSON: the operator, its options and how codes are read. So a graph that was
compiled in one process can be kept and run in another.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.dtypes import as_qdtype
from qlab.granularity import granularity_from_dict, granularity_to_dict
from qlab.ops import contractions, dynamic, transposed
from qlab.ops.embeddings import embedding_bag as _embedding_bag
from qlab.ops.kernels import forced
from qlab.ops.packed import PackedWeight, stamps_of, unchanged
from qlab.qparams import QParams

_PLACES = (contractions, transposed, dynamic)


def described(
    op: str,
    x_qparams: QParams | None,
    w_qparams: QParams,
    y_qparams: QParams | None,
    options: Mapping[str, Any],
) -> str:
    """A call of an operator of `qlab.ops` as the operators of this module read it.

    Args:
        op: Its name.
        x_qparams: Of the input; None for ``linear_dynamic`` and ``embedding_bag``.
        w_qparams: Of the weight; scale and zero point are given with every call.
        y_qparams: Of the output; None for float32.
        options: Its keyword arguments, JSON values.
    """
    forms = {"x": _format(x_qparams), "w": _format(w_qparams, values=False)}
    call = {"op": op, **forms, "y": _format(y_qparams), "options": dict(options)}
    return json.dumps(call)


def _format(qparams: QParams | None, *, values: bool = True) -> dict[str, Any] | None:
    if qparams is None:
        return None
    numbers = (qparams.scale_value, qparams.zero_point_value) if values else None
    return {
        "dtype": qparams.dtype.name,
        "granularity": granularity_to_dict(qparams.granularity),
        "limits": (qparams.quant_min, qparams.quant_max),
        "values": numbers,
    }


def _read(form: Mapping[str, Any], scale: Tensor, zero_point: Tensor) -> QParams:
    granularity = granularity_from_dict(form["granularity"])
    return QParams(scale, zero_point, as_qdtype(form["dtype"]), granularity, *form["limits"])


def _per_tensor(form: Mapping[str, Any] | None, device: torch.device) -> QParams | None:
    if form is None:
        return None
    scale, zero_point = form["values"]
    whole = torch.tensor(zero_point, dtype=torch.int32, device=device)
    return _read(form, torch.tensor(scale, dtype=torch.float32, device=device), whole)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A weight and what a described call does with it."""

    stamps: tuple[Any, ...]
    packed: PackedWeight
    function: Callable[..., Tensor]
    qparams: tuple[QParams | None, QParams, QParams | None]
    options: dict[str, Any]


_LAYERS: dict[tuple[str, int], tuple[weakref.ref[Tensor], _Layer]] = {}


def _layer(call: str, weight: Tensor, scale: Tensor, zero_point: Tensor) -> _Layer:
    """The layer of a weight; made anew when its scales have changed."""
    key = call, id(weight)
    known = _LAYERS.get(key)
    if known is not None:
        reference, layer = known
        if reference() is weight and all(map(unchanged, (scale, zero_point), layer.stamps)):
            return layer
    read = json.loads(call)
    function = next(getattr(place, read["op"]) for place in _PLACES if hasattr(place, read["op"]))
    x_qparams, y_qparams = (_per_tensor(read[role], weight.device) for role in ("x", "y"))
    qparams = x_qparams, _read(read["w"], scale, zero_point), y_qparams
    options = {name: _tuples(value) for name, value in read["options"].items()}
    made = _Layer(stamps_of(scale, zero_point), PackedWeight(), function, qparams, options)
    _LAYERS[key] = weakref.ref(weight, partial(_forget, _LAYERS, key)), made
    return made


def _forget(layers: dict[Any, Any], key: Any, _: object) -> None:
    """Drops a weight that is gone; the table is given because modules are gone first at exit."""
    layers.pop(key, None)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _dense(result: Tensor) -> Tensor:
    """The memory layout that the operator promises: channels last over two axes."""
    last = torch.channels_last if result.dim() == 4 else torch.contiguous_format
    return result.contiguous(memory_format=last)


def _contract(
    call: str, x: Tensor, weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None
) -> Tensor:
    layer = _layer(call, weight, scale, zero_point)
    ready = layer.packed.ready
    if ready is not None and ready.serves(x, forced(), weight, bias):
        return _dense(ready.run(x))
    x_qparams, w_qparams, y_qparams = layer.qparams
    arguments = (x, x_qparams, weight, w_qparams, bias, y_qparams)
    if x_qparams is None:
        arguments = (x, weight, w_qparams, bias)
    return _dense(layer.function(*arguments, **layer.options, packed=layer.packed))


@lru_cache(maxsize=1024)
def _shape_of(call: str) -> tuple[Callable[..., Tensor], dict[str, Any], torch.dtype]:
    """The float operator whose result has the same shape, its options, and the output's type."""
    read = json.loads(call)
    names = ("stride", "padding", "output_padding", "dilation", "groups")
    given = read["options"]
    options = {name: _tuples(given[name]) for name in names if name in given}
    dtype = torch.float32 if read["y"] is None else as_qdtype(read["y"]["dtype"]).storage
    return getattr(F, read["op"].removesuffix("_dynamic")), options, dtype


def _fake(
    call: str, x: Tensor, weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None
) -> Tensor:
    function, options, dtype = _shape_of(call)
    shaped = function(x.to(torch.float32), weight.to(torch.float32), None, **options)
    return _dense(torch.empty_like(shaped, dtype=dtype))


_read_call = lru_cache(maxsize=1024)(json.loads)


def _bag(
    call: str,
    indices: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
) -> Tensor:
    read = _read_call(call)
    w_qparams = _read(read["w"], scale, zero_point)
    samples = offsets, per_sample_weights
    return _embedding_bag(indices, weight, w_qparams, *samples, **read["options"])


def _fake_bag(
    call: str,
    indices: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
) -> Tensor:
    bags = indices.shape[0]
    if offsets is not None:
        bags = offsets.shape[0] - _read_call(call)["options"]["include_last_offset"]
    return weight.new_empty((bags, weight.shape[1]), dtype=torch.float32)


_LIBRARY = torch.library.Library("qlab", "FRAGMENT")


def _opaque(
    name: str, takes: str, run: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """An operator that compilers call without looking inside; ``fake`` tells its result's form."""
    _LIBRARY.define(f"{name}({takes}) -> Tensor")
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"qlab::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.qlab, name).default


#: ``contract(call, x, weight, w_scale, w_zero_point, bias)``, the call from `described`.
contract = _opaque(
    "contract",
    "str call, Tensor x, Tensor weight, Tensor scale, Tensor zero_point, Tensor? bias",
    _contract,
    _fake,
)

#: ``embedding_bag(call, indices, weight, w_scale, w_zero_point, offsets, per_sample_weights)``.
embedding_bag = _opaque(
    "embedding_bag",
    "str call, Tensor indices, Tensor weight, Tensor scale, Tensor zero_point,"
    " Tensor? offsets, Tensor? per_sample_weights",
    _bag,
    _fake_bag,
)
