"""Recurrent reference modules: layers and cells, each weight with parameters of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from qlab.errors import ArgumentError
from qlab.nn.quantized.reference.base import ReferenceModule

_FLAG = "is_decomposed"


class _Recurrent(ReferenceModule):
    """A recurrent module made with the arguments of its float one, and ``weight_qparams_dict``.

    Args:
        *args: The arguments of the float module of the same name.
        weight_qparams_dict: By the weight's name, how it is quantized: ``qscheme``, ``dtype``,
            ``scale``, ``zero_point`` and, per channel, ``axis``; scale 1 and zero point 0 in
            quint8 if not given.
        **kwargs: As ``args``, with ``device`` and ``dtype``.

    Raises:
        ArgumentError: Parameters for other weights than there are.
    """

    def __init__(
        self, *args: Any, weight_qparams_dict: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        weights = [name for name in self._parameters if name.startswith("weight")]
        given = dict(weight_qparams_dict or dict.fromkeys(weights))
        if given.pop(_FLAG, False) or set(given) != set(weights):
            raise ArgumentError(
                f"{self._get_name()}: parameters of other weights",
                expected=", ".join(weights),
                received=", ".join(weight_qparams_dict or ()),
            )
        for name in weights:
            self._hold(name, given[name], kwargs.get("device"))

    @classmethod
    def from_float(
        cls,
        mod: nn.Module,
        weight_qparams_dict: Mapping[str, Any],
        use_precomputed_fake_quant: bool = False,
    ) -> Self:
        """The reference module of a float one.

        Args:
            mod: A module of the float class; its parameters are shared.
            weight_qparams_dict: By the weight's name, how it is quantized.
            use_precomputed_fake_quant: Not needed: the parameters are given.

        Raises:
            DTypeError: Another class of module.
            ArgumentError: Parameters for other weights than there are.
        """
        return cls._made_of(mod, weight_qparams_dict=weight_qparams_dict)


class RNNCellBase(_Recurrent):
    """Base of the cells."""

    def get_quantized_weight_ih(self) -> Tensor:
        """The weight of the input, as `QTensor`."""
        return self.quantized("weight_ih")

    def get_quantized_weight_hh(self) -> Tensor:
        """The weight of the state, as `QTensor`."""
        return self.quantized("weight_hh")

    def get_weight_ih(self) -> Tensor:
        """The weight of the input as real numbers: what its codes stand for."""
        return self.rounded("weight_ih")

    def get_weight_hh(self) -> Tensor:
        """The weight of the state as real numbers: what its codes stand for."""
        return self.rounded("weight_hh")


class RNNCell(RNNCellBase, nn.RNNCell):
    """``nn.RNNCell`` with the weights that its codes stand for."""

    float_type = nn.RNNCell


class LSTMCell(RNNCellBase, nn.LSTMCell):
    """``nn.LSTMCell`` with the weights that its codes stand for."""

    float_type = nn.LSTMCell


class GRUCell(RNNCellBase, nn.GRUCell):
    """``nn.GRUCell`` with the weights that its codes stand for."""

    float_type = nn.GRUCell


class RNNBase(_Recurrent):
    """Base of the layers."""

    @classmethod
    def _signature_of(cls) -> Any:
        return nn.RNNBase.__init__

    @classmethod
    def _arguments_of(cls, mod: Any) -> dict[str, Any]:
        given = super()._arguments_of(mod)
        projected = given.pop("proj_size")  # which GRU knows, and refuses
        del given["mode"]
        return {**given, "proj_size": projected} if projected else given

    def _rounded_twin(self) -> Any:
        twin = super()._rounded_twin()
        names = vars(self)["_flat_weights_names"]
        vars(twin)["_flat_weights"] = [twin._parameters[name] for name in names]
        return twin

    def get_flat_weights(self) -> list[Tensor]:
        """Weights as real numbers that their codes stand for, and biases, in torch's order."""
        return vars(self._rounded_twin())["_flat_weights"]

    def get_quantized_weight_bias_dict(self) -> dict[str, dict[str, Tensor]]:
        """Every weight as `QTensor` and every bias: ``{"weight": {…}, "bias": {…}}``, by name."""
        names = vars(self)["_flat_weights_names"]
        return {
            "weight": {n: self.quantized(n) for n in names if n in self.forms},
            "bias": {n: self.get_parameter(n) for n in names if n not in self.forms},
        }


class LSTM(RNNBase, nn.LSTM):
    """``nn.LSTM`` with the weights that its codes stand for."""

    float_type = nn.LSTM


class GRU(RNNBase, nn.GRU):
    """``nn.GRU`` with the weights that its codes stand for."""

    float_type = nn.GRU


def get_quantized_weight(module: ReferenceModule, wn: str) -> Tensor:
    """A weight of a reference module, as `QTensor`.

    Args:
        module: The module.
        wn: The weight's name, such as ``"weight_ih"``.
    """
    return module.quantized(wn)
