"""`QuantizedModule`: what every module on integer codes shares.

A subclass says which float modules it replaces (`float_types`), which of their attributes are its
constructor's arguments (`fields`), which of their tensors it copies (`tensors`), and computes. The
conversion from float, configuration and checks of the input are here, once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from itertools import chain
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from qlab.dtypes import quint8
from qlab.errors import ArgumentError, DTypeError, FormatError, UnsupportedError
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic import FusedModule
from qlab.nn.intrinsic.fold import core, hooked
from qlab.nn.quantized.format import CodeFormat
from qlab.nn.quantized.holder import (
    OUTPUT,
    WEIGHT,
    QParamsHolder,
    check_per_tensor,
    float_copy,
    qparams_of_numbers,
)
from qlab.nn.quantized.observed import activation_qparams, weight_qparams
from qlab.nn.quantized.operands import Operands, in_order
from qlab.ops import checks
from qlab.qparams import QParams
from qlab.qtensor import QTensor


class Output(Enum):
    """Where the scale and zero point of an output come from."""

    OWN = "own"
    OWN_OR_FLOAT = "own or float"
    INPUT = "input"
    FLOAT = "float"


_OWN = (Output.OWN, Output.OWN_OR_FLOAT)


class QuantizedModule(QParamsHolder):
    """Base of every integer module: codes in, codes out.

    It is called in one of two ways. In eager models with a `QTensor`, which brings its own scale
    and zero point; the result is a `QTensor`. In converted graphs with a plain tensor of codes,
    read with the parameters given once by `bind_inputs`; the result is a plain tensor of codes.
    Without output parameters (`Output.OWN_OR_FLOAT`) the result is float32.

    Buffers: ``scale`` (float32) and ``zero_point`` (int32) of the output, the same with a prefix
    for a weight and for bound inputs. Everything else that must be known is in `config`.

    Attributes:
        float_types: Float and fused module classes that it replaces.
        fields: Constructor arguments that are attributes of the float module and of this one;
            JSON values.
        tensors: Float tensors of the float module that are copied to buffers as they are.
        required: Attributes that the float module must have; others have no integer form.
        output_of: Where the scale and zero point of the output come from.
        has_weight: Whether it holds a quantized weight.
        own_memory: Whether a result on codes always lies in memory that nothing else uses, neither
            its inputs nor a later result.
        compute: The operator on codes: takes each input's codes, then its `QParams`; returns codes.
    """

    float_types: ClassVar[tuple[type[nn.Module], ...]] = ()
    fields: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[Mapping[str, Any]] = {}
    output_of: ClassVar[Output] = Output.OWN
    has_weight: ClassVar[bool] = False
    own_memory: ClassVar[bool] = False
    compute: Callable[..., Tensor]

    @classmethod
    def from_qparams(
        cls, mod: nn.Module, *, weight: QParams | None = None, output: QParams | None = None
    ) -> Self:
        """The integer module of a float module, given how its tensors are quantized.

        Args:
            mod: A module of a class in `float_types`. Fused modules are taken whole: batch norm
                is folded into the weight.
            weight: Parameters for the float weight that `weight_of` returns; None if there is
                no weight to quantize.
            output: Parameters of the output, one scale for the whole tensor; None where the
                class has no output parameters of its own, or for a float32 output.

        Returns:
            A module on the device of ``mod``'s tensors, in evaluation mode.

        Raises:
            DTypeError: Another class of module.
            ArgumentError: Parameters are missing, or given for what the class does not quantize.
            ShapeError: ``weight`` does not fit the weight.
        """
        layer = core(cls._accept(mod))
        cls._check_given(weight, output)
        made = cls(**cls._arguments_of(layer))
        for name in cls.tensors:
            made.register_buffer(name, float_copy(getattr(layer, name)))
        if weight is not None:
            made._take_weight(layer, weight)
        if cls.output_of in _OWN:
            made.set_qparams(OUTPUT, output)
        reference = next(chain(layer.parameters(), layer.buffers()), output and output.scale)
        return made.to(None if reference is None else reference.device).eval()

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Self:
        """The integer module of an observed float module, as in the reference.

        Args:
            mod: A float, fused or quantization-aware module with the attributes ``qconfig`` and
                ``activation_post_process``, which prepare attaches.
            use_precomputed_fake_quant: Use the weight observer as it stands, without showing it
                the weight again.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: Not prepared, or no data has been observed.
            UnsupportedError: The qconfig leaves the output in float, which the class does not.
        """
        cls._accept(mod)
        weight = None
        if cls.has_weight:
            weight = weight_qparams(mod, cls.weight_of(mod), observe=not use_precomputed_fake_quant)
            if weight is None:
                raise UnsupportedError(
                    f"{cls.__name__} has a weight of codes, and its qconfig leaves the weight in "
                    "float",
                    fix="Give it a qconfig whose weight observer finds scales, such as "
                    "default_weight_observer, or None for float.",
                )
        output = activation_qparams(mod) if cls.output_of in _OWN else None
        if output is None and cls.output_of is Output.OWN:
            raise UnsupportedError(
                f"{cls.__name__} gives codes, and its qconfig leaves the activation in float",
                fix="Give it a qconfig whose activation is quantized statically, or None for "
                "float.",
            )
        return cls.from_qparams(mod, weight=weight, output=output)

    @classmethod
    def from_reference(
        cls, mod: nn.Module, scale: float | None = None, zero_point: int | None = None
    ) -> Self:
        """The integer module of a reference module: a float module that knows its quantized weight.

        Args:
            mod: A module of the float class, or one derived from it; where there is a weight to
                quantize, with ``get_quantized_weight()``, which gives a `QTensor`.
            scale: Scale of the output, real units per code, quint8; None where the class has no
                output parameters of its own.
            zero_point: Zero point of the output.

        Raises:
            DTypeError: Another class of module, or a weight that is not quantized.
            ArgumentError: Scale and zero point are missing, or given where there are none.
        """
        if not isinstance(mod, cls._plain_class()):
            raise DTypeError(
                f"{cls.__name__} cannot be made from this reference module",
                expected=f"a {cls._plain_class().__name__}",
                received=type(mod).__name__,
            )
        own = cls.output_of in _OWN
        if own != (scale is not None) or own != (zero_point is not None):
            raise ArgumentError(
                f"{cls.__name__}: an output scale and zero point "
                + ("are missing" if own else "do not exist"),
                received=f"scale={scale}, zero_point={zero_point}",
            )
        made = cls(**cls._arguments_of(mod))
        for name in cls.tensors:
            made.register_buffer(name, float_copy(getattr(mod, name)))
        if cls.has_weight:
            made._take_reference_weight(mod)
        if scale is not None and zero_point is not None:
            made.set_qparams(OUTPUT, qparams_of_numbers(float(scale), int(zero_point)))
        tensor = next(chain(mod.parameters(), mod.buffers()), None)
        return made.to(None if tensor is None else tensor.device).eval()

    @classmethod
    def _plain_class(cls) -> type[nn.Module]:
        plain = cls.float_types[0]
        return plain.parts[0] if issubclass(plain, FusedModule) else plain

    @classmethod
    def plain_float_type(cls) -> Callable[..., nn.Module]:
        """The class in `torch.nn` (or `qlab.nn.functions`) that it does the same as, ReLU aside."""
        return cls._plain_class()

    @classmethod
    def weight_of(cls, mod: nn.Module) -> Tensor:
        """The float weight that would be quantized: float32, batch norm folded in.

        Raises:
            ArgumentError: Modules of this class have no weight to quantize.
        """
        if not cls.has_weight:
            raise ArgumentError(f"{cls.__name__} has no weight to quantize")
        weight: Any = core(mod).weight
        return weight.detach().to(torch.float32)

    @classmethod
    def obstacle(cls, mod: nn.Module) -> str | None:
        """Why a module of a class in `float_types` has no integer form; None if it has one."""
        try:
            cls._accept(mod)
        except UnsupportedError as refusal:
            return f"{refusal.problem}: it needs {refusal.expected}"
        if hooked(mod):
            return "it has forward hooks, which no integer module would run"
        return None

    @classmethod
    def _accept(cls, mod: nn.Module) -> nn.Module:
        kind = mod.float_type if isinstance(mod, QuantizationAware) else None
        if (kind or type_before_parametrizations(mod)) not in cls.float_types:
            raise DTypeError(
                f"{cls.__name__} cannot be made from this module",
                expected=" or ".join(float_type.__name__ for float_type in cls.float_types),
                received=type(mod).__name__,
                fix="qlab.registry tells which integer module replaces a float module.",
            )
        for name, value in cls.required.items():
            if getattr(mod, name) != value:
                raise UnsupportedError(
                    f"{type(mod).__name__} has no integer form with these arguments",
                    expected=f"{name}={value}",
                    received=f"{name}={getattr(mod, name)}",
                )
        return mod

    @classmethod
    def _check_given(cls, weight: QParams | None, output: QParams | None) -> None:
        own = cls.output_of in _OWN
        for what, given, needed, allowed in (
            ("weight", weight, cls.has_weight, cls.has_weight),
            ("output", output, cls.output_of is Output.OWN, own),
        ):
            if given is None and needed:
                raise ArgumentError(
                    f"{cls.__name__}: the {what}'s quantization parameters are missing",
                    fix=f"Pass {what}=QParams(…).",
                )
            if given is not None and not allowed:
                raise ArgumentError(
                    f"{cls.__name__} has no quantization parameters of its own for its {what}",
                    fix=f"Pass {what}=None.",
                )
        check_per_tensor(cls.__name__, "output", output)

    @classmethod
    def _arguments_of(cls, source: nn.Module) -> dict[str, Any]:
        """Constructor arguments, read off a float module or a module of this class."""
        return {name: getattr(source, name) for name in cls.fields}

    def _take_arguments(self, *args: Any, **kwargs: Any) -> None:
        """Sets `fields` as the float module constructed with these arguments has them."""
        given = ", ".join(map(repr, [*args, *kwargs.values()]))
        with checks.torch_refusal(type(self).__name__, given):
            source = self.plain_float_type()(*args, **kwargs)
        for name in self.fields:
            setattr(self, name, getattr(source, name))

    def _own_output(self) -> QParams:
        output = self.get_qparams(OUTPUT)
        assert output is not None
        return output

    def _take_weight(self, layer: nn.Module, qparams: QParams) -> None:
        raise NotImplementedError

    def _take_reference_weight(self, mod: Any) -> None:
        raise NotImplementedError

    def forward(self, *inputs: Tensor, **named: Unpack[Operands]) -> Tensor:
        """`QTensor` in, `QTensor` out; with bound inputs plain codes in, plain codes out.

        Args:
            *inputs: As many as the operator takes.
            **named: Or by the names that a float model calls its modules with.

        Raises:
            ArgumentError: Another number of inputs, or other names.
            DTypeError: Real numbers, or plain codes without bound inputs, or of another type.
        """
        if torch.compiler.is_compiling():
            self.know()
        if named:
            inputs = in_order(self._get_name(), inputs, named)
        if inputs and isinstance(inputs[0], QTensor):
            return self._forward_quantized(inputs)
        bound = self.input_qparams
        if bound is None or len(bound) != len(inputs):
            raise self._not_quantized(inputs)
        arguments = []
        for x, qparams in zip(inputs, bound, strict=True):
            if not _fits(x, qparams):
                raise self._not_quantized(inputs)
            arguments += (x, qparams)
        return self.compute(*arguments)

    def _forward_quantized(self, inputs: tuple[Tensor, ...]) -> Tensor:
        pairs = [(x.codes, x.qparams) for x in inputs if isinstance(x, QTensor)]
        if len(pairs) != len(inputs):
            raise self._not_quantized(inputs)
        self._check_count(len(inputs))
        result = self.compute(*chain.from_iterable(pairs))
        shares = self.output_of is Output.INPUT
        qparams = pairs[0][1] if shares else self.get_qparams(OUTPUT)
        return result if qparams is None else QTensor(result, qparams)

    def _check_count(self, given: int) -> None:
        """Raises `ArgumentError` for more or fewer inputs than `compute` takes."""
        wanted = _operands(type(self))
        if wanted is not None and given != wanted:
            raise ArgumentError(
                f"{self._get_name()}: the wrong number of inputs",
                expected=f"{wanted}",
                received=f"{given}",
            )

    def _not_quantized(self, inputs: tuple[Any, ...]) -> DTypeError:
        received = ", ".join(str(getattr(x, "dtype", type(x).__name__)) for x in inputs)
        bound = self.input_qparams
        if bound is not None:
            expected = ", ".join(
                f"{q.dtype.name} codes ({q.dtype.storage})" if q else "real numbers" for q in bound
            )
            return DTypeError(
                f"{self._get_name()}: expected quantized input",
                expected=expected or "no input",
                received=received or "nothing",
                fix="Quantize real numbers first: call Quantize.",
            )
        return DTypeError(
            f"{self._get_name()}: expected quantized input",
            expected="a QTensor",
            received=received or "nothing",
            fix="Call Quantize first (in a model: insert QuantStub before this module), or, for "
            "plain codes, tell their scale and zero point with bind_inputs.",
        )

    @property
    def output_qparams(self) -> QParams | None:
        """Parameters of the output; None if it is float32, or kept from an input not bound."""
        if self.output_of is Output.INPUT:
            return self.input_qparams[0] if self.input_qparams else None
        return self.get_qparams(OUTPUT)

    @property
    def execution(self) -> str:
        """``"integer"`` where integer arithmetic runs, ``"simulated"`` where float32 stands in."""
        return "simulated" if self.execution_reason else "integer"

    @property
    def execution_reason(self) -> str:
        """Why it is simulated, in words; empty if it is not."""
        for qparams in (*(self.input_qparams or ()), self.output_qparams):
            if qparams is not None and qparams.dtype.is_float:
                return f"{qparams.dtype.name} codes are not integers"
        return ""

    def config(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values; `from_config` reads it back."""
        return {
            "arguments": self._arguments_of(self),
            "inputs": self._inputs,
            "formats": {role: form.to_dict() for role, form in self._formats.items()},
            "tensors": {name: self._shape_of(name) for name in self.tensors},
        }

    def _shape_of(self, name: str) -> list[int] | None:
        value = self._buffers[name]
        return None if value is None else list(value.shape)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A module of the right shapes and types, whose tensors come from a state dict.

        Args:
            config: What `config` returned, also after a round trip through JSON.

        Raises:
            FormatError: Keys are missing or unknown.
            QlabError: An argument makes no sense.
        """
        match config:
            case {
                "arguments": dict(arguments),
                "inputs": int() | None as inputs,
                "formats": dict(formats),
                "tensors": dict(tensors),
                **rest,
            } if (
                not rest and set(tensors) == set(cls.tensors) and (inputs or 0) <= len(formats) + 1
            ):
                read = {role: CodeFormat.from_dict(data) for role, data in formats.items()}
            case _:
                raise FormatError(
                    f"Not a configuration of {cls.__name__}",
                    expected="the keys arguments, inputs, formats and tensors",
                    received=repr(config),
                )
        try:
            made = cls(**{name: _tuples(value) for name, value in arguments.items()})
            for name, shape in tensors.items():
                made.register_buffer(name, None if shape is None else torch.zeros(shape))
        except (TypeError, ValueError, RuntimeError) as error:
            raise FormatError(
                f"The arguments of {cls.__name__} do not fit", received=str(error)
            ) from error
        made._inputs = inputs
        made._set_formats(read)
        return made.eval()

    def _set_formats(self, formats: Mapping[str, CodeFormat]) -> None:
        """Gives each role a format and buffers of the right shape, to be loaded later."""
        inputs = {f"input_{index}" for index in range(self._inputs or 0)}
        own = {OUTPUT} if self.output_of in _OWN else set()
        own |= {WEIGHT} if self.has_weight else set()
        optional = {OUTPUT} if self.output_of is Output.OWN_OR_FLOAT else set()
        optional |= inputs if self.takes_real_numbers else set()
        if not inputs | own >= set(formats) >= (inputs | own) - optional:
            raise FormatError(
                f"{type(self).__name__}: formats of the wrong tensors",
                expected=", ".join(sorted(inputs | own)) or "none",
                received=", ".join(formats) or "none",
            )
        for role in own | inputs:
            form = formats.get(role)
            self.set_qparams(role, None if form is None else self._blank(role, form))

    def _blank(self, role: str, form: CodeFormat) -> QParams:
        """Placeholder parameters of a format."""
        zero_point = max(form.quant_min, 0)
        return form.with_values(torch.ones(()), torch.tensor(zero_point, dtype=torch.int32))

    def extra_repr(self) -> str:
        return ", ".join([*self._shown_arguments(), *self._shown_output()])

    def _shown_arguments(self) -> list[str]:
        return [f"{name}={value!r}" for name, value in self._arguments_of(self).items()]

    def _shown_output(self) -> list[str]:
        if self.output_of not in _OWN:
            return []
        if OUTPUT in self._formats and not self.calibrated(OUTPUT):
            return ["not calibrated"]
        output = self.get_qparams(OUTPUT)
        if output is None:
            return ["output=float32"]
        shown = [f"scale={output.scale_value}", f"zero_point={output.zero_point_value}"]
        return shown if output.dtype == quint8 else [*shown, f"dtype={output.dtype!r}"]

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"


@cache
def _operands(kind: type[QuantizedModule]) -> int | None:
    """How many inputs a module's `compute` takes; None for any number."""
    parameters = list(inspect.signature(kind.compute).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return len(parameters) // 2


def _fits(x: Any, qparams: QParams | None) -> bool:
    """Whether ``x`` holds what the parameters describe: codes, or without them real numbers."""
    if not isinstance(x, Tensor):
        return False
    return x.is_floating_point() if qparams is None else x.dtype is qparams.dtype.storage


def _tuples(value: Any) -> Any:
    """JSON knows lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
