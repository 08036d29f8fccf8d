"""How far to scale the inputs of linear layers: the searches of SmoothQuant and AWQ, and clipping.

All are pure functions of matrices; `qlab.algorithms.folding` puts the factors into a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab.algorithms.moments import Moments
from qlab.errors import UnsupportedError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import QParams, fake_quantize
from qlab.ranges import TensorSpec

_SMALLEST = 1e-5  # of a channel's magnitude, relative to the largest
_CLIPS = 20
_DEEPEST_CLIP = 0.5


@dataclass(frozen=True, eq=False)
class Scaling:
    """Factors that a search found.

    Attributes:
        strength: The exponent; None where leaving the inputs as they are was best.
        factors: By which each input channel is divided, float64 (I,); 1 where ``strength`` is None.
        errors: Squared error of each layer's output, quantized with the factors.
        errors_before: The same without.
    """

    strength: float | None
    factors: Tensor
    errors: tuple[float, ...]
    errors_before: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Mean over the layers of the error with the factors over that without; 1 at most."""
        return _ratio(self.errors, self.errors_before)


def smoothing_factors(inputs: Tensor, weights: Sequence[Tensor], strength: float) -> Tensor:
    """``s_j = max|x_j|^α / max|w_j|^(1-α)``: α of the inputs' spread moves into the weights.

    Args:
        inputs: Largest magnitude of each input channel, (I,).
        weights: Of every layer that reads them, (O, I).
        strength: α, 0 to 1.

    Returns:
        float64 (I,), positive; 1 for a channel that is always 0.

    Source: Xiao et al. 2022, "SmoothQuant", arXiv 2211.10438, equation 4.
    """
    reach = inputs.detach().double().abs()
    width = torch.stack([weight.detach().double().abs().amax(0) for weight in weights]).amax(0)
    used = (reach > 0) & (width > 0)
    reach, width = (x.clamp(min=_SMALLEST * float(x.max())) for x in (reach, width))
    return torch.where(used, reach**strength / width ** (1 - strength), torch.ones_like(reach))


def search_smoothing(
    inputs: Tensor,
    weights: Sequence[Tensor],
    specs: tuple[TensorSpec | None, Sequence[TensorSpec | None]],
    strengths: Sequence[float],
    *,
    reach: Tensor | None = None,
) -> Scaling:
    """The migration strength that makes layers that share an input lose least, as quantized.

    Args:
        inputs: What the layers read, float (N, I).
        weights: Of each layer, (O, I).
        specs: How the input, and each weight, is quantized; None for float.
        strengths: The α to try, beside leaving the inputs as they are.
        reach: Largest magnitude of each input channel, (I,), where more was seen than ``inputs``.

    Source: Xiao et al. 2022, "SmoothQuant", arXiv 2211.10438; the search on output error is ours.
    """
    reach = inputs.abs().amax(0) if reach is None else reach
    tried = [(alpha, smoothing_factors(reach, weights, alpha)) for alpha in strengths]
    return _best(_errors_on_rows(inputs, weights, specs), tried, reach)


def _errors_on_rows(
    inputs: Tensor,
    weights: Sequence[Tensor],
    specs: tuple[TensorSpec | None, Sequence[TensorSpec | None]],
) -> Callable[[Tensor], tuple[float, ...]]:
    """From factors to each layer's squared error, its input and weight quantized."""
    activation, weight_specs = specs
    wanted = [F.linear(inputs, weight) for weight in weights]

    def errors(factors: Tensor) -> tuple[float, ...]:
        given, found = _rounded((inputs.double() / factors).to(inputs), activation), []
        for weight, spec, y in zip(weights, weight_specs, wanted, strict=True):
            used = _rounded((weight.detach().double() * factors).to(weight), spec)
            found.append(float((F.linear(given, used) - y).double().square().sum()))
        return tuple(found)

    return errors


def search_activation_aware(
    moments: Moments,
    weights: Sequence[Tensor],
    specs: Sequence[TensorSpec | None],
    strengths: Sequence[float],
    *,
    quantized_input: tuple[Tensor, TensorSpec] | None = None,
) -> Scaling:
    """Factors that protect the weights of loud inputs: ``s_j = mean|x_j|^α``, α by output error.

    Factors that make any of the layers worse are passed over. They are divided by the geometric
    mean of the smallest and the largest, so that weights keep their magnitude.

    Args:
        moments: Of the inputs.
        weights: Of each layer that reads them, (O, I).
        specs: How each is quantized; None for float.
        strengths: The α to try, beside leaving the inputs as they are.
        quantized_input: Rows (N, I) of the input, and how it is quantized: errors are then those
            on these rows, input and weights both quantized. Not given, only weights are.

    Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization", arXiv 2306.00978,
    equation 5.
    """

    def weight_errors(factors: Tensor) -> tuple[float, ...]:
        found = []
        for weight, spec in zip(weights, specs, strict=True):
            wide = weight.detach().double()
            rounded = _rounded((wide * factors).to(weight), spec).double() / factors
            found.append(float(moments.errors(rounded - wide).sum()))
        return tuple(found)

    loud = moments.magnitudes.sum(0)
    if not bool(loud.any()):
        loud = torch.ones_like(loud)
    loud = loud.clamp(min=_SMALLEST * float(loud.max()))
    tried = [(alpha, _centred(loud**alpha)) for alpha in strengths]
    errors = weight_errors
    if quantized_input is not None:
        errors = _errors_on_rows(quantized_input[0], weights, (quantized_input[1], specs))
    return _best(errors, tried, loud, none_worse=True)


