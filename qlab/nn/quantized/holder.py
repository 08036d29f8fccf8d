"""A module that keeps quantization parameters as buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, ClassVar, NoReturn, Self, TypeVar

import torch
from torch import Tensor, nn

from qlab.dtypes import QDType, quint8
from qlab.errors import ArgumentError, UncalibratedError, UnsupportedError, check_type
from qlab.nn.quantized.format import CodeFormat
from qlab.qparams import QParams

F = TypeVar("F", bound=Callable[..., Any])
OUTPUT = "output"
WEIGHT = "weight"


def constant_in_traces(function: F) -> F:
    """A function that `torch.compile` calls once, while it traces, and whose result it keeps.

    It marks the function as `torch.compiler.assume_constant_result` does, which would first import
    the whole compiler: a second of every ``import qlab``.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function


def buffer_names(role: str) -> tuple[str, str]:
    """Names of the scale and zero-point buffers of a role: the output's have no prefix."""
    return ("scale", "zero_point") if role == OUTPUT else (f"{role}_scale", f"{role}_zero_point")


def qparams_of_numbers(scale: float, zero_point: int, dtype: QDType = quint8) -> QParams:
    """Checked per-tensor parameters on the default device, which may be ``meta``."""
    made = QParams.per_tensor(scale, zero_point, dtype, torch.device("cpu"))
    return made.to(torch.get_default_device())


def float_copy(value: Tensor | None) -> Tensor | None:
    """A float32 copy of a parameter or buffer, outside of autograd; None stays None."""
    check_type("A layer", "a parameter", value, (Tensor, NoneType), "a tensor, or None")
    return None if value is None else value.detach().to(torch.float32, copy=True)


def check_per_tensor(owner: str, what: str, qparams: QParams | None) -> None:
    """Raises `ArgumentError` if there are parameters, of more than one scale."""
    if qparams is not None and not qparams.per_tensor_granularity:
        raise ArgumentError(
            f"{owner}: the {what} needs one scale for the whole tensor",
            received=qparams.granularity,
        )


