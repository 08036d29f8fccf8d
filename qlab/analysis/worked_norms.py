"""One normalization, and one batch norm's folding, worked out with every intermediate number kept.

What the steps end in is what `qlab.ops` gives; they are kept apart for teaching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlab import ops
from qlab.analysis.metrics import ErrorSums
from qlab.analysis.study import Study
from qlab.analysis.what_if import deployed
from qlab.analysis.worked_sums import check_index
from qlab.dtypes import integer
from qlab.errors import UnknownNameError, UnsupportedError
from qlab.graph.plan import Plan
from qlab.nn.intrinsic.fold import core, fold_batch_norm
from qlab.qparams import QParams, dequantize, fake_quantize, quantize, quantize_round_first
from qlab.ranges import TensorSpec, measured_error
from qlab.stats import TensorStats

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True, eq=False)
class WorkedNorm:
    """The numbers that one normalization takes its mean over, from codes to codes.

    Attributes:
        kind: Such as ``"LayerNorm"``.
        x: float32 (K,), the float input.
        codes: (K,), its codes.
        entered: float32 (K,), what the codes stand for.
        mean: Of `entered`; a batch norm's running mean.
        variance: Likewise, without Bessel's correction.
        eps: Added to the variance.
        normalized: float32 (K,): ``(entered - mean) / sqrt(variance + eps)``.
        real: float32 (K,): ``normalized · weight + bias``, and ReLU where one was fused.
        step_codes: (K,), `real` quantized.
        operator_codes: (K,), what the engine's operator gives for the same numbers.
        result: float32 (K,), what those stand for.
        reference: float32 (K,), what counts of the float layer's output for `x`: where what follows
            clamps, the clamped numbers.
        qparams: Of input and output.
        affine: Weight and bias of each number, float32 (K,); 1 and 0 where the layer has none.
        groups: How many such sets of numbers the tensor has.
    """

    kind: str
    x: Tensor
    codes: Tensor
    entered: Tensor
    mean: float
    variance: float
    eps: float
    normalized: Tensor
    real: Tensor
    step_codes: Tensor
    operator_codes: Tensor
    result: Tensor
    reference: Tensor
    qparams: tuple[QParams, QParams]
    affine: tuple[Tensor, Tensor]
    groups: int

    @property
    def sqnr_db(self) -> float:
        """SQNR [dB] of `result`, `reference` being the signal."""
        return _sqnr(self.reference, self.result)

    @property
    def clipped(self) -> int:
        """How many of `real` lie outside the range of the output's codes."""
        error = measured_error(self.real, self.qparams[1])
        return round(error.clipped_share * error.count)


def worked_norm(
    module: nn.Module,
    x: Tensor,
    qparams: tuple[QParams, QParams],
    group: int,
    *,
    relu: bool = False,
    bounds: tuple[float, float] | None = None,
) -> WorkedNorm:
    """Works a quantized normalization out: dequantize → mean and variance → scale → quantize.

    Args:
        module: Layer, group, instance or batch norm, in evaluation mode.
        x: Its float input.
        qparams: Of input and output, one scale each.
        group: Which of the sets of numbers that share a mean; for a batch norm: which channel.
        relu: Whether a ReLU was fused after it.
        bounds: What follows reads its output clamped to these.

    Raises:
        UnsupportedError: Another kind of layer.
        ArgumentError: No such group; says how many there are.
    """
    layer: Any = core(module)
    if not isinstance(layer, (*_NORMS, nn.modules.batchnorm._BatchNorm)):
        raise UnsupportedError(
            "Only normalizations are worked out here",
            expected="LayerNorm, GroupNorm, InstanceNorm or BatchNorm",
            received=type(layer).__name__,
        )
    x = x.detach().float()
    codes = quantize(x, qparams[0])
    after = _operator(layer, codes, qparams, relu)
    with torch.no_grad():
        reference = layer(x).relu() if relu else layer(x)
    reference = reference if bounds is None else reference.clamp(*bounds)
    rows = [_rows(layer, t) for t in (x, codes, reference, after, *_affine(layer, x))]
    check_index("group", group, len(rows[0]))
    own, own_codes, own_reference, own_after, weight, bias = (each[group] for each in rows)
    entered = dequantize(own_codes, qparams[0])
    mean, variance = entered.mean(), entered.var(correction=0)
    if getattr(layer, "running_mean", None) is not None:
        mean, variance = (layer.get_buffer(f"running_{of}")[group] for of in ("mean", "var"))
    normalized = (entered - mean) / (variance + layer.eps).sqrt()
    real = normalized * weight + bias
    real = real.relu() if relu else real
    return WorkedNorm(
        kind=type(layer).__name__,
        x=own,
        codes=own_codes,
        entered=entered,
        mean=float(mean),
        variance=float(variance),
        eps=float(layer.eps),
        normalized=normalized,
        real=real,
        step_codes=quantize_round_first(real, qparams[1]),
        operator_codes=own_after,
        result=dequantize(own_after, qparams[1]),
        reference=own_reference,
        qparams=qparams,
        affine=(weight, bias),
        groups=len(rows[0]),
    )


