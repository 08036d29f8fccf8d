"""What linear and convolutions share: a quantized weight, a float bias, the choice of kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qlab import ops
from qlab.dtypes import as_qdtype, qint8
from qlab.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from qlab.granularity import Granularity, PerAxis, PerGroup, PerTensor
from qlab.nn.quantized.base import Output, QuantizedModule
from qlab.nn.quantized.format import CodeFormat
from qlab.nn.quantized.holder import OUTPUT, WEIGHT, float_copy, qparams_of_numbers
from qlab.ops import checks
from qlab.qparams import QParams, quantize
from qlab.qtensor import QTensor


class WeightedModule(QuantizedModule):
    """Base of modules with a quantized weight and a float32 bias.

    Buffers: ``weight_codes`` (the weight's storage type), ``weight_scale``, ``weight_zero_point``,
    ``bias_float`` (float32, real units, or None). Any integer width, float8 and any granularity
    are held the same way; `execution` says whether integer arithmetic runs on them. An input of
    real numbers is multiplied, in float32, with what the weight's codes stand for.

    Attributes:
        relu: Whether negative results become 0 before requantization.
        op: The operator on codes.
        bias_argument: The constructor argument that says whether there is a bias.
    """

    has_weight = True
    takes_real_numbers = True
    output_of = Output.OWN_OR_FLOAT
    relu: ClassVar[bool] = False
    op: ClassVar[Callable[..., Tensor]]
    bias_argument: ClassVar[str] = "bias"

    def __init__(
        self, weight_shape: tuple[int, ...], bias: bool, outputs: int | None = None
    ) -> None:
        super().__init__()
        if not all(isinstance(size, int) and size > 0 for size in weight_shape):
            raise ArgumentError(
                f"{type(self).__name__}: sizes must be positive whole numbers",
                received=f"a weight of shape {weight_shape}",
            )
        self._packed: ops.PackedWeight = ops.PackedWeight()
        self.register_buffer("weight_codes", torch.zeros(weight_shape, dtype=qint8.storage))
        self.set_qparams(WEIGHT, qparams_of_numbers(1.0, 0, qint8))
        self._outputs = weight_shape[0] if outputs is None else outputs
        self.register_buffer("bias_float", torch.zeros(self._outputs) if bias else None)
        self.set_qparams(OUTPUT, qparams_of_numbers(1.0, 0))

    def weight(self) -> QTensor:
        """The quantized weight; it shares its codes with the module."""
        return QTensor(self.get_buffer("weight_codes"), self.weight_qparams)

    def bias(self) -> Tensor | None:
        """The bias: float32 (output channels,), real units; or None."""
        return self._buffers["bias_float"]

    def set_weight_bias(self, w: QTensor, b: Tensor | None) -> None:
        """Replaces weight and bias.

        Args:
            w: Quantized weight of the shape of the present one, any type and granularity.
            b: Floating point (output channels,), or None.

        Raises:
            DTypeError: The weight is not quantized.
            ShapeError: Weight or bias has another shape.
        """
        if not isinstance(w, QTensor):
            raise DTypeError(
                f"{self._get_name()}: the weight is not quantized",
                expected="a QTensor",
                received=type(w).__name__,
                fix="Use qlab.quantize_per_channel or qlab.quantize_per_tensor.",
            )
        present = self.get_buffer("weight_codes")
        for what, given, shape in (("weight", w, present.shape), ("bias", b, (self._outputs,))):
            if given is not None and given.shape != shape:
                raise ShapeError(
                    f"{self._get_name()}: the {what} has the wrong shape",
                    expected=f"shape {tuple(shape)}",
                    received=f"shape {tuple(given.shape)}",
                )
        self._set_weight(w.codes, w.qparams, b)

    def _set_weight(self, codes: Tensor, qparams: QParams, bias: Tensor | None) -> None:
        self.register_buffer("weight_codes", codes)
        self.set_qparams(WEIGHT, qparams)
        self.register_buffer("bias_float", float_copy(bias))

    def _take_weight(self, layer: nn.Module, qparams: QParams) -> None:
        weight: Any = layer.weight
        bias: Any = layer.bias
        checks.finite(type(self).__name__, "weight", weight.detach())
        self._set_weight(quantize(weight.detach(), qparams.to(weight.device)), qparams, bias)

    @property
    def weight_qparams(self) -> QParams:
        """Scale and zero point of the weight."""
        found = self.get_qparams(WEIGHT)
        assert found is not None
        return found

    @classmethod
    def _arguments_of(cls, source: nn.Module) -> dict[str, Any]:
        bias = source.bias() if isinstance(source, WeightedModule) else source.bias
        return {**super()._arguments_of(source), cls.bias_argument: bias is not None}

    def compute(self, x: Tensor, x_qparams: QParams | None) -> Tensor:
        """``relu(op(x, weight) + bias)`` on codes; without ``x_qparams`` on real numbers."""
        if x_qparams is None:
            return self._on_real_numbers(x)
        return type(self).op(*self._call(x, x_qparams), **self._options(), packed=self._packed)

    def _call(self, x: Tensor, x_qparams: QParams) -> tuple[Any, ...]:
        buffers = self._buffers
        weight, bias = buffers["weight_codes"], buffers["bias_float"]
        return x, x_qparams, weight, self.weight_qparams, bias, self.get_qparams(OUTPUT)

    def _on_real_numbers(self, x: Tensor) -> Tensor:
        key = f"float {threading.get_ident()}"  # functional_call lends its module the parameters
        if key not in self._cache:
            arguments = self._arguments_of(self)
            bias = arguments.pop(self.bias_argument)
            with torch.device("meta"):
                self._cache[key] = self.plain_float_type()(**arguments, bias=bias)
        parameters = {"weight": self.weight().dequantize(), "bias": self.bias()}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        real = functional_call(self._cache[key], parameters, (x.to(torch.float32),))
        real = real.relu() if self.relu else real
        output = self.get_qparams(OUTPUT)
        return real.to(x.dtype) if output is None else quantize(real, output)

    def _shown_weight(self) -> list[str]:
        qparams = self.weight_qparams
        match qparams.granularity:
            case PerTensor():
                shown = ["qscheme=qlab.per_tensor_affine"]
            case PerAxis():
                shown = ["qscheme=qlab.per_channel_affine"]
            case other:
                shown = [f"weight_granularity={other}"]
        return shown if qparams.dtype == qint8 else [*shown, f"weight_dtype={qparams.dtype!r}"]

    def _options(self) -> dict[str, Any]:
        return {"relu": self.relu}

    def _example(self) -> tuple[int, ...]:
        """The shape of the smallest input."""
        raise NotImplementedError

    @property
    def execution_reason(self) -> str:
        """Why it is simulated, in words; empty if integer arithmetic runs.

        Without bound inputs the answer is for 8-bit unsigned input.
        """
        bound = self.input_qparams
        x_qparams = bound[0] if bound else qparams_of_numbers(1.0, 0)
        if x_qparams is None:
            return "the input is real numbers"
        codes = torch.zeros(self._example(), dtype=x_qparams.dtype.storage)
        call = self._call(codes.to(self.get_buffer("weight_codes").device), x_qparams)
        try:
            with ops.use("reference"):
                ops.kernel_for(type(self).op.__name__, *call, **self._options())
        except UnsupportedError as error:
            return str(error.received).removeprefix("reference: ")
        return super().execution_reason

    def _blank(self, role: str, form: CodeFormat) -> QParams:
        if role != WEIGHT:
            return super()._blank(role, form)
        shape = self.get_buffer("weight_codes").shape
        self.register_buffer("weight_codes", torch.zeros(shape, dtype=form.dtype.storage))
        scales = form.granularity.scale_shape(shape)
        zero_point = max(form.quant_min, 0)
        return form.with_values(
            torch.ones(scales), torch.full(scales, zero_point, dtype=torch.int32)
        )

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Takes over the granularity and storage type of the weight that is loaded."""
        codes = state_dict.get(prefix + "weight_codes")
        scale = state_dict.get(prefix + "weight_scale")
        present = self.get_buffer("weight_codes")
        if codes is not None and scale is not None and codes.shape == present.shape:
            form = self._formats[WEIGHT]
            if codes.dtype != form.dtype.storage:
                dtype = as_qdtype(codes.dtype)
                form = CodeFormat(dtype, form.granularity, dtype.quant_min, dtype.quant_max)
            granularity = _granularity(form.granularity, tuple(codes.shape), tuple(scale.shape))
            form = CodeFormat(form.dtype, granularity, form.quant_min, form.quant_max)
            if form != self._formats[WEIGHT]:
                with present.device:
                    self.set_qparams(WEIGHT, self._blank(WEIGHT, form))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _granularity(
    present: Granularity, shape: tuple[int, ...], scales: tuple[int, ...]
) -> Granularity:
    """The granularity that gives ``scales`` for ``shape``, the present one if it does."""
    candidates = [present, PerTensor(), *map(PerAxis, range(len(shape)))]
    if len(scales) == len(shape):
        for axis, (size, groups) in enumerate(zip(shape, scales, strict=True)):
            if groups and size % groups == 0:
                candidates.append(PerGroup(size // groups, axis))
    for candidate in candidates:
        try:
            if candidate.scale_shape(shape) == scales:
                return candidate
        except ShapeError:
            continue
    return present