class QParamsHolder(nn.Module):
    """Scales and zero points as buffers, everything else about them as `CodeFormat`.

    The `QParams` made of the two are kept until a buffer is assigned, loaded or moved, so that
    asking for them is free. Change a scale by assigning it (``module.scale = 0.1``), not in place.
    Moving a module never changes the type of its numbers: ``module.half()`` leaves them as they
    are.

    Attributes:
        takes_real_numbers: Whether an input may be real numbers.
    """

    takes_real_numbers: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._formats: dict[str, CodeFormat] = {}
        self._cache: dict[str, Any] = {}
        self._inputs: int | None = None

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As every module; where the state does not fit, the module stays as it was.

        Raises:
            DTypeError: Not a state dict.
            StateError: It does not fit; names all keys.
        """
        from qlab.nn.quantized.whole import loads_as_a_whole  # which needs this module

        caller = f"{self._get_name()}.load_state_dict"
        check_type(caller, "the state", state_dict, Mapping, "a state dict")
        loads_as_a_whole(self)
        return super().load_state_dict(state_dict, strict, assign)

    def set_qparams(self, role: str, qparams: QParams | None) -> None:
        """Stores the parameters of a role; None removes them.

        Raises:
            QlabError: A scale is not positive and finite, or a zero point is not a code.
        """
        self._cache.clear()
        scale_name, zero_point_name = buffer_names(role)
        if qparams is None:
            self._formats.pop(role, None)
            self.register_buffer(scale_name, None)
            self.register_buffer(zero_point_name, None)
            return
        if not qparams.scale.is_meta:
            qparams.check()
        self._formats[role] = CodeFormat.of(qparams)
        self.register_buffer(scale_name, qparams.scale.detach().to(torch.float32, copy=True))
        zero_type = torch.float32 if qparams.float_zero_point else torch.int32
        self.register_buffer(zero_point_name, qparams.zero_point.to(zero_type, copy=True))

    def get_qparams(self, role: str) -> QParams | None:
        """The parameters of a role; None if it has none.

        Raises:
            UncalibratedError: They are not known yet: `forget_calibration`.
            QlabError: A scale that was assigned or loaded is not positive and finite, or a zero
                point is not a code.
        """
        if role not in self._formats:
            return None
        if role not in self._cache:
            self._check_known(role)
            made = self._formats[role].with_values(*map(self.get_buffer, buffer_names(role)))
            if not made.scale.is_meta:
                made.check()
            self._cache[role] = made
        return self._cache[role]

    def forget_calibration(self) -> None:
        """Makes the scales of output and inputs unknown (NaN), until a state dict brings them."""
        self._cache.clear()
        for role in self._formats:
            if role == OUTPUT or role.startswith("input_"):
                scale, zero_point = buffer_names(role)
                setattr(self, scale, torch.full_like(self.get_buffer(scale), torch.nan))
                setattr(self, zero_point, torch.zeros_like(self.get_buffer(zero_point)))

    def calibrated(self, role: str) -> bool:
        """Whether a role has parameters and they are known."""
        if role not in self._formats:
            return False
        scale = self.get_buffer(buffer_names(role)[0])
        return scale.is_meta or not bool(scale.isnan().any())

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by ``torch.jit.script``: says what there is instead."""
        self._refuse_torchscript("scripted")

    def _slow_forward(self, *input: Any, **kwargs: Any) -> NoReturn:
        """Called in place of ``forward`` by ``torch.jit.trace`` alone."""
        self._refuse_torchscript("traced by torch.jit")

    def _refuse_torchscript(self, what: str) -> NoReturn:
        raise UnsupportedError(
            f"{self._get_name()} cannot be {what}: torch has deprecated TorchScript",
            fix="Save the state_dict, or use torch.export or torch.compile on a model that "
            "convert_fx made.",
        )

    @property
    def forgotten(self) -> bool:
        """Whether a role's parameters are not known yet."""
        return not all(map(self.calibrated, self._formats))

    def _check_known(self, role: str) -> None:
        if not self.calibrated(role):
            raise UncalibratedError(
                f"{self._get_name()}: the scale of its {role.replace('_', ' ')} is not known: "
                "the model was converted without calibration data",
                fix="Load a state dict of a calibrated model, or calibrate before converting.",
            )

    def bind_inputs(self, *qparams: QParams | None) -> Self:
        """Fixes how plain codes are read, one `QParams` per input; returns the module itself.

        None stands for an input of real numbers where `takes_real_numbers`.

        Raises:
            ArgumentError: More than one scale per input, or None where only codes are taken.
        """
        for given in qparams:
            check_per_tensor(self._get_name(), "input", given)
        if None in qparams and not self.takes_real_numbers:
            raise ArgumentError(
                f"{self._get_name()} takes codes only",
                expected="a QParams for every input",
                received="None",
            )
        for index in range(len(qparams), self._inputs or 0):
            self.set_qparams(f"input_{index}", None)
        own = next(self.buffers(), None)
        for index, given in enumerate(qparams):
            here = given if given is None or own is None else given.to(own.device)
            self.set_qparams(f"input_{index}", here)
        self._inputs = len(qparams)
        return self

    @property
    def input_qparams(self) -> tuple[QParams | None, ...] | None:
        """Parameters of the inputs given by `bind_inputs`; None if it was not called."""
        if self._inputs is None:
            return None
        if "inputs" not in self._cache:
            found = tuple(self.get_qparams(f"input_{index}") for index in range(self._inputs))
            self._cache["inputs"] = found
        return self._cache["inputs"]

    @constant_in_traces
    def know(self) -> bool:
        """Finds out, before a compiler traces the module, what a trace must not compute.

        Their numbers become constants of the trace; it is made anew after they have changed.
        """
        for role in self._formats:
            qparams = self.get_qparams(role)
            if qparams is not None and not qparams.scale.is_meta:
                _ = qparams.symmetric_around_zero
                if not qparams.scale.dim():
                    _ = qparams.scale_value, qparams.zero_point_value
        _ = self.input_qparams
        return True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_buffers", ()):
            self._cache.clear()
            old = self._buffers[name]
            if old is not None and isinstance(value, (int, float)):
                value = torch.full_like(old, value)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_type(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        self._cache.clear()
        return super()._apply(keep_type, recurse)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._cache.clear()
