"""Layers whose sum goes through a function of real numbers before it is requantized.

No step is lost in between: the operator gives float32, the function follows, and only its result
is rounded to codes. The reference has all but `LinearGELU`, for its engine ``onednn`` alone; the
formulas are its own, found by comparing every code of some 10⁵ outputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules.module import _has_any_global_hook

from qlab import ops
from qlab.dtypes import QDType, qint8
from qlab.nn import intrinsic as nni
from qlab.nn.quantized.conv import Conv2d
from qlab.nn.quantized.holder import OUTPUT
from qlab.nn.quantized.linear import Linear
from qlab.nn.quantized.operands import Operands
from qlab.nn.quantized.weighted import WeightedModule
from qlab.ops.fused import finished_sum
from qlab.ops.kernels import forced
from qlab.ops.packed import ReadySum, kept
from qlab.qparams import QParams, requantize


class _BeforeRequantization(WeightedModule):
    """A weighted module that does something with its real sums."""

    def _result_qparams(self) -> QParams | None:
        return None

    def _requantized(self, real: Tensor) -> Tensor:
        output = self.get_qparams(OUTPUT)
        return real if output is None else requantize(real, output)

    def _finish(self) -> Callable[[Tensor], Tensor] | None:
        function = self.activation()
        if function is None:
            return None
        return lambda real: self._requantized(function(real))

    @classmethod
    def from_reference(
        cls, mod: nn.Module, scale: float | None = None, zero_point: int | None = None
    ) -> Self:
        """As every `QuantizedModule`; of a fused module the first part is the reference module."""
        first = mod[0] if isinstance(mod, nn.Sequential) else mod
        return super().from_reference(first, scale, zero_point)


class _Shaped(_BeforeRequantization, Linear):
    """A linear layer whose activation has an argument of its own.

    Attributes:
        argument: Its name: an attribute of the activation, and of this module.
        usual: The value of a linear layer that knows no activation.
    """

    argument: ClassVar[str]
    usual: ClassVar[Any]
    bias_argument = "bias"

    @classmethod
    def from_qparams(
        cls, mod: nn.Module, *, weight: QParams | None = None, output: QParams | None = None
    ) -> Self:
        return super().from_qparams(mod, weight=weight, output=output)._shaped_as(mod)

    @classmethod
    def from_reference(
        cls, mod: nn.Module, scale: float | None = None, zero_point: int | None = None
    ) -> Self:
        """As every `QuantizedModule`; of a fused module, whose second part is the activation."""
        return super().from_reference(mod, scale, zero_point)._shaped_as(mod)

    def _shaped_as(self, fused: Any) -> Self:
        if isinstance(fused, nn.Sequential):
            setattr(self, self.argument, getattr(fused[1], self.argument))
        return self

    @classmethod
    def _arguments_of(cls, source: Any) -> dict[str, Any]:
        bias = source.bias() if isinstance(source, WeightedModule) else source.bias
        value = getattr(source, cls.argument, cls.usual)
        sizes = {"in_features": source.in_features, "out_features": source.out_features}
        return {**sizes, cls.argument: value, "bias": bias is not None}

    @classmethod
    def plain_float_type(cls) -> Callable[..., nn.Module]:
        """Makes the linear layer before the activation."""
        return partial(_linear_before, cls.argument)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.argument}={getattr(self, self.argument)!r}"


def _linear_before(argument: str, **given: Any) -> nn.Module:
    del given[argument]
    return nn.Linear(**given)


class LinearLeakyReLU(_Shaped):
    """``requantize(leaky_relu(x Wᵀ + b))`` on codes.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        negative_slope: Factor of negative sums.
        bias: Whether there is a bias.
        dtype: Quantized data type of the weight.
    """

    float_types = (nni.LinearLeakyReLU,)
    fields = ("in_features", "out_features", "negative_slope")
    argument, usual = "negative_slope", nn.LeakyReLU().negative_slope

    def __init__(
        self,
        in_features: int,
        out_features: int,
        negative_slope: float,
        bias: bool = True,
        dtype: QDType | str | torch.dtype = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
        self.negative_slope = float(negative_slope)

    def activation(self) -> nn.Module:
        """``nn.LeakyReLU``."""
        return nn.LeakyReLU(self.negative_slope)


class LinearGELU(_Shaped):
    """``requantize(gelu(x Wᵀ + b))`` on codes; see `qlab.ops.linear_gelu` for the exact formula.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        approximate: ``"none"`` or ``"tanh"``, as ``nn.GELU``.
        bias: Whether there is a bias.
        dtype: Quantized data type of the weight.
    """

    float_types = (nni.LinearGELU,)
    fields = ("in_features", "out_features", "approximate")
    argument, usual = "approximate", "none"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        approximate: str = "none",
        bias: bool = True,
        dtype: QDType | str | torch.dtype = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
        self.approximate = approximate

    def activation(self) -> nn.Module:
        """``nn.GELU``."""
        return nn.GELU(self.approximate)

    def compute(self, x: Tensor, x_qparams: QParams | None) -> Tensor:
        """``requantize(gelu(x Wᵀ + b))`` on codes; without ``x_qparams`` on real numbers."""
        if x_qparams is None or is_compiling():
            return super().compute(x, x_qparams)
        _, _, weight, w_qparams, bias, _ = self._call(x, x_qparams)
        return ops.linear_gelu(
            x, x_qparams, weight, w_qparams, bias, self.get_qparams(OUTPUT),
            approximate=self.approximate, packed=self._packed,
        )  # fmt: skip

    def _bound_result(self) -> tuple[QParams | None, None]:
        return self.get_qparams(OUTPUT), None


class LinearTanh(_BeforeRequantization, Linear):
    """``requantize(tanh(x Wᵀ + b))`` on codes.

    Args:
        in_features: Length of the input's last axis.
        out_features: Length of the output's last axis.
        bias: Whether there is a bias.
        dtype: Quantized data type of the weight.
    """

    float_types = (nni.LinearTanh,)
    bias_argument = "bias"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: QDType | str | torch.dtype = qint8,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)

    def activation(self) -> nn.Module:
        """``nn.Tanh``."""
        return nn.Tanh()


class ConvAdd2d(_BeforeRequantization, Conv2d):
    """``requantize(conv(x) + b + s_o · (other - z_o))`` on codes; arguments as `Conv2d`.

    The convolution's result is not requantized before the sum, as it is where the two are separate
    modules, and needs no scale of its own; see `qlab.ops.conv2d_add` for the exact formula.
    """

    float_types = (nni.ConvAdd2d,)

    @classmethod
    def knows_integer_bias(cls) -> bool:
        """No: it sums real numbers, as runtimes do where no QuantizeLinear follows Conv."""
        return False

    def forward(self, *inputs: Tensor, **named: Unpack[Operands]) -> Tensor:
        """As every `QuantizedModule`; plain codes like the last are neither checked nor bound anew.

        Args:
            *inputs: Two `QTensor`, or plain codes or real numbers as bound.
            **named: Or by their names, ``input`` and ``extra_input``.

        Raises:
            ArgumentError: Another number of inputs, or other names.
            DTypeError: Not what was bound, or codes without bound inputs.
        """
        if named or is_compiling():
            return super().forward(*inputs, **named)
        cache, buffers = self._cache, self._buffers
        ready: Any = cache.get("sum")
        if ready is not None and len(inputs) == 2:
            weight, bias = buffers["weight_codes"], buffers["bias_float"]
            given = (*inputs, forced(), weight, bias)
            if not ready.serves(*given):
                ready = next(
                    (made for made in cache.get("kept sums", ()) if made.serves(*given)), None
                )
                if ready is not None:
                    self._keep_sum(ready)
            if ready is not None:
                return ready.run(*inputs)
        result = super().forward(*inputs)
        made, bound = self._packed.ready_sum, self.input_qparams
        if made is not None and bound is not None:
            used = made.first.x_qparams, made.other_qparams, made.first.y_qparams
            same = all(map(operator.is_, used, (*bound, self.get_qparams(OUTPUT))))
            if same:
                self._keep_sum(made)
            else:
                cache["sum"] = None
        return result

    def _keep_sum(self, made: ReadySum) -> None:
        """Remembers a bound call for the next ones."""
        layer = self._buffers["weight_codes"], self._buffers["bias_float"]
        self._cache["kept sums"] = kept(self._cache.get("kept sums", ()), made, *layer)
        self._cache["sum"] = made

    def last_use(self, x: Tensor, other: Tensor, makers: tuple[nn.Module, ...]) -> Tensor:
        """``self(x, other)``, whose result may lie where ``other`` does.

        Code that a graph is turned into calls it, where nothing reads ``other`` afterwards. Forward
        hooks may keep what they see: where there are any, ``other`` is not written to.

        Args:
            x: Codes as bound.
            other: Codes as bound; not to be read again.
            makers: The modules that made ``other``, and that read it before.
        """
        ready: Any = None if is_compiling() else self._cache.get("sum")
        if ready is None or any(map(_watched, (self, *makers))):
            return self(x, other)
        weight, bias = self._buffers["weight_codes"], self._buffers["bias_float"]
        if not ready.serves(x, other, forced(), weight, bias):
            return self(x, other)
        return ready.run(x, other, True)

    def compute(  # pyright: ignore[reportIncompatibleMethodOverride]  (one operand more)
        self,
        x: Tensor,
        x_qparams: QParams | None,
        other: Tensor,
        other_qparams: QParams | None,
    ) -> Tensor:
        """The sum on codes; an operand without parameters holds real numbers."""
        output = self.get_qparams(OUTPUT)
        if other_qparams is None:
            real = super().compute(x, x_qparams) + other
            return self._requantized(real.relu() if self.relu else real)
        if x_qparams is None or is_compiling():
            real = super().compute(x, x_qparams)
            return finished_sum(real, other, other_qparams, output, self.relu)
        _, _, weight, w_qparams, bias, _ = self._call(x, x_qparams)
        options: Any = {**self._options(), "relu": self.relu, "packed": self._packed}
        layer = x, x_qparams, weight, w_qparams, bias
        return ops.conv2d_add(*layer, other, other_qparams, output, **options)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "relu": False}


class ConvAddReLU2d(ConvAdd2d):
    """``requantize(relu(conv(x) + b + s_o · (other - z_o)))`` on codes; as `ConvAdd2d`."""

    float_types = (nni.ConvAddReLU2d,)
    relu = True


def _watched(module: nn.Module) -> bool:
    """Whether somebody may keep what a module takes or gives; or it is none that we know."""
    hooked = module._forward_hooks or module._forward_pre_hooks or _has_any_global_hook()
    replaced = "forward" in vars(module) or not getattr(module, "own_memory", False)
    return bool(hooked or replaced)
