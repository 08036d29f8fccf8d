"""Rows of a quantized table, and sums of them, as real numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from qlab.dtypes import integer
from qlab.errors import ArgumentError, DTypeError, ShapeError
from qlab.ops import checks
from qlab.ops.kernels import defined
from qlab.qparams import QParams

MODES = ("sum", "mean")
_QUINT4 = integer(4, signed=False)


@defined
def embedding(indices: Tensor, weight: Tensor, w_qparams: QParams) -> Tensor:
    """Rows of a table: ``fma(q, s, f32(-z · s))``, product and sum rounded once.

    Four-bit rows with float zero points keep ``s`` and ``f32(-z · s)`` as float16, as the
    reference does.

    Args:
        indices: int32 or int64, any shape, each from 0 to rows - 1.
        weight: Codes of shape (rows, columns).
        w_qparams: Of any granularity; usually one scale and zero point per row.

    Returns:
        float32 of shape (*indices.shape, columns).

    Raises:
        DTypeError: Indices that are not integers, or codes of another type.
        ShapeError: The weight has not two axes.
        ArgumentError: An index outside the table, or a table on another device.

    Source: the reference's ``embedding_byte`` and ``embedding_4bit``; bit-equal to them.
    """
    _check_table("embedding", indices, weight, w_qparams)
    scale, bias = _scale_and_bias(weight, w_qparams)
    return _fma(weight[indices], scale[indices], bias[indices])


@defined
def embedding_bag(
    indices: Tensor,
    weight: Tensor,
    w_qparams: QParams,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
    *,
    mode: str = "sum",
    include_last_offset: bool = False,
) -> Tensor:
    """Sums of rows of a table, or their means.

    Rows are added one after the other: with the row's weight ``p`` (1 if not given) and
    ``b = f32(-z · s)``, ``acc = fma(q, f32(s · p), f32(acc + f32(b · p)))``. An empty bag gives 0.

    Args:
        indices: int32 or int64; (bags, length), or flat with ``offsets``.
        weight: Codes of shape (rows, columns).
        w_qparams: As in `embedding`, four-bit rows too.
        offsets: int32 or int64 (bags,): where each bag begins in flat ``indices``; ascending,
            the first 0.
        per_sample_weights: float32 of the shape of ``indices``; mode ``"sum"`` only.
        mode: ``"sum"`` or ``"mean"``. The reference sums whatever the mode.
        include_last_offset: ``offsets`` ends with the number of indices.

    Returns:
        float32 of shape (bags, columns).

    Raises:
        DTypeError: Indices or offsets that are not integers, or codes of another type.
        ShapeError: Offsets are missing or superfluous, or a shape does not fit.
        ArgumentError: An index outside the table, offsets that do not ascend, or weighted means.
        UnknownNameError: Another mode.

    Source: the reference's ``embedding_bag_byte`` and ``embedding_bag_4bit``; sums are bit-equal.
    """
    checks.choice("embedding_bag", "mode", mode, MODES)
    _check_table("embedding_bag", indices, weight, w_qparams)
    _check_samples(indices, per_sample_weights, mode)
    starts, ends = _bounds(indices, offsets, include_last_offset)
    flat, scale_and_bias = indices.reshape(-1), _scale_and_bias(weight, w_qparams)
    lengths = ends - starts
    total = torch.zeros(len(starts), weight.shape[1], device=weight.device)
    for place in range(int(lengths.max()) if len(lengths) else 0):
        bags = (lengths > place).nonzero().flatten()
        samples = starts[bags] + place
        rows = flat[samples]
        scale, bias = (values[rows] for values in scale_and_bias)
        if per_sample_weights is not None:
            shares = per_sample_weights.reshape(-1)[samples].unsqueeze(1)
            scale, bias = scale * shares, bias * shares
        total[bags] = _fma(weight[rows], scale, total[bags] + bias)
    return total if mode == "sum" else total / lengths.clamp(min=1).unsqueeze(1)


def _scale_and_bias(weight: Tensor, w_qparams: QParams) -> tuple[Tensor, Tensor]:
    """What a row's codes are multiplied with, and what is added: views of (rows, 1 or columns)."""
    half = w_qparams.dtype == _QUINT4 and w_qparams.float_zero_point
    bias = -w_qparams.zero_point * w_qparams.scale
    result = []
    for values in (w_qparams.scale, bias):
        rounded = values.to(torch.float16).to(torch.float32) if half else values
        expanded = w_qparams.granularity.expand(rounded, weight.shape)
        result.append(expanded.expand(weight.shape[0], expanded.shape[-1] if expanded.dim() else 1))
    return result[0], result[1]


