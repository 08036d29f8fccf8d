"""What linear and convolutions share: a quantized weight, a float bias, the choice of kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.func import functional_call

from qlab import ops
from qlab.dtypes import qint8
from qlab.errors import FormatError, ShapeError, UnsupportedError, check_type
from qlab.nn.quantized.base import Output
from qlab.nn.quantized.holder import OUTPUT, constant_in_traces, float_copy, qparams_of_numbers
from qlab.nn.quantized.operands import Operands
from qlab.nn.quantized.weight import WeightModule
from qlab.ops.kernels import forced
from qlab.ops.packed import kept
from qlab.ops.traced import contract, described
from qlab.qparams import QParams, bias_codes, dequantize, quantize
from qlab.qtensor import QTensor

#: In output steps: a bias that is a multiple of more than this stays a real number.
COARSEST_BIAS_UNIT = 0.5
_WITH_INTEGER_BIAS = (ops.linear, ops.conv1d, ops.conv2d, ops.conv3d)


class WeightedModule(WeightModule):
    """Base of modules with a quantized weight and a float32 bias.

    Buffers: those of the weight, and ``bias_float`` (float32, real units, or None). `execution`
    says whether integer arithmetic runs on its type and granularity. An input of real numbers is
    multiplied, in float32, with what the weight's codes stand for.

    Attributes:
        relu: Whether negative results become 0 before requantization.
        op: The operator on codes.
        bias_argument: The constructor argument that says whether there is a bias.
        integer_bias: Whether `hold_integer_bias` was called.
    """

    takes_real_numbers = True
    own_memory = True
    output_of = Output.OWN_OR_FLOAT
    relu: ClassVar[bool] = False
    op: ClassVar[Callable[..., Tensor]]
    bias_argument: ClassVar[str] = "bias"
    integer_bias: bool = False

    def __init__(
        self, weight_shape: tuple[int, ...], bias: bool, outputs: int | None = None
    ) -> None:
        super().__init__()
        self._packed: ops.PackedWeight = ops.PackedWeight()
        self._start_weight(weight_shape, qparams_of_numbers(1.0, 0, qint8))
        self._outputs = weight_shape[0] if outputs is None else outputs
        self.register_buffer("bias_float", torch.zeros(self._outputs) if bias else None)
        self.set_qparams(OUTPUT, qparams_of_numbers(1.0, 0))

    def weight(self) -> QTensor:
        """The quantized weight; it shares its codes with the module."""
        return self.quantized_weight

    def bias(self) -> Tensor | None:
        """The bias: float32 (output channels,), real units; or None."""
        return self._buffers["bias_float"]

    @classmethod
    def knows_integer_bias(cls) -> bool:
        """Whether its operator can sum an integer bias; see `hold_integer_bias`."""
        return cls.op in _WITH_INTEGER_BIAS

    def hold_integer_bias(self) -> bool:
        """Computes from now on as integer runtimes do: see ``integer_bias`` of `qlab.ops.linear`.

        The bias becomes the nearest whole multiple of ``s_x · s_w``, still as real numbers in
        `bias`. A layer whose inputs are not bound, whose types no integer kernel takes, whose
        operator knows no integer bias, or whose output that would move by more than a quarter of
        its step (``s_x·s_w`` above half of ``s_y``) stays as it is.

        Returns:
            Whether it computes so now.
        """
        bound, output, bias = self.input_qparams, self._result_qparams(), self.bias()
        if not self.knows_integer_bias() or not bound or bound[0] is None:
            return False
        if self.execution != "integer":
            return False
        if bias is not None:
            unit = bound[0].scale * self.weight_qparams.scale
            if output is not None and float(unit.amax() / output.scale) > COARSEST_BIAS_UNIT:
                return False
            made = bias_codes(bias, unit) * unit.to(torch.float64)
            self.register_buffer("bias_float", made.to(torch.float32))
        self.integer_bias = True
        self._cache.clear()
        return True

    def config(self) -> dict[str, Any]:
        """As of every module; and whether the bias is an integer, where it is."""
        told = {"integer_bias": True} if self.integer_bias else {}
        return {**super().config(), **told}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """As every module's."""
        rest = {name: value for name, value in config.items() if name != "integer_bias"}
        given = config.get("integer_bias", False)
        if not isinstance(given, bool) or (given and cls.op not in _WITH_INTEGER_BIAS):
            raise FormatError(
                f"Not a configuration of {cls.__name__}",
                expected="integer_bias true, of a linear layer or convolution, or no such key",
                received=repr(given)[:80],
            )
        made = super().from_config(rest)
        made.integer_bias = given
        return made

    def _weight_bias(self) -> tuple[QTensor, Tensor | None]:
        """Weight and bias; code written for the reference calls it."""
        return self.weight(), self.bias()

    def set_weight_bias(self, w: QTensor, b: Tensor | None) -> None:
        """Replaces weight and bias.

        Args:
            w: Quantized weight of the shape of the present one, any type and granularity.
            b: Floating point (output channels,), or None.

        Raises:
            DTypeError: The weight is not quantized.
            ShapeError: Weight or bias has another shape.
        """
        self._check_weight(w)
        check_type(self._get_name(), "the bias", b, (Tensor, NoneType), "a tensor, or None")
        if b is not None and b.shape != (self._outputs,):
            raise ShapeError(
                f"{self._get_name()}: the bias has the wrong shape",
                expected=f"shape {(self._outputs,)}",
                received=f"shape {tuple(b.shape)}",
            )
        self._set_weight(w.codes, w.qparams, b)

    def _set_weight(self, codes: Tensor, qparams: QParams, bias: Tensor | None) -> None:
        self._store_weight(codes, qparams)
        self.register_buffer("bias_float", float_copy(bias))

    def _take_weight(self, layer: nn.Module, qparams: QParams) -> None:
        super()._take_weight(layer, qparams)
        bias: Any = layer.bias
        self.register_buffer("bias_float", float_copy(bias))

    def _take_reference_weight(self, mod: Any) -> None:
        self._check_reference(mod)
        self.set_weight_bias(mod.get_quantized_weight(), mod.bias)

    @classmethod
    def _arguments_of(cls, source: nn.Module) -> dict[str, Any]:
        bias = source.bias() if isinstance(source, WeightedModule) else source.bias
        return {**super()._arguments_of(source), cls.bias_argument: bias is not None}

    def forward(self, *inputs: Tensor, **named: Unpack[Operands]) -> Tensor:
        """As every `QuantizedModule`; plain codes like the last are neither checked nor bound anew.

        Args:
            *inputs: A `QTensor`, or plain codes or real numbers as bound.
            **named: Or by the names that a float model calls its modules with.

        Raises:
            ArgumentError: Another number of inputs, or other names.
            DTypeError: Not what was bound, or codes without bound inputs.
        """
        if named or is_compiling():
            return super().forward(*inputs, **named)
        cache, buffers = self._cache, self._buffers
        ready: Any = cache.get("ready")
        if ready is not None and len(inputs) == 1:
            given = inputs[0], forced(), buffers["weight_codes"], buffers["bias_float"]
            if not ready.serves(*given):
                ready = next((made for made in cache.get("kept", ()) if made.serves(*given)), None)
                if ready is not None:
                    self._keep(ready)
            if ready is not None:
                result, finish = ready.run(inputs[0]), cache["finish"]
                return result if finish is None else finish(result)
        result = super().forward(*inputs)
        made, bound = self._packed.ready, self.input_qparams
        if made is not None and bound is not None and made.x_qparams is bound[0]:
            self._keep(made)
        return result

    def _keep(self, made: ops.Ready) -> None:
        """Remembers a bound call for the next ones, where its result is what `_finish` takes."""
        qparams, finish = self._bound_result()
        cache, same = self._cache, made.y_qparams is qparams
        layer = self._buffers["weight_codes"], self._buffers["bias_float"]
        cache["finish"] = finish
        cache["kept"] = kept(cache.get("kept", ()), made, *layer) if same else ()
        cache["ready"] = made if same else None

    def _bound_result(self) -> tuple[QParams | None, Callable[[Tensor], Tensor] | None]:
        """How a bound call writes its result, and what follows it."""
        return self._result_qparams(), self._finish()

    def compute(self, x: Tensor, x_qparams: QParams | None) -> Tensor:
        """``relu(op(x, weight) + bias)`` on codes; without ``x_qparams`` on real numbers."""
        if x_qparams is None:
            result = self._on_real_numbers(x)
        elif is_compiling():
            weight, bias = self._buffers["weight_codes"], self._buffers["bias_float"]
            numbers = self.weight_qparams.scale, self.weight_qparams.zero_point
            result = contract(self._cache["call"], x, weight, *numbers, bias)
            finish = self._cache["finish"]
            return result if finish is None else finish(result)
        else:
            call = self._call(x, x_qparams)
            result = type(self).op(*call, **self._call_options(), packed=self._packed)
        finish = self._finish()
        return result if finish is None else finish(result)

    @constant_in_traces
    def know(self) -> bool:
        """As every module; and the call in words, without which none is traced."""
        super().know()
        bound = self.input_qparams
        if bound and bound[0] is not None:
            qparams = bound[0], self.weight_qparams, self._result_qparams()
            self._cache["call"] = described(type(self).op.__name__, *qparams, self._call_options())
        elif bound:
            self._cache["float"] = self._in_float()
            self._result_qparams()
        self._cache["finish"] = self._finish()
        return True

    def activation(self) -> nn.Module | None:
        """The float module between the real sums and requantization; None for none, or ReLU."""
        return None

    def _result_qparams(self) -> QParams | None:
        """Parameters of the operator's result, before `_finish`; None for real numbers."""
        return self.get_qparams(OUTPUT)

    def _finish(self) -> Callable[[Tensor], Tensor] | None:
        """What is left to do with the operator's result; None for nothing."""
        return None

    def _call(self, x: Tensor, x_qparams: QParams) -> tuple[Any, ...]:
        buffers = self._buffers
        weight, bias = buffers["weight_codes"], buffers["bias_float"]
        return x, x_qparams, weight, self.weight_qparams, bias, self._result_qparams()

    def _on_real_numbers(self, x: Tensor) -> Tensor:
        if is_compiling():
            key = "float"  # made by `know`
        else:  # functional_call lends its module the parameters
            key = f"float {threading.get_ident()}"
            if key not in self._cache:
                self._cache[key] = self._in_float()
        weight = dequantize(self.get_buffer("weight_codes"), self.weight_qparams)
        parameters = {"weight": weight, "bias": self.bias()}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        real = functional_call(self._cache[key], parameters, (x.to(torch.float32),))
        real = real.relu() if self._options()["relu"] else real
        output = self._result_qparams()
        return real.to(x.dtype) if output is None else quantize(real, output)

    def _in_float(self) -> nn.Module:
        """The float layer, without parameters of its own."""
        arguments = self._arguments_of(self)
        bias = arguments.pop(self.bias_argument)
        with torch.device("meta"):
            return self.plain_float_type()(**arguments, bias=bias)

    def _options(self) -> dict[str, Any]:
        return {"relu": self.relu}

    def _call_options(self) -> dict[str, Any]:
        told = {"integer_bias": True} if self.integer_bias else {}
        return {**self._options(), **told}

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
                ops.kernel_for(type(self).op.__name__, *call, **self._call_options())
        except UnsupportedError as error:
            return str(error.received).removeprefix("reference: ")
        return super().execution_reason


WeightedQuantizedModule = WeightedModule
"""The reference's name."""
