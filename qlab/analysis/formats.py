"""Number formats side by side: what their codes mean, how finely they resolve, what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qlab.dtypes import QDType, float8_e4m3fn, float8_e5m2, integer
from qlab.errors import UnsupportedError
from qlab.granularity import Granularity
from qlab.qparams import QParams, dequantize
from qlab.ranges import MSE, QuantizationError, TensorSpec, expected_error, measured_error
from qlab.stats import TensorStats

#: dB that one more bit gains: the error halves.
DB_PER_BIT = 20 * math.log10(2)
FLOAT8 = (float8_e4m3fn, float8_e5m2)
#: Bits of exponent of each float8 format; the rest but the sign is mantissa.
EXPONENT_BITS = {float8_e4m3fn: 4, float8_e5m2: 5}


def all_codes(qparams: QParams) -> pd.DataFrame:
    """Every code of a format, its bit pattern and the number it stands for.

    Args:
        qparams: One scale.

    Returns:
        One row per code, in the order of the bit patterns read as unsigned numbers (float8) or of
        the codes (integers): ``bits`` (float8: sign, exponent and mantissa apart), ``code`` (the
        integer; of float8 the byte) and ``value``, which may be NaN or infinite for float8.
    """
    dtype = qparams.dtype
    if dtype.is_float:
        codes = torch.arange(256, dtype=torch.uint8)
        values = dequantize(codes.view(dtype.storage), qparams)
        cut = 1 + EXPONENT_BITS[dtype]
        patterns = [f"{code:08b}" for code in codes.tolist()]
        bits = [f"{p[0]} {p[1:cut]} {p[cut:]}" for p in patterns]
    else:
        codes = torch.arange(qparams.quant_min, qparams.quant_max + 1)
        values = dequantize(codes.to(dtype.storage), qparams)
        bits = [f"{code % 2**dtype.bits:0{dtype.bits}b}" for code in codes.tolist()]
    return pd.DataFrame({"bits": bits, "code": codes.tolist(), "value": values.double().tolist()})


def spacing(qparams: QParams) -> pd.DataFrame:
    """How far apart the positive levels of a format lie.

    Returns:
        One row per positive level but the largest: ``value``, ``step`` (to the next one up, real
        units) and ``relative`` (``step / value``).
    """
    values = np.unique(all_codes(qparams)["value"].to_numpy(float))
    levels = values[np.isfinite(values) & (values > 0)]
    steps, below = np.diff(levels), levels[:-1]
    return pd.DataFrame({"value": below, "step": steps, "relative": steps / below})


def stored_bytes(count: int, qparams: QParams) -> tuple[int, int]:
    """Bytes of so many packed codes, and of their scales (float32) and zero points (int32; left
    out where all are 0)."""
    scales = qparams.scale.numel()
    each = 4 if qparams.symmetric_around_zero else 8
    return math.ceil(count * qparams.dtype.bits / 8), scales * each


@dataclass(frozen=True)
class FormatCost:
    """What a tensor takes and loses in one format.

    Attributes:
        dtype: The codes' type.
        granularity: Which elements share a scale.
        qparams: The chosen scales.
        code_bytes: Bytes of the packed codes.
        scale_bytes: Bytes of scales and zero points.
        count: Number of values.
        error: What it loses.
    """

    dtype: QDType
    granularity: Granularity
    qparams: QParams
    code_bytes: int
    scale_bytes: int
    count: int
    error: QuantizationError

    @property
    def bytes(self) -> int:
        """Codes and scales together."""
        return self.code_bytes + self.scale_bytes

    @property
    def bits_per_value(self) -> float:
        """Bits of codes and scales over the number of values."""
        return 8 * self.bytes / max(self.count, 1)


def cost_of(x: Tensor | TensorStats, spec: TensorSpec) -> FormatCost:
    """What one way to quantize a tensor takes and loses.

    Args:
        x: The tensor, or what is known of it; statistics take one scale per tensor.
        spec: How to quantize it.
    """
    if isinstance(x, TensorStats):
        qparams, count = spec.qparams(x), x.count
        error = expected_error(x, qparams)
    else:
        qparams, count = spec.qparams_of(x), x.numel()
        error = measured_error(x, qparams)
    codes, scales = stored_bytes(count, qparams)
    return FormatCost(spec.dtype, spec.granularity, qparams, codes, scales, count, error)


def format_costs(
    x: Tensor | TensorStats, granularities: tuple[Granularity, ...]
) -> tuple[FormatCost, ...]:
    """A tensor in integers of 2 to 8 bits and both float8 formats.

    Ranges are those of least squared error (MSE) where the format has them, else min-max. Weights
    (a tensor) are symmetric, activations (statistics) affine.

    Args:
        x: The tensor or its statistics.
        granularities: Each is tried with each format.
    """
    weight = isinstance(x, Tensor)
    dtypes = [*(integer(bits, signed=weight) for bits in range(2, 9)), *FLOAT8]
    found = []
    for granularity in granularities:
        for dtype in dtypes:
            spec = TensorSpec(dtype, weight and not dtype.is_float, granularity)
            found.append(_best(x, spec))
    return tuple(found)


def _best(x: Tensor | TensorStats, spec: TensorSpec) -> FormatCost:
    try:
        return cost_of(x, replace(spec, policy=MSE()))
    except UnsupportedError:
        return cost_of(x, spec)
