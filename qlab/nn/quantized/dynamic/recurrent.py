"""What recurrent layers and cells share: the units, and their quantized products.

A `Recurrence` says how many gates there are and what a time step does with them. A layer runs it
over sequences, a cell over one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qlab.errors import ArgumentError, DTypeError, ShapeError
from qlab.nn.quantized.dynamic.linear import Linear
from qlab.nn.quantized.dynamic.request import DynamicRequest, WeightDType
from qlab.nn.quantized.reference.base import ReferenceModule

State = Sequence[Tensor]
Hidden = Tensor | State | None
"""The states as callers see them: one tensor, or (h, c)."""


@dataclass(frozen=True)
class Recurrence:
    """One kind of recurrent unit.

    Attributes:
        gates: How many times ``hidden_size`` the two products are long.
        states: How many tensors a step hands to the next.
        step: ``(W_ih x + b_ih, W_hh h + b_hh, states) → states``; the first is the output.
        scan: What `qlab.ops.recurrent.scan` calls it; empty for a unit that it does not know.
    """

    gates: int
    states: int
    step: Callable[[Tensor, Tensor, State], State]
    scan: str = ""


def _lstm(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    size = state[1].shape[-1]
    both, cell, out = (from_input + from_hidden).split((2 * size, size, size), -1)
    enter, forget = both.sigmoid().split(size, -1)
    c = forget * state[1] + enter * cell.tanh()
    return out.sigmoid() * c.tanh(), c


def _gru(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_input.chunk(3, -1), from_hidden.chunk(3, -1)
    reset, update = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    new = (n_x + reset * n_h).tanh()
    return ((state[0] - new) * update + new,)


LSTM_UNIT = Recurrence(4, 2, _lstm, "lstm")
GRU_UNIT = Recurrence(3, 1, _gru, "gru")
ELMAN_UNITS = {
    "tanh": Recurrence(1, 1, lambda x, h, state: ((x + h).tanh(),)),
    "relu": Recurrence(1, 1, lambda x, h, state: ((x + h).relu(),)),
}


class RecurrentModule(nn.Module):
    """What layers and cells share: pairs of quantized products, one for input, one for state.

    The child ``ih<suffix>`` (a `Linear`) holds what ``nn.LSTM`` calls ``weight_ih<suffix>`` and
    ``bias_ih<suffix>``, the child ``hh<suffix>`` the other two.
    """

    float_type: ClassVar[type[nn.Module]]
    fields: ClassVar[tuple[str, ...]]
    recurrence: Recurrence

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or size < 1:
                raise ArgumentError(
                    f"{type(self).__name__}: {name} must be a positive whole number",
                    received=repr(size),
                )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias

    @property
    def dtype(self) -> WeightDType:
        """What the weights are stored as: a `QDType`, or ``torch.float16``."""
        return next(linear.dtype for _, linear in self._linears())

    def _suffixes(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _linears(self) -> Iterator[tuple[str, Linear]]:
        for suffix in self._suffixes():
            for kind in ("ih", "hh"):
                name = kind + suffix
                linear: Any = self.get_submodule(name)
                yield name, linear

    def _add_linears(self, suffix: str, input_size: int, dtype: WeightDType | str) -> None:
        length = self.recurrence.gates * self.hidden_size
        for kind, size in (("ih", input_size), ("hh", self.hidden_size)):
            self.add_module(kind + suffix, Linear(size, length, self.bias, dtype))

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Self:
        """The dynamically quantized form of a recurrent module, with or without biases.

        Args:
            mod: A float module with a ``qconfig``; a weight observer for float16 gives float16
                weights.
            use_precomputed_fake_quant: Not needed: the weights are observed here.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: It has no ``qconfig``.
            UnsupportedError: The qconfig leaves the weights in float32, or there is a projection.
        """
        if type(mod) is not cls.float_type:
            raise DTypeError(
                f"{cls.__name__} cannot be made from this module",
                expected=cls.float_type.__name__,
                received=type(mod).__name__,
            )
        request = DynamicRequest.of(mod)
        arguments: dict[str, Any] = {name: getattr(mod, name) for name in cls.fields}
        arguments["dtype"] = request.weight_dtype
        made = cls(**arguments)
        for name, _ in made._linears():
            weight, bias = getattr(mod, f"weight_{name}"), getattr(mod, f"bias_{name}", None)
            made.add_module(name, Linear.of_weights(weight, bias, request))
        return made.train(mod.training)

    @classmethod
    def from_reference(cls, ref_mod: nn.Module) -> Self:
        """The dynamically quantized form of a reference module, with its weights.

        Args:
            ref_mod: A module of `qlab.nn.quantized.reference` of the same name.

        Raises:
            DTypeError: Another class of module, or weights of several types.
        """
        if not (isinstance(ref_mod, cls.float_type) and isinstance(ref_mod, ReferenceModule)):
            raise DTypeError(
                f"{cls.__name__} cannot be made from this reference module",
                expected=f"qlab.nn.quantized.reference.{cls.__name__}",
                received=type(ref_mod).__name__,
            )
        arguments: dict[str, Any] = {name: getattr(ref_mod, name) for name in cls.fields}
        dtypes = {form.dtype for form in ref_mod.forms.values()}
        if len(dtypes) > 1:
            raise DTypeError(
                f"{cls.__name__}: weights of several types", received=", ".join(map(str, dtypes))
            )
        arguments["dtype"] = dtypes.pop()
        made = cls(**arguments)
        for name, linear in made._linears():
            bias = getattr(ref_mod, f"bias_{name}", None)
            linear.set_weight_bias(ref_mod.quantized(f"weight_{name}"), bias)
        return made.train(ref_mod.training)

    def get_weight(self) -> dict[str, Tensor]:
        """The weights by the names they have in the float module: `QTensor`, or float32."""
        return {f"weight_{name}": linear.weight() for name, linear in self._linears()}

    def get_bias(self) -> dict[str, Tensor | None]:
        """The biases by the names they have in the float module: float32 or None."""
        return {f"bias_{name}": linear.bias() for name, linear in self._linears()}

    def set_weight_bias(self, weight_bias_dict: Mapping[str, Any]) -> None:
        """Replaces all weights and biases.

        Args:
            weight_bias_dict: ``{"weight_ih_l0": …, "bias_ih_l0": …, …}`` as in the float module, or
                the same in two, ``{"weight": {…}, "bias": {…}}``. Weights as `QTensor`, for float16
                as real numbers.

        Raises:
            ArgumentError: A name is missing. The module stays as it was.
            DTypeError: A weight is not of the module's kind.
            ShapeError: A weight or bias has another shape.
        """
        given = dict(weight_bias_dict)
        given = {**given.pop("weight", {}), **given.pop("bias", {}), **given}
        needed = [name for key in ("weight", "bias") for name in self._names(key)]
        if missing := [name for name in needed if name not in given]:
            raise ArgumentError(
                f"{self._get_name()}: weights or biases are missing",
                expected=", ".join(needed),
                received=f"nothing for {', '.join(missing)}",
            )
        for name, linear in self._linears():
            linear.set_weight_bias(given[f"weight_{name}"], given[f"bias_{name}"])

    def _names(self, key: str) -> list[str]:
        return [f"{key}_{name}" for name, _ in self._linears()]

    def _check_input(self, x: Any, axes: tuple[int, ...]) -> None:
        if not isinstance(x, Tensor) or x.is_quantized or not x.is_floating_point():
            raise DTypeError(
                f"{self._get_name()} takes real numbers and quantizes them itself",
                expected="a floating-point tensor",
                received=str(x.dtype) if type(x) is Tensor else type(x).__name__,
                fix="Call .dequantize() first (in a model: insert DeQuantStub before it).",
            )
        if x.dim() not in axes or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{self._get_name()}: the input has the wrong shape",
                expected=f"{' or '.join(map(str, axes))} axes, the last of length "
                f"{self.input_size}",
                received=f"shape {tuple(x.shape)}",
            )

    def _states(self, hx: Hidden, shape: tuple[int, ...], like: Tensor) -> State:
        """The states as a tuple of tensors of a shape; zeros if there are none."""
        count = self.recurrence.states
        if hx is None:
            return [like.new_zeros(shape)] * count
        states = (hx,) if isinstance(hx, Tensor) else hx
        if not isinstance(states, list | tuple) or not all(isinstance(s, Tensor) for s in states):
            raise DTypeError(
                f"{self._get_name()}: the initial state is no tensor",
                expected=f"{count} of shape {shape}, or None",
                received=repr(hx),
            )
        states = tuple(states)
        if len(states) != count or any(state.shape != shape for state in states):
            raise ShapeError(
                f"{self._get_name()}: the initial state does not fit the input",
                expected=f"{count} of shape {shape}",
                received=", ".join(str(tuple(state.shape)) for state in states),
            )
        return states

    def _shown(self, defaults: Mapping[str, Any]) -> str:
        shown = [str(self.input_size), str(self.hidden_size)]
        values = ((name, getattr(self, name), default) for name, default in defaults.items())
        shown += [f"{name}={value!r}" for name, value, default in values if value != default]
        return ", ".join(
            [*shown, *(["dtype=torch.float16"] if self.dtype is torch.float16 else [])]
        )

    def _get_name(self) -> str:
        return f"DynamicQuantized{type(self).__name__}"