def _fma(codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``codes · scale + bias`` rounded once to float32, on any device."""
    return (codes.to(torch.float64) * scale + bias).to(torch.float32)


def _check_indices(op: str, what: str, values: Tensor) -> None:
    checks.tensor(op, what, values)
    if values.dtype not in (torch.int32, torch.int64):
        raise DTypeError(
            f"{op}: the {what} are not integers",
            expected="a tensor of torch.int64 or torch.int32",
            received=values.dtype,
        )


def _check_table(op: str, indices: Tensor, weight: Tensor, w_qparams: QParams) -> None:
    _check_indices(op, "indices", indices)
    checks.codes(op, "weight", weight, w_qparams)
    checks.dims(op, "weight", weight, (2,), "(rows, columns)")
    w_qparams.granularity.check_values(w_qparams.scale, weight.shape, f"{op} weight's scale")
    if indices.device != weight.device:
        raise ArgumentError(
            f"{op}: indices and weight are on different devices",
            expected=f"both on {weight.device}",
            received=f"indices on {indices.device}",
        )
    if torch.compiler.is_compiling():  # a trace asks for no value; the check is part of it
        inside = ((indices >= 0) & (indices < weight.shape[0])).all()
        message = f"{op}: an index lies outside the table"
        torch._assert_async(inside, message)  # pyright: ignore[reportPrivateImportUsage]
    elif indices.numel():
        low, high = (int(value) for value in indices.aminmax())
        if low < 0 or high >= weight.shape[0]:
            raise ArgumentError(
                f"{op}: an index lies outside the table",
                expected=f"0 to {weight.shape[0] - 1}",
                received=low if low < 0 else high,
            )


def _check_samples(indices: Tensor, per_sample_weights: Tensor | None, mode: str) -> None:
    if per_sample_weights is None:
        return
    if mode != "sum":
        raise ArgumentError(
            "embedding_bag: only sums take per_sample_weights",
            expected="mode='sum'",
            received=f"mode={mode!r}",
        )
    checks.vector("embedding_bag", "per_sample_weights", per_sample_weights, indices.shape)


def _bounds(
    indices: Tensor, offsets: Tensor | None, include_last_offset: bool
) -> tuple[Tensor, Tensor]:
    """Where each bag begins and ends in the flattened indices."""
    op, count = "embedding_bag", indices.numel()
    checks.dims(op, "indices", indices, (1, 2), "(bags, length), or flat with offsets")
    if (offsets is None) != (indices.dim() == 2):
        raise ShapeError(
            f"{op}: flat indices take offsets, those of two axes do not",
            received=f"indices of shape {tuple(indices.shape)}, "
            + ("no offsets" if offsets is None else "and offsets"),
        )
    if offsets is None:
        bags, length = indices.shape
        starts = torch.arange(bags, device=indices.device) * length
        return starts, starts + length
    _check_indices(op, "offsets", offsets)
    checks.dims(op, "offsets", offsets, (1,), "(bags,)")
    end = offsets.new_tensor([count])
    edges = torch.cat((offsets[:-1] if include_last_offset else offsets, end))
    given = offsets if include_last_offset else edges
    orderly = bool((given.diff() >= 0).all()) and bool((given[:1] == 0).all())
    if not orderly or (include_last_offset and (not len(offsets) or int(offsets[-1]) != count)):
        raise ArgumentError(
            f"{op}: the offsets do not divide the indices into bags",
            expected=f"ascending numbers, the first 0, "
            f"{'the last' if include_last_offset else 'none above'} {count}",
            received=offsets.tolist(),
        )
    return edges[:-1], edges[1:]