def _centred(factors: Tensor) -> Tensor:
    return factors / (factors.max() * factors.min()).sqrt()


def _rounded(x: Tensor, spec: TensorSpec | None) -> Tensor:
    return x.detach() if spec is None else fake_quantize(x.detach(), spec.qparams_of(x))


def _best(
    errors: Callable[[Tensor], tuple[float, ...]],
    tried: Sequence[tuple[float, Tensor]],
    like: Tensor,
    *,
    none_worse: bool = False,
) -> Scaling:
    """The factors of least error, relative to none and equal for all layers; of equals the first.

    Args:
        errors: Squared error of each layer under factors.
        tried: Strengths with their factors.
        like: Any tensor (I,) on the device.
        none_worse: Whether factors that make one layer worse are passed over.
    """
    ones = torch.ones_like(like, dtype=torch.float64)
    before = errors(ones)
    best = Scaling(None, ones, before, before)
    for alpha, factors in tried:
        found = Scaling(alpha, factors, errors(factors), before)
        worse = any(e > b for e, b in zip(found.errors, before, strict=True))
        if found.ratio < best.ratio and not (none_worse and worse):
            best = found
    return best


def _ratio(errors: Sequence[float], before: Sequence[float]) -> float:
    """Mean ratio; a layer without any error counts as 1."""
    ratios = [e / b if b > 0 else 1.0 + e for e, b in zip(errors, before, strict=True)]
    return sum(ratios) / len(ratios)


def search_clip(weight: Tensor, moments: Moments, spec: TensorSpec) -> QParams:
    """Scales whose range is cut where that lowers the error of the *output*, each on its own.

    Ranges from all of the smallest-to-largest one down to half of it are tried, beside what the
    spec's own policy chooses. A scale of a whole output channel, or of the tensor, is judged by
    ``dᵀ H d``; a scale of a group of inputs by its own inputs' part of H, as in the paper.

    Args:
        weight: float (O, …).
        moments: Of the layer's inputs.
        spec: How the weight is quantized.

    Raises:
        UnsupportedError: Scales along another axis than the output channels, or groups along
            another than the inputs.

    Source: Lin et al. 2023, arXiv 2306.00978, section 3 and its implementation.
    """
    granularity, detached = spec.granularity, weight.detach()
    rows = granularity.rows(detached.float())
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    shape = granularity.scale_shape(detached.shape)
    best = spec.qparams_of(detached)
    least = _scale_errors(detached, moments, best)
    for step in range(_CLIPS):
        ratio = 1.0 - step * (1.0 - _DEEPEST_CLIP) / (_CLIPS - 1)
        found = spec.choose((low * ratio).reshape(shape), (high * ratio).reshape(shape))
        errors = _scale_errors(detached, moments, found)
        better = errors < least
        least = torch.where(better, errors, least)
        scale = torch.where(better, found.scale, best.scale)
        zero_point = torch.where(better, found.zero_point, best.zero_point)
        best = QParams(
            scale, zero_point, best.dtype, best.granularity, best.quant_min, best.quant_max
        )
    return best.whole_range()


def _scale_errors(weight: Tensor, moments: Moments, qparams: QParams) -> Tensor:
    """Squared error of the output that each scale is judged by, in the shape of the scales."""
    change = fake_quantize(weight, qparams.whole_range()) - weight
    match qparams.granularity:
        case PerTensor():
            return moments.errors(change).sum()
        case PerAxis(0):
            return moments.errors(change)
        case PerGroup(size, 1) if weight.ndim == 2:
            parts = change.double().unflatten(1, (-1, size))
            count = parts.shape[1]
            blocks = moments.sums[0].unflatten(0, (count, size)).unflatten(2, (count, size))
            own = blocks.diagonal(dim1=0, dim2=2)  # (size, size, groups)
            return torch.einsum("ogi,ijg,ogj->og", parts, own, parts)
    raise UnsupportedError(
        "The clip search knows one scale per tensor, output channel, or group of inputs",
        received=str(qparams.granularity),
    )
