"""One output of a linear layer or convolution worked out, every intermediate number kept.

What the steps end in is what `qlab.ops` gives; they are kept apart for teaching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlab import ops
from qlab.analysis.grid import one_scale
from qlab.analysis.study import Study
from qlab.analysis.what_if import deployed
from qlab.errors import ArgumentError, UnsupportedError
from qlab.graph.plan import Plan
from qlab.nn import intrinsic as nni
from qlab.nn.intrinsic.fold import core
from qlab.ops.calls import geometry
from qlab.ops.padding import pad_codes
from qlab.qparams import QParams, dequantize, quantize, reduced_range, requantize
from qlab.ranges import TensorSpec

#: Of input, weight and output.
ThreeQParams = tuple[QParams, QParams, QParams]

INT16 = torch.iinfo(torch.int16)
_MORE_THAN_SUMS = (nni.LinearGELU, nni.LinearLeakyReLU, nni.LinearTanh, nni.ConvAdd2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Terms:
    """What one output of a linear layer or a convolution is made of.

    Attributes:
        x: float32 (K,), the inputs that the output reads, zeros of a padding among them.
        weight: float32 (K,), their weights.
        bias: In real units.
        relu: Whether a negative sum becomes 0.
    """

    x: Tensor
    weight: Tensor
    bias: float = 0.0
    relu: bool = False

    @property
    def result(self) -> float:
        """The output in float32."""
        sum_of = nn.functional.linear(self.x, self.weight[None], torch.tensor([self.bias]))
        return float(sum_of.relu() if self.relu else sum_of)


@dataclass(frozen=True, eq=False)
class WorkedSum:
    """One output of an integer linear layer or convolution, from codes to code.

    Attributes:
        terms: The real numbers.
        qparams: Of input, weight and output, one scale each.
        x_codes: int64 (K,).
        weight_codes: int64 (K,).
        real: float32 ``f32(acc) · (s_x · s_w) + b``, before ReLU.
        code: The output's code.
    """

    terms: Terms
    qparams: ThreeQParams
    x_codes: Tensor
    weight_codes: Tensor
    real: float
    code: int

    @property
    def products(self) -> Tensor:
        """int64 (K,), what is added to the accumulator: ``(q_x - z_x)(q_w - z_w)``."""
        x, weight = self.qparams[:2]
        return (self.x_codes - x.zero_point_value) * (self.weight_codes - weight.zero_point_value)

    @property
    def partial(self) -> Tensor:
        """int64 (K,), the accumulator after each of `products`."""
        return self.products.cumsum(0)

    @property
    def accumulator(self) -> int:
        """``Σ (q_x - z_x)(q_w - z_w)``, exact."""
        return int(self.products.sum())

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """What adds up to the accumulator where codes are multiplied as they are:
        ``Σ q_x q_w``, ``-z_x Σ q_w``, ``-z_w Σ q_x`` and ``K z_x z_w``."""
        x, weight = self.x_codes, self.weight_codes
        z_x, z_w = (qparams.zero_point_value for qparams in self.qparams[:2])
        product = int((x * weight).sum())
        corrections = -z_x * int(weight.sum()), -z_w * int(x.sum())
        return product, *corrections, len(x) * z_x * z_w

    @property
    def result(self) -> float:
        """The real number that the output's code stands for."""
        return float(dequantize(_codes(self.code, self.qparams[2]), self.qparams[2]))

    @property
    def pairs(self) -> Tensor:
        """int64 (ceil(K / 2),): sums of two neighbouring products of codes, ``q_x`` as it is and
        ``q_w - z_w``, which 8-bit kernels of older x86 CPUs hold in 16 bits."""
        products = self.x_codes * (self.weight_codes - self.qparams[1].zero_point_value)
        return nn.functional.pad(products, (0, len(products) % 2)).reshape(-1, 2).sum(1)

    @property
    def saturated(self) -> Tensor:
        """`pairs` as 16 bits hold them: clamped to -32768 … 32767."""
        return self.pairs.clamp(INT16.min, INT16.max)

    @property
    def worst_pair(self) -> int:
        """Which of `pairs` is the largest in magnitude."""
        return int(self.pairs.abs().argmax())

    @property
    def saturated_pairs(self) -> int:
        """How many of `pairs` do not fit into 16 bits."""
        return int((self.pairs != self.saturated).sum())

    @property
    def saturated_result(self) -> float:
        """The real number that `saturated_code` stands for."""
        return float(dequantize(_codes(self.saturated_code, self.qparams[2]), self.qparams[2]))

    @property
    def saturated_code(self) -> int:
        """The output's code where the sums of pairs saturate in 16 bits."""
        lost = int((self.pairs - self.saturated).sum())
        x, weight, y = self.qparams
        total = torch.tensor(float(self.accumulator - lost))
        real = total * (x.scale * weight.scale) + self.terms.bias
        return int(requantize(real.relu() if self.terms.relu else real, y))