def _operator(layer: Any, codes: Tensor, qparams: tuple[QParams, QParams], relu: bool) -> Tensor:
    x, y = qparams
    weight, bias = (None if p is None else p.detach() for p in (layer.weight, layer.bias))
    if getattr(layer, "running_mean", None) is not None:
        numbers = (weight, bias, layer.running_mean, layer.running_var, layer.eps)
        return ops.batch_norm(codes, x, *numbers, y, relu=relu)
    if isinstance(layer, nn.LayerNorm):
        return ops.layer_norm(codes, x, layer.normalized_shape, weight, bias, layer.eps, y)
    if isinstance(layer, nn.GroupNorm):
        return ops.group_norm(codes, x, layer.num_groups, weight, bias, layer.eps, y)
    return ops.instance_norm(codes, x, weight, bias, layer.eps, y)


def _rows(layer: Any, x: Tensor) -> Tensor:
    """The numbers that share a mean, one row each."""
    if isinstance(layer, nn.LayerNorm):
        return x.flatten(-len(layer.normalized_shape)).flatten(0, -2)
    if isinstance(layer, nn.GroupNorm):
        return x.reshape(x.shape[0] * layer.num_groups, -1)
    if getattr(layer, "running_mean", None) is not None:
        return x.movedim(1, 0).flatten(1)
    return x.flatten(2).flatten(0, 1)


def _affine(layer: Any, x: Tensor) -> list[Tensor]:
    """Weight and bias of every element, of the shape of the input."""
    spread = [1] * (x.dim() - 2)
    found = []
    for parameter, neutral in ((layer.weight, 1.0), (layer.bias, 0.0)):
        if parameter is None:
            found.append(torch.full_like(x, neutral))
        elif isinstance(layer, nn.LayerNorm):
            found.append(parameter.detach().expand_as(x))
        else:
            found.append(parameter.detach().reshape(-1, *spread).expand_as(x))
    return found


def norm_in_layer(study: Study, plan: Plan, name: str, group: int) -> WorkedNorm:
    """A norm of a model as a plan deploys it, its inputs from the small fixed sample."""
    probe, step = study.probe(name), plan.step(name)
    given: tuple[QParams | None, ...] | None = None
    quantized = None
    if step.output is not None:
        quantized = deployed(study, plan, name, (step.weight, step.output))
        given = getattr(quantized.module, "input_qparams", None)
    if quantized is None or quantized.output is None or not given or given[0] is None:
        raise UnsupportedError(
            f"The layer {name!r} does not turn codes into codes under this configuration",
            expected="integer input and output",
            fix="Choose a configuration that quantizes it.",
        )
    (x,) = probe.arguments(study.layer_sample(probe)[0])
    relu = getattr(quantized.module, "relu", False)
    between = given[0], quantized.output
    return worked_norm(probe.module, x, between, group, relu=relu, bounds=step.bounds)


