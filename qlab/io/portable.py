"""A converted model as float operators between quantize and dequantize, for other runtimes.

Every integer module gives way to the float module of the same meaning: its codes become real
numbers on the way in, and its result codes on the way out. The graph around them stays as it is,
with plain codes on the same nodes, so that the two can be compared tensor by tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import UnsupportedError
from qlab.granularity import PerAxis
from qlab.graph.convert import is_converted
from qlab.graph.special import CodesToQTensor, QTensorToCodes
from qlab.io.rounding import AFTER_PRODUCT, FUSED, ROUND_FIRST, Form, Rounding
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.quantized.base import QuantizedModule
from qlab.nn.quantized.dynamic.layer import DynamicLayer
from qlab.nn.quantized.holder import OUTPUT, WEIGHT
from qlab.nn.quantized.weight import WeightModule
from qlab.nn.quantized.weighted import WeightedModule
from qlab.ops.codes import code_of
from qlab.ops.dynamic import SMALLEST_SCALE
from qlab.qparams import QParams, reduced_range

#: Runtimes round a bias to ``s_x · s_w``. Where that exceeds this share of an output step, the bias
#: is added behind the operator, which then stays float: half of it is how far results would move.
LARGEST_BIAS_UNIT = 0.025


def portable(model: fx.GraphModule, rounding: Rounding) -> fx.GraphModule:
    """A copy of a converted graph in which every integer module is taken apart.

    Args:
        model: What `convert_fx`, `Lab.convert` or `load_quantized` gave.
        rounding: What to write between the float operators.

    Returns:
        A graph with the same nodes that takes and gives the same, in evaluation mode.

    Raises:
        UnsupportedError: It is no such graph, or holds what has no float form; names the module.
    """
    if not isinstance(model, fx.GraphModule) or not is_converted(model):
        raise UnsupportedError(
            "Only a converted graph can be written for other runtimes",
            expected="what convert_fx or Lab.convert returns for a model that has a graph",
            received=type(model).__name__,
        )
    carriers = {
        str(node.target): node.name for node in model.graph.nodes if node.op == "call_module"
    }
    made = copy.deepcopy(model)
    for path, module in list(made.named_modules()):
        taken_apart = _float_form(path, module, carriers.get(path, path), rounding)
        if taken_apart is not None:
            made.set_submodule(path, taken_apart)
    made.recompile()
    return made.eval()


def _float_form(path: str, module: nn.Module, tag: str, rounding: Rounding) -> nn.Module | None:
    if not isinstance(module, QuantizedModule | CodesToQTensor | QTensorToCodes):
        return None
    for kind, form in _FORMS:
        if isinstance(module, kind):
            try:
                return form(module, tag, rounding)
            except UnsupportedError as refusal:
                raise _no_form(path, module, str(refusal)) from refusal
    raise _no_form(path, module, "it works on QTensor, which only qlab knows")


def _no_form(path: str, module: nn.Module, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"The layer {path!r} ({type(module).__name__}) cannot be written for other runtimes: {why}",
        fix="Leave it in float: set its qconfig to None.",
    )


class _Taken(nn.Module):
    """Base of what stands in the place of an integer module."""

    def __init__(self, tag: str, rounding: Rounding) -> None:
        super().__init__()
        self.tag, self.rounding = tag, rounding
        self.forms: dict[str, Form] = {}

    def keep(self, role: str, qparams: QParams | None, rank: int | None = None) -> None:
        """Keeps scale and zero point as buffers, so that they are constants of the program."""
        if qparams is not None:
            self.forms[role] = Form.of(qparams, rank)
            self.register_buffer(f"{role}_scale", qparams.scale.detach().clone())
            self.register_buffer(f"{role}_zero_point", qparams.zero_point.detach().clone())

    def _numbers(self, role: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{role}_scale"), self.get_buffer(f"{role}_zero_point")

    def real(self, x: Tensor, role: str) -> Tensor:
        """Codes as real numbers; what is no codes as it is."""
        if role not in self.forms:
            return x
        constant = role == WEIGHT
        return self.rounding.dequantize(x, *self._numbers(role), self.forms[role], constant)

    def codes(self, x: Tensor, order: str) -> Tensor:
        """Real numbers as the output's codes; as they are where the output is float."""
        if OUTPUT not in self.forms:
            return x
        numbers = self._numbers(OUTPUT)
        return self.rounding.quantize(x, *numbers, self.forms[OUTPUT], self.tag, order)


class _Quantize(_Taken):
    def __init__(self, module: nnq.Quantize, tag: str, rounding: Rounding) -> None:
        super().__init__(tag, rounding)
        self.keep(OUTPUT, module.output_qparams)

    def forward(self, x: Tensor) -> Tensor:
        return self.codes(x.to(torch.float32), FUSED)