def worked_sum(terms: Terms, qparams: ThreeQParams) -> WorkedSum:
    """Works one output out with the operators that integer networks run.

    With ``acc = Σ (q_x - z_x)(q_w - z_w)``, each operation rounded to float32:
    ``clamp(rint(relu(f32(acc) · (s_x · s_w) + b) · (1/s_y) + z_y))``

    Args:
        terms: The real numbers.
        qparams: Of input, weight and output; one scale each, integers of at most 8 bits.

    Raises:
        UnsupportedError: Codes that no integer accumulator sums.

    Example:
        >>> spec = TensorSpec.uint8_activation()
        >>> numbers = torch.tensor([0.0, 1.0])
        >>> one = spec.qparams_of(numbers)
        >>> worked_sum(Terms(numbers, numbers), (one, one, one)).accumulator
        65025
    """
    x_qparams, w_qparams, y_qparams = qparams
    for what, each in zip(("input", "weight", "output"), qparams, strict=True):
        if each.dtype.is_float or each.dtype.bits > 8 or each.float_zero_point:
            raise UnsupportedError(
                f"There is no integer sum: the {what} is no integer of at most 8 bits",
                expected="integers of 2 to 8 bits",
                received=each.dtype.name,
                fix="Give the layer 8 bits or fewer.",
            )
    x, weight = quantize(terms.x[None], x_qparams), quantize(terms.weight[None], w_qparams)
    bias = torch.tensor([terms.bias], dtype=torch.float32)
    arguments = (x, x_qparams, weight, w_qparams, bias)
    return WorkedSum(
        terms=terms,
        qparams=qparams,
        x_codes=x[0].long(),
        weight_codes=weight[0].long(),
        real=float(ops.linear(*arguments, None)),
        code=int(ops.linear(*arguments, y_qparams, relu=terms.relu)),
    )


def _codes(value: int, qparams: QParams) -> Tensor:
    return torch.tensor(value).to(qparams.dtype.storage)


def terms_of(module: nn.Module, x: Tensor, channel: int, position: int, relu: bool) -> Terms:
    """The numbers that one output of a float layer is the sum of.

    Args:
        module: ``nn.Linear`` or a convolution, or a fused module around one.
        x: Its input: (N, *, in) or (N, C, *spatial).
        channel: Of the output.
        position: Among all outputs of that channel, over samples and space, flattened.
        relu: Whether a ReLU follows.

    Raises:
        UnsupportedError: Another kind of layer.
        ArgumentError: No such channel or position; says how many there are.
    """
    layer: Any = core(module)
    if not isinstance(layer, (nn.Linear, *_CONVOLUTIONS)) or isinstance(module, _MORE_THAN_SUMS):
        raise UnsupportedError(
            "Only sums of linear layers and convolutions are worked out",
            expected="Linear, Conv1d, Conv2d or Conv3d, alone or with a ReLU",
            received=type(module).__name__,
        )
    check_index("channel", channel, layer.weight.shape[0])
    read = x.reshape(-1, x.shape[-1]) if isinstance(layer, nn.Linear) else _windows(layer, x)
    if not isinstance(layer, nn.Linear):  # (positions, groups, K)
        read = read[:, channel * layer.groups // layer.weight.shape[0]]
    check_index("position", position, len(read))
    bias = 0.0 if layer.bias is None else float(layer.bias[channel].detach())
    return Terms(
        read[position].detach().float(), layer.weight[channel].detach().flatten(), bias, relu
    )


def _windows(layer: Any, x: Tensor) -> Tensor:
    """What each output of a convolution reads: (outputs, groups, K)."""
    axes = len(layer.kernel_size)
    shape = geometry(
        f"conv{axes}d",
        tuple(layer.kernel_size),
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.padding_mode,
    )
    padded = pad_codes(x, shape.pads, shape.mode, 0)
    sizes = zip(layer.kernel_size, shape.stride, shape.dilation, strict=True)
    for axis, (kernel, stride, dilation) in enumerate(sizes, start=2):
        padded = padded.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    by_place = padded.movedim(1, 1 + axes)  # (N, *out, C, *kernel)
    return by_place.flatten(1 + axes).flatten(0, axes).unflatten(1, (shape.groups, -1))


def check_index(what: str, index: int, size: int) -> None:
    if not 0 <= index < size:
        raise ArgumentError(f"No such {what}", expected=f"0 to {size - 1}", received=index)


def with_reduced_range(qparams: ThreeQParams) -> ThreeQParams:
    """The same with the input's codes one bit narrower over the same range: ``reduce_range``.

    Raises:
        DTypeError: The input is float8.
    """
    x, weight, y = qparams
    low, high = reduced_range(x.dtype)
    ends = torch.tensor([x.quant_min, x.quant_max]).to(x.dtype.storage)
    spec = TensorSpec(x.dtype, quant_min=low, quant_max=high)
    return spec.choose(*dequantize(ends, x)), weight, y


def sum_in_layer(study: Study, plan: Plan, name: str, channel: int, position: int) -> WorkedSum:
    """One output of a layer as a plan deploys it, its inputs from the small fixed sample."""
    probe, step = study.probe(name), plan.step(name)
    quantized = deployed(study, plan, name, (step.weight, step.output))
    module: Any = quantized.module
    bound = getattr(module, "input_qparams", None) or (None,)
    weight = study.weight_qparams(name, step.weight)[0] if step.weight else None
    if bound[0] is None or weight is None or quantized.output is None:
        raise UnsupportedError(
            f"The layer {name!r} does not sum integers under this configuration",
            expected="integer input, weight and output",
            fix="Choose a layer and a configuration that quantizes all three.",
        )
    (x,) = probe.arguments(study.layer_sample(probe)[0])
    terms = terms_of(probe.module, x, channel, position, module.relu)
    return worked_sum(terms, (bound[0], one_scale(weight, channel), quantized.output))