@dataclass(frozen=True, eq=False)
class WorkedFold:
    """A batch norm folded into the layer before it.

    Attributes:
        factor: float32 (C,): ``γ / sqrt(σ² + ε)``, what each channel's weights are multiplied by.
        norm: γ, β, μ and σ² of each channel, float32 (C,).
        eps: ε.
        weight: The layer's own and the folded weight, float32 (C, …).
        bias: The layer's own bias (zeros where it has none) and the folded one, float32 (C,).
        outputs: Of layer and batch norm in turn, and of the folded layer; float32.
    """

    factor: Tensor
    norm: tuple[Tensor, Tensor, Tensor, Tensor]
    eps: float
    weight: tuple[Tensor, Tensor]
    bias: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]

    @property
    def largest_difference(self) -> float:
        """Between the two outputs, in real units."""
        return float((self.outputs[0] - self.outputs[1]).abs().max())

    @property
    def largest_output(self) -> float:
        """The largest magnitude of the first output, in real units."""
        return float(self.outputs[0].abs().max())


def worked_fold(layer: nn.Module, batch_norm: nn.Module, x: Tensor) -> WorkedFold:
    """Folds a batch norm, and runs both forms on the same input.

    Args:
        layer: ``nn.Linear`` or a convolution, not transposed.
        batch_norm: What follows it, with running statistics; in evaluation mode.
        x: The layer's input.

    Raises:
        UnsupportedError: Another kind of layer, or no running statistics.
    """
    folded: Any = fold_batch_norm(layer, batch_norm)  # pyright: ignore[reportArgumentType]
    own: Any = layer
    norm: Any = batch_norm
    mean, variance = norm.running_mean, norm.running_var
    gamma, beta = (
        torch.full_like(mean, neutral) if parameter is None else parameter.detach()
        for parameter, neutral in ((norm.weight, 1.0), (norm.bias, 0.0))
    )
    new_bias = folded.bias.detach()
    bias = torch.zeros_like(new_bias) if own.bias is None else own.bias.detach()
    with torch.no_grad():
        outputs = norm(own(x)), folded(x)
    return WorkedFold(
        factor=gamma / (variance + norm.eps).sqrt(),
        norm=(gamma, beta, mean, variance),
        eps=float(norm.eps),
        weight=(own.weight.detach(), folded.weight.detach()),
        bias=(bias, new_bias),
        outputs=outputs,
    )


@dataclass(frozen=True, eq=False)
class FusedActivation:
    """A layer's output quantized before its activation, and fused with it.

    Attributes:
        before: What comes out before the activation.
        apart: Parameters that cover `before`; the activation then works on codes.
        fused: Parameters that cover what the activation leaves.
        apart_sqnr: SQNR [dB] of the activation's result, quantized before it.
        fused_sqnr: SQNR [dB] of the activation's result, quantized after it.
    """

    before: TensorStats
    apart: QParams
    fused: QParams
    apart_sqnr: float
    fused_sqnr: float


#: What an activation clamps to.
LIMITS: dict[str, tuple[float, float | None]] = {"ReLU": (0.0, None), "ReLU6": (0.0, 6.0)}


def fused_activation(x: Tensor, kind: str, bits: int) -> FusedActivation:
    """Quantizes a layer's output in both orders, affine and unsigned, ranges from min to max.

    Args:
        x: What comes out before the activation.
        kind: ``"ReLU"`` or ``"ReLU6"``.
        bits: 2 to 8.

    Raises:
        UnknownNameError: Another activation.
    """
    if kind not in LIMITS:
        raise UnknownNameError.of("activation", kind, LIMITS)
    low, high = LIMITS[kind]
    after = x.clamp(low, high)
    spec = TensorSpec(integer(bits, signed=False))
    apart, fused = spec.qparams_of(x), spec.qparams_of(after)
    inside, outside = fake_quantize(x, apart).clamp(low, high), fake_quantize(x, fused)
    sqnr = _sqnr(after, inside), _sqnr(after, outside)
    return FusedActivation(TensorStats.of(x), apart, fused, *sqnr)


def _sqnr(reference: Tensor, value: Tensor) -> float:
    sums = ErrorSums()
    sums.update(reference, value)
    return sums.sqnr


def before_activation(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer puts out before the activation that was fused after it.

    Args:
        module: Of a fused graph; its batch norm, if it had one, is folded in.
        x: Its input.
    """
    with torch.no_grad():
        return core(module)(x)
