"""Error metrics, one meaning each, over all samples together.

With x the float reference and y the quantized value:

- SQNR [dB] ``10 log10(sum x^2 / sum (x - y)^2)``, higher is better, +inf where equal
- NMSE ``sum (x - y)^2 / sum x^2``, lower is better
- cosine ``sum xy / sqrt(sum x^2 sum y^2)``, higher is better
- max abs ``max |x - y|``, in the tensor's own unit, lower is better
- RMSE/scale ``sqrt(mean (x - y)^2) / scale``, in steps of the quantizer, lower is better; an ideal
  one gives 1/√12 ≈ 0.289
- clipped share, of the values of x that lie beyond the quantizer's codes [%], lower is better
- rounding and clipping: the NMSE of the values inside and of those beyond, which add up to it

Zero signal and zero noise are defined: no noise is +inf dB, NMSE 0; noise without signal is
-inf dB, NMSE inf. The cosine of two zero tensors is 1, of a zero and a non-zero one 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qlab.errors import ArgumentError, DTypeError, NonFiniteError, ShapeError

METRICS = ("sqnr", "nmse", "cosine", "max_abs")

_SMALL = 2**15
_BLOCK = 2**17  # elements; a few of these fit into a core's cache


def sqnr_db(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)`` of two sums of squares, with zero defined as above."""
    if noise == 0.0:
        return math.inf
    if signal == 0.0:
        return -math.inf
    return 10.0 * math.log10(signal / noise)


@dataclass
class ErrorSums:
    """Running sums from which every metric follows; batches may come in any number and size."""

    count: int = 0
    signal: float = 0.0
    quantized: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    max_abs: float = 0.0
    clipped: int = 0
    clipping: float = 0.0

    def update(self, x: Tensor, y: Tensor, limits: tuple[float, float] | None = None) -> None:
        """Adds one batch.

        Args:
            x: Float reference, any shape.
            y: Quantized value, dequantized; the same shape.
            limits: Between what values of x are rounded; beyond, they are clipped.

        Raises:
            ShapeError: The shapes differ.
            NonFiniteError: Either holds NaN or infinity.
        """
        if x.shape != y.shape:
            raise ShapeError(
                "An error needs two tensors of one shape",
                expected=f"shape {tuple(x.shape)}",
                received=f"shape {tuple(y.shape)}",
            )
        if x.numel() == 0:
            return
        x, y = x.detach(), y.detach()
        sums = _sums(x.float(), y.float(), limits)
        if not all(map(math.isfinite, sums)) or (sums[4] and not sums[2]):
            # Squares beyond float32, or below it, or NaN or infinity
            sums = _exact_sums(x.double(), y.double(), limits)
        if not all(map(math.isfinite, sums)):
            raise NonFiniteError(
                "An error cannot be measured on NaN or infinity",
                received=_non_finite_counts(x, y),
                fix="Find the first layer that produces them with Lab.calibrate().",
            )
        self.count += x.numel()
        self.signal += sums[0]
        self.quantized += sums[1]
        self.noise += sums[2]
        self.product += sums[3]
        self.max_abs = max(self.max_abs, sums[4])
        self.clipped += int(sums[5])
        self.clipping += sums[6]

    def merge(self, other: ErrorSums) -> None:
        """Adds the sums of other batches."""
        self.count += other.count
        self.signal += other.signal
        self.quantized += other.quantized
        self.noise += other.noise
        self.product += other.product
        self.max_abs = max(self.max_abs, other.max_abs)
        self.clipped += other.clipped
        self.clipping += other.clipping

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise ratio in dB; higher is better."""
        return sqnr_db(self.signal, self.noise)

    @property
    def nmse(self) -> float:
        """Noise energy over signal energy; lower is better."""
        return self._share(self.noise)

    @property
    def nmse_clipping(self) -> float:
        """NMSE of the values beyond the limits; lower is better."""
        return self._share(self.clipping)

    @property
    def nmse_rounding(self) -> float:
        """NMSE of the values between the limits; lower is better."""
        return self._share(max(self.noise - self.clipping, 0.0))

    @property
    def clipped_share(self) -> float:
        """Share of the values beyond the limits [%]; 0 where there are no values."""
        return 100.0 * self.clipped / self.count if self.count else 0.0

    def rmse_scale(self, scale: float) -> float:
        """Root of the mean squared error in steps of a quantizer; 0 where there are no values."""
        return math.sqrt(self.noise / self.count) / scale if self.count else 0.0

    def _share(self, noise: float) -> float:
        if noise == 0.0:
            return 0.0
        return noise / self.signal if self.signal else math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between reference and quantized value; higher is better."""
        if self.noise == 0.0:
            return 1.0
        if self.signal == 0.0 or self.quantized == 0.0:
            return 0.0
        ratio = self.product / (math.sqrt(self.signal) * math.sqrt(self.quantized))
        return max(-1.0, min(1.0, ratio))

    def as_dict(self) -> dict[str, float]:
        """Every metric of `METRICS` by name, in that order."""
        return {name: float(getattr(self, name)) for name in METRICS}


