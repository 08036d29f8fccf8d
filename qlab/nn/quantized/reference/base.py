"""What reference modules share: a float module that computes with its quantized weight."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qlab.dtypes import quint8
from qlab.errors import DTypeError, FormatError
from qlab.granularity import per_tensor_affine
from qlab.nn.quantized.reference.weight import WeightForm

#: What the reference takes where nothing is given.
_NOTHING_GIVEN = {
    "qscheme": per_tensor_affine,
    "dtype": quint8,
    "scale": 1.0,
    "zero_point": 0,
}
_PLACE = ("device", "dtype")


class ReferenceModule(nn.Module):
    """Base of float modules that know how their weights are to be quantized.

    ``y = f(x, dequantize(quantize(w)))`` on real numbers: what the integer module computes, before
    its output is quantized. The float weights are parameters; beside each, ``<weight>_scale``,
    ``<weight>_zero_point`` and ``<weight>_axis`` are buffers, and ``<weight>_qscheme`` and
    ``<weight>_dtype`` attributes.

    Attributes:
        float_type: The float module that it is, but for its weights.
        forms: How each weight is quantized, by its name.
    """

    _IS_REFERENCE: ClassVar[bool] = True  # as the reference marks them
    float_type: ClassVar[type[nn.Module]]
    forms: dict[str, WeightForm]

    def _hold(self, name: str, given: Mapping[str, Any] | None, device: Any = None) -> None:
        """Keeps how a weight is quantized, from the reference's dict form."""
        given = _NOTHING_GIVEN if given is None else given
        form = WeightForm.of(given)
        scale, zero = given.get("scale", 1.0), given.get("zero_point", 0)
        floating = isinstance(zero, Tensor) and zero.is_floating_point()
        self._set_form(name, form)
        kept = {
            "scale": torch.as_tensor(scale, dtype=torch.float32),
            "zero_point": torch.as_tensor(zero, dtype=torch.float32 if floating else torch.int32),
            "axis": torch.tensor(form.axis, dtype=torch.int32),
        }
        for key, value in kept.items():
            self.register_buffer(f"{name}_{key}", value.detach().clone().to(device))
        if form.quantized:
            form.qparams(kept["scale"], kept["zero_point"])

    def _set_form(self, name: str, form: WeightForm) -> None:
        vars(self).setdefault("forms", {})[name] = form
        setattr(self, f"{name}_qscheme", form.qscheme)
        setattr(self, f"{name}_dtype", form.dtype)

    def quantized(self, name: str) -> Tensor:
        """A weight as `QTensor`; in float16, or as it is, where it has no codes.

        Args:
            name: Such as ``"weight"`` or ``"weight_ih_l0"``.
        """
        scale, zero_point = (self.get_buffer(f"{name}_{key}") for key in ("scale", "zero_point"))
        return self.forms[name].quantize(self.get_parameter(name), scale, zero_point)

    def rounded(self, name: str) -> Tensor:
        """A weight as real numbers, float32: what its codes stand for."""
        if self.forms[name].qscheme is None:
            return self.get_parameter(name)
        weight = self.quantized(name)
        return weight.dequantize() if weight.dtype != torch.float16 else weight.float()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the float module does, with the weights that its codes stand for."""
        return self.float_type.forward(self._rounded_twin(), *args, **kwargs)

    def _rounded_twin(self) -> Any:
        """This module with rounded weights; everything else is shared."""
        twin = copy.copy(self)
        rounded = {name: self.rounded(name) for name in self.forms}
        vars(twin)["_parameters"] = {**self._parameters, **rounded}
        return twin

    @classmethod
    def _made_of(cls, mod: nn.Module, **held: Any) -> Self:
        """A module of a float one's arguments and, shared, its parameters.

        Raises:
            DTypeError: Another class of module.
        """
        if not isinstance(mod, cls.float_type):
            raise DTypeError(
                f"{cls.__name__} cannot be made from this module",
                expected=cls.float_type.__name__,
                received=type(mod).__name__,
            )
        like: Any = next(mod.parameters())
        made = cls(**cls._arguments_of(mod), device=like.device, dtype=like.dtype, **held)
        for name, parameter in mod.named_parameters(recurse=False):
            setattr(
                made, name, nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
            )
        return made.train(mod.training)

    @classmethod
    def _arguments_of(cls, mod: Any) -> dict[str, Any]:
        """The arguments a float module was made with, read off its attributes."""
        names = inspect.signature(cls._signature_of()).parameters
        own = [n for n in names if n not in ("self", *_PLACE) and not n.startswith("_")]
        given = {name: getattr(mod, name) for name in own}
        if "bias" in given and (given["bias"] is None or isinstance(given["bias"], Tensor)):
            given["bias"] = given["bias"] is not None
        return given

    @classmethod
    def _signature_of(cls) -> Any:
        return cls.float_type.__init__

    def get_extra_state(self) -> dict[str, Any]:
        """The forms of the weights, as plain values, for the state dict."""
        return {name: form.to_dict() for name, form in self.forms.items()}

    def set_extra_state(self, state: Any) -> None:
        """Takes the forms of a loaded state; `_load_from_state_dict` has checked them."""

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Takes over how the loaded weights are quantized.

        Raises:
            FormatError: The state is about other weights. Of a part, the whole model's load says
                so in the end.
        """
        try:
            self._take_forms(state_dict, prefix)
        except FormatError as error:
            if not prefix:
                raise
            args[-1].append(f"{prefix}_extra_state: {error}")
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _take_forms(self, state_dict: Any, prefix: str) -> None:
        loaded = state_dict.get(f"{prefix}_extra_state")
        if loaded is not None:
            if not isinstance(loaded, dict) or set(loaded) != set(self.forms):
                raise FormatError(
                    f"{self._get_name()}: the state is about other weights",
                    expected=", ".join(self.forms),
                    received=repr(loaded),
                )
            forms = {name: WeightForm.from_dict(form) for name, form in loaded.items()}
            for name, form in forms.items():
                self._set_form(name, form)
                for key in ("scale", "zero_point"):
                    value = state_dict.get(f"{prefix}{name}_{key}")
                    if value is not None:
                        device = self.get_buffer(f"{name}_{key}").device
                        self.register_buffer(
                            f"{name}_{key}", torch.empty_like(value, device=device)
                        )

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}(Reference)"


class ReferenceQuantizedModule(ReferenceModule):
    """Base of reference modules with one weight, named ``weight``."""

    def get_weight(self) -> Tensor:
        """The weight as real numbers, float32: what its codes stand for."""
        return self.rounded("weight")

    def get_quantized_weight(self) -> Tensor:
        """The weight as `QTensor`; in float16, or as it is, where it has no codes."""
        return self.quantized("weight")

    @classmethod
    def from_float(
        cls,
        mod: nn.Module,
        weight_qparams: Mapping[str, Any],
        use_precomputed_fake_quant: bool = False,
    ) -> Self:
        """The reference module of a float one.

        Args:
            mod: A module of the float class; its parameters are shared.
            weight_qparams: ``qscheme``, ``dtype``, ``scale``, ``zero_point`` and, per channel,
                ``axis`` of the weight.
            use_precomputed_fake_quant: Not needed: the parameters are given.

        Raises:
            DTypeError: Another class of module.
            QlabError: The parameters make no sense.
        """
        return cls._made_of(mod, weight_qparams=weight_qparams)