class _Step(_Taken):
    """``quantize(f(dequantize(x), …))`` with the float module ``f`` of an integer one."""

    order = ROUND_FIRST

    def __init__(self, module: QuantizedModule, tag: str, rounding: Rounding) -> None:
        super().__init__(tag, rounding)
        bound = module.input_qparams
        if bound is None:
            raise UnsupportedError("its inputs are QTensor, which only qlab knows")
        for index, qparams in enumerate(bound):
            self.keep(f"input_{index}", qparams)
        self.keep(OUTPUT, module.output_qparams)
        self.relu = bool(getattr(type(module), "relu", False))
        self.most = 6.0 if isinstance(module, _RELU6) else None
        output = module.output_qparams
        if self.most is not None and output is not None and _whole_bias(module):
            # Bounds on codes, not on real numbers, let runtimes keep the layer an integer one.
            high = min(output.quant_max, int(code_of(self.most, output)))
            self.forms[OUTPUT], self.most = self.forms[OUTPUT]._replace(high=high), None
        self.then = module.activation() if isinstance(module, WeightedModule) else None
        self.inner = self.float_module(module)

    def float_module(self, module: QuantizedModule) -> nn.Module:
        """The float module of the same arguments and tensors."""
        made: nn.Module = type(module).plain_float_type()(**module._arguments_of(module))
        for name in module.tensors:
            value = module._buffers[name]
            if name in made._parameters:
                made._parameters[name] = None if value is None else _constant(value)
            else:
                made._buffers[name] = value
        return made.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        real = self.compute(*(self.real(x, f"input_{i}") for i, x in enumerate(inputs)))
        if self.then is not None:
            real = self.then(real)
        if self.relu:
            real = real.relu()
        return self.codes(real if self.most is None else real.clamp(max=self.most), self.order)

    def compute(self, *inputs: Tensor) -> Tensor:
        return self.inner(*inputs)


class _Softmax(_Step):
    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        dim: Any = self.inner.dim
        return x.softmax(int(x.dim() not in (0, 1, 3)) if dim is None else dim)


class _Mean(_Step):
    """A mean of integers whose scale stays: in units of 1, in which their sum is exact.

    So a mean in the middle between two codes goes where `qlab.ops` puts it.
    """

    def __init__(self, module: QuantizedModule, tag: str, rounding: Rounding) -> None:
        super().__init__(module, tag, rounding)
        if not as_qdtype(self.forms[OUTPUT].dtype).is_float:
            for role in ("input_0", OUTPUT):
                self.get_buffer(f"{role}_scale").fill_(1.0)


class _Moved(_Step):
    """What moves nothing but codes in evaluation mode."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


class _Sum(_Step):
    """A sum of products, whose zero point is added before rounding."""

    order = AFTER_PRODUCT


class _Weighted(_Sum):
    """A layer whose weight stays codes in the program."""

    def __init__(self, module: WeightModule, tag: str, rounding: Rounding) -> None:
        super().__init__(module, tag, rounding)
        self._keep_weight(module)
        self._keep_bias(module)

    def _keep_bias(self, module: WeightModule) -> None:
        bias = module.bias() if isinstance(module, WeightedModule) else None
        self.bias = None if bias is None else _constant(bias)
        self.apart = bias is not None and not _whole_bias(module) and _coarse_bias(module)
        if self.apart:
            self.inner._parameters["bias"] = None

    def _keep_weight(self, module: WeightModule) -> None:
        codes = module.get_buffer("weight_codes")
        self.register_buffer("weight_codes", codes.detach().clone())
        if codes.dtype != torch.float16:
            self.keep(WEIGHT, module.weight_qparams, codes.dim())

    def float_module(self, module: QuantizedModule) -> nn.Module:
        arguments = module._arguments_of(module)
        if isinstance(module, WeightedModule):
            arguments["bias"] = arguments.pop(module.bias_argument)
        with torch.device("meta"):
            return type(module).plain_float_type()(**arguments)

    def weight(self) -> Tensor:
        codes = self.get_buffer("weight_codes")
        return codes.float() if codes.dtype == torch.float16 else self.real(codes, WEIGHT)

    def compute(self, *inputs: Tensor) -> Tensor:
        x, *others = inputs
        dtype, given = x.dtype, {"weight": self.weight()}
        if self.bias is not None and not self.apart:
            given["bias"] = self.bias
        y = functional_call(self.inner, given, (x.to(torch.float32),))
        if self.bias is not None and self.apart:
            spatial = self.get_buffer("weight_codes").dim() - 2
            # Reshaped to its own shape it would be another constant, without its name.
            y = y + (self.bias.reshape(-1, *[1] * spatial) if spatial else self.bias)
        y = sum(others, y)
        return y if OUTPUT in self.forms else y.to(dtype)


class _PReLU(_Weighted):
    order = ROUND_FIRST


class _Dynamic(_Weighted):
    """A layer that finds its input's scale in the program itself."""

    def __init__(self, module: DynamicLayer, tag: str, rounding: Rounding) -> None:
        _Taken.__init__(self, tag, rounding)
        self.relu, self.most, self.then = bool(type(module).relu), None, None
        self.inner = self.float_module(module)
        self._keep_weight(module)
        self._keep_bias(module)
        self.dtype: QDType = module.input_dtype
        self.range = (self.dtype.quant_min, self.dtype.quant_max)
        if module.reduce_range:
            self.range = reduced_range(self.dtype)

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if WEIGHT not in self.forms:
            return super().compute(x)
        real = x.to(torch.float32)
        scale, zero_point = _dynamic_numbers(real, *self.range)
        form = Form(self.dtype.name, *self.range)
        codes = self.rounding.quantize(real, scale, zero_point, form, "", FUSED)
        y = super().compute(self.rounding.dequantize(codes, scale, zero_point, form, False))
        return y.to(x.dtype)