def _sums(x: Tensor, y: Tensor, limits: tuple[float, float] | None) -> list[float]:
    """Sums over all elements: x², y², (x − y)², xy; the largest |x − y|; what is clipped.

    Large tensors go through the cache in blocks, each summed in float32 (a relative error of some
    1e-7) and the blocks in float64; small ones as in `_exact_sums`.
    """
    if x.numel() < _SMALL or x.device.type != "cpu":
        return _exact_sums(x, y, limits)
    flat_x, flat_y = _aligned(x, y)
    rows, clipped, clipping = [], 0, 0.0
    for start in range(0, x.numel(), _BLOCK):
        p, q = flat_x[start : start + _BLOCK], flat_y[start : start + _BLOCK]
        difference = p - q
        products = ((p, p), (q, q), (difference, difference), (p, q))
        dots = [torch.dot(a, b) for a, b in products]
        if limits is not None:
            outside = p.clamp(*limits).ne(p)
            count = int(outside.count_nonzero())
            if count:
                clipped += count
                clipping += float(difference[outside].square().sum(dtype=torch.float64))
        rows.append(torch.stack([*dots, difference.abs_().max()]))
    table = torch.stack(rows).double()
    return [*table[:, :4].sum(0).tolist(), float(table[:, 4].max()), clipped, clipping]


def _exact_sums(x: Tensor, y: Tensor, limits: tuple[float, float] | None) -> list[float]:
    """The same, summed in float64.

    Element-wise products and reductions, so that tensors of different memory layouts need no copy.
    """
    difference = x - y
    products = ((x, x), (y, y), (difference, difference), (x, y))
    sums = [(a * b).sum(dtype=torch.float64) for a, b in products]
    found = torch.stack([*sums, difference.abs().max().double()]).tolist()
    if limits is None:
        return [*found, 0, 0.0]
    beyond = difference[x.clamp(*limits) != x]
    return [*found, beyond.numel(), float(beyond.square().sum(dtype=torch.float64))]


def _aligned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as one axis, in the same order of elements; copies only where it must."""
    if x.is_contiguous() and y.is_contiguous():
        return x.reshape(-1), y.reshape(-1)
    dense = torch.empty_like(x)  # keeps the strides of x where it has no gaps
    if dense.stride() != x.stride():
        return x.contiguous().reshape(-1), y.contiguous().reshape(-1)
    if y.stride() != x.stride():
        y = dense.copy_(y)
    shape = (x.numel(),), (1,)
    return x.as_strided(*shape, x.storage_offset()), y.as_strided(*shape, y.storage_offset())


def _non_finite_counts(x: Tensor, y: Tensor) -> str:
    bad_x, bad_y = (int((~torch.isfinite(t)).sum()) for t in (x, y))
    return f"{bad_x} non-finite values in the reference, {bad_y} in the quantized tensor"


@dataclass
class LabelCounts:
    """Running counts of top-1 agreement between two classifiers, and of their correct answers."""

    samples: int = 0
    agreeing: int = 0
    labelled: int = 0
    float_correct: int = 0
    quantized_correct: int = 0

    def update(self, x: Tensor, y: Tensor, labels: Tensor | None) -> None:
        """Adds one batch of logits.

        Args:
            x: Float logits, shape (N, ..., classes).
            y: Quantized logits, the same shape.
            labels: Class indices, shape (N, ...), or None where there are none.

        Raises:
            ShapeError: Labels that do not match the logits.
            DTypeError: Labels that are not whole numbers.
            ArgumentError: Labels that are no class.
        """
        top_x, top_y = x.argmax(-1), y.argmax(-1)
        self.samples += top_x.numel()
        self.agreeing += int((top_x == top_y).sum())
        if labels is None:
            return
        if labels.shape != top_x.shape:
            raise ShapeError(
                "Labels do not match the network's output",
                expected=f"class indices of shape {tuple(top_x.shape)}",
                received=f"shape {tuple(labels.shape)}",
            )
        if labels.is_floating_point() or labels.is_complex():
            raise DTypeError(
                "Labels are class indices",
                expected="a tensor of whole numbers",
                received=f"{labels.dtype}",
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < x.shape[-1]:
            raise ArgumentError(
                "A label is no class of the network",
                expected=f"class indices from 0 to {x.shape[-1] - 1}",
                received=f"{int(labels.min())} to {int(labels.max())}",
            )
        self.labelled += top_x.numel()
        self.float_correct += int((top_x == labels).sum())
        self.quantized_correct += int((top_y == labels).sum())

    def merge(self, other: LabelCounts) -> None:
        """Adds the counts of other batches."""
        self.samples += other.samples
        self.agreeing += other.agreeing
        self.labelled += other.labelled
        self.float_correct += other.float_correct
        self.quantized_correct += other.quantized_correct

    def as_dict(self) -> dict[str, float]:
        """Top-1 agreement, and both accuracies where labels were seen; all in percent."""
        if not self.samples:
            return {}
        result = {"top1_agreement": 100.0 * self.agreeing / self.samples}
        if self.labelled:
            result["float_accuracy"] = 100.0 * self.float_correct / self.labelled
            result["accuracy"] = 100.0 * self.quantized_correct / self.labelled
        return result
