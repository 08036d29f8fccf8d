"""What the generators share: random quantized tensors of torch 2.13, and the file they go into."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

torch.backends.quantized.engine = "onednn"
_CODES = {torch.quint8: torch.uint8, torch.qint8: torch.int8, torch.qint32: torch.int32}


class Writer:
    """Collects cases and writes them as one compressed file, without pickle."""

    def __init__(self, family: str) -> None:
        self.path = Path(__file__).with_name(f"{family}.npz")
        self.cases: list[dict[str, Any]] = []
        self.chunks: dict[str, list[np.ndarray]] = defaultdict(list)
        self.lengths: dict[str, int] = defaultdict(int)

    def add(self, op: str, tensors: dict[str, Tensor | None], **kwargs: Any) -> None:
        """Records one call; quantized tensors are stored as codes and parameters."""
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        quantized = {name: tensor for name, tensor in given.items() if tensor.is_quantized}
        plain = {n: t.int_repr() if t.is_quantized else t for n, t in given.items()}
        case = {
            "op": op,
            "tensors": {name: self._store(tensor) for name, tensor in plain.items()},
            "qparams": {name: self._store_qparams(t) for name, t in quantized.items()},
            "kwargs": kwargs,
        }
        self.cases.append(case)

    def _store(self, tensor: Tensor) -> dict[str, Any]:
        values = tensor.detach().contiguous().numpy()
        name = str(values.dtype)
        place = {"dtype": name, "start": self.lengths[name], "shape": list(tensor.shape)}
        if tensor.dim() in (4, 5) and not tensor.is_contiguous():
            place["channels_last"] = True
        self.chunks[name].append(values.reshape(-1))
        self.lengths[name] += values.size
        return place

    def _store_qparams(self, q: Tensor) -> dict[str, Any]:
        per_channel = q.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        scale = q.q_per_channel_scales() if per_channel else torch.tensor(q.q_scale())
        zero = q.q_per_channel_zero_points() if per_channel else torch.tensor(q.q_zero_point())
        return {
            "scale": self._store(scale.to(torch.float32)),
            "zero_point": self._store(zero.to(torch.int32)),
            "dtype": str(q.dtype).removeprefix("torch."),
            "axis": q.q_per_channel_axis() if per_channel else None,
        }

    def write(self) -> None:
        """Writes the file and says how large it is."""
        index = np.frombuffer(json.dumps(self.cases).encode(), dtype=np.uint8)
        flat = {name: np.concatenate(chunks) for name, chunks in self.chunks.items()}
        np.savez_compressed(self.path, allow_pickle=False, index=index, **flat)
        print(f"{self.path.name}: {len(self.cases)} cases, {self.path.stat().st_size:,} bytes")


def integer(low: int, high: int) -> int:
    """A random integer from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, ()).item())


def coin(share: float = 0.5) -> bool:
    """True with probability ``share``."""
    return torch.rand(()).item() < share


def random_codes(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uniform codes of a quantized type."""
    limits = torch.iinfo(_CODES[dtype])
    return torch.randint(limits.min, limits.max + 1, shape, dtype=_CODES[dtype])


def per_tensor(
    shape: tuple[int, ...], dtype: torch.dtype = torch.quint8, *, scale: float | None = None
) -> Tensor:
    """A quantized tensor with a random zero point, in any memory layout."""
    codes = random_codes(shape, dtype)
    if len(shape) in (4, 5) and coin():
        layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        codes = codes.contiguous(memory_format=layout)
    limits = torch.iinfo(codes.dtype)
    scale = float(torch.rand(()) * 0.1 + 1e-3) if scale is None else scale
    return torch._make_per_tensor_quantized_tensor(codes, scale, integer(limits.min, limits.max))


def weight_of(shape: tuple[int, ...], *, channels: bool, ties: bool) -> Tensor:
    """A qint8 weight with zero points of 0."""
    codes = random_codes(shape, torch.qint8)
    if not channels:
        scale = 2.0**-9 if ties else float(torch.rand(()) * 0.02 + 1e-4)
        return torch._make_per_tensor_quantized_tensor(codes, scale, 0)
    scales = torch.rand(shape[0]) * 0.02 + 1e-4
    if ties:
        scales = 2.0 ** torch.randint(-11, -7, (shape[0],)).float()
    zeros = torch.zeros(shape[0], dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(codes, scales, zeros, 0)


def output_qparams(real: Tensor, *, ties: bool = False) -> tuple[float, int]:
    """A scale that spreads ``real`` over most codes; a power of two where ties are wanted."""
    scale = max(float(real.std()) / 40, 1e-4)
    if ties:
        scale = 2.0 ** round(float(np.log2(scale)))
    return float(torch.tensor(scale)), integer(60, 190)