def _dynamic_numbers(x: Tensor, least: int, most: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point as in `qlab.ops.dynamic.dynamic_qparams`, without a look at values."""
    low, high = x.amin().clamp(max=0.0).double(), x.amax().clamp(min=0.0).double()
    scale = (high - low) / (most - least)
    unusable = (scale.float() == 0.0) | (1.0 / scale.float()).isinf()
    scale = torch.where(unusable, 0.1, scale)
    widened = torch.where(scale < SMALLEST_SCALE, SMALLEST_SCALE / scale, 1.0)
    low, high, scale = low * widened, high * widened, scale.clamp(min=SMALLEST_SCALE)
    from_low = (abs(least) - (low / scale).abs()) < (abs(most) - (high / scale).abs())
    exact = torch.where(from_low, least - low / scale, most - high / scale)
    return scale.float(), exact.round().clamp(least, most).to(torch.int32)


class _Embedding(_Taken):
    """Rows of a table of codes, real numbers only once they were looked up."""

    def __init__(self, module: nnq.Embedding, tag: str, rounding: Rounding) -> None:
        super().__init__(tag, rounding)
        self.register_buffer("weight_codes", module.get_buffer("weight_codes").detach().clone())
        self.keep(WEIGHT, module.weight_qparams, 2)
        if self.forms[WEIGHT].group or module.weight_qparams.granularity == PerAxis(1):
            raise UnsupportedError("its rows share no scale of their own")
        if isinstance(module, nnq.EmbeddingBag):
            self.options = {
                "mode": module.mode,
                "include_last_offset": module.include_last_offset,
            }

    def rows(self, indices: Tensor) -> Tensor:
        """(*) → float32 (*, columns)."""
        scale, zero_point = (value.float() for value in self._numbers(WEIGHT))
        if scale.dim():
            scale, zero_point = (v[indices].unsqueeze(-1) for v in (scale, zero_point))
        return (self.get_buffer("weight_codes")[indices].float() - zero_point) * scale

    def forward(self, indices: Tensor) -> Tensor:
        return self.rows(indices)


class _EmbeddingBag(_Embedding):
    def forward(
        self,
        indices: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        compressed_indices_mapping: None = None,
    ) -> Tensor:
        table = self.rows(torch.arange(len(self.get_buffer("weight_codes"))))
        return nn.functional.embedding_bag(
            indices, table, offsets, per_sample_weights=per_sample_weights, **self.options
        )


def _whole_bias(module: nn.Module) -> bool:
    """Whether its bias is a multiple of ``s_x · s_w`` already, and its output codes."""
    return isinstance(module, WeightedModule) and module.integer_bias


def _coarse_bias(module: WeightModule) -> bool:
    """Whether an integer bias would be too coarse for the output's steps."""
    output, bound = module.output_qparams, module.input_qparams
    x_qparams = bound[0] if bound else None
    if output is None or x_qparams is None or output.dtype.is_float:
        return False
    unit = x_qparams.scale * module.weight_qparams.scale.amax() / output.scale
    return float(unit) > LARGEST_BIAS_UNIT


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=False)


_RELU6 = (nniq.LinearReLU6, nniq.Conv1dReLU6, nniq.Conv2dReLU6, nniq.Conv3dReLU6)

_AVERAGES = (
    nnq.AvgPool1d, nnq.AvgPool2d, nnq.AvgPool3d,
    nnq.AdaptiveAvgPool1d, nnq.AdaptiveAvgPool2d, nnq.AdaptiveAvgPool3d, nnq.Mean, nnq.Upsample,
)  # fmt: skip

#: By class of integer module, the first that fits, what takes its place.
_FORMS: tuple[tuple[type[nn.Module], Callable[..., nn.Module]], ...] = (
    (nnq.Quantize, _Quantize),
    (nnq.EmbeddingBag, _EmbeddingBag),
    (nnq.Embedding, _Embedding),
    (DynamicLayer, _Dynamic),
    (nnq.PReLU, _PReLU),
    (WeightedModule, _Weighted),
    (nnq.MatMul, _Sum),
    (nnq.Softmax, _Softmax),
    (nnq.Dropout, _Moved),
    *((pool, _Mean) for pool in _AVERAGES),
    (QuantizedModule, _Step),
)
