"""A state dict that does not fit leaves a prepared or quantized model as it was."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from qlab.errors import QlabError, StateError
from qlab.fake_quantize import FakeQuantizeBase
from qlab.nn.quantized.embedding import Embedding
from qlab.nn.quantized.holder import WEIGHT, QParamsHolder, buffer_names
from qlab.observers import ActivationPostProcess

Module = TypeVar("Module", bound=nn.Module)


class _Before:
    """What a model held before a load, what is loaded, and where torch says what does not fit.

    Args:
        module: The model.
        prefix: Its place in the model whose state is loaded; empty if that is itself.
        keys: Those of the state.
        strict: Whether keys that miss or are too many are errors.
        errors: Torch's list.
    """

    def __init__(
        self, module: nn.Module, prefix: str, keys: set[str], strict: bool, errors: list[str]
    ) -> None:
        self.prefix, self.keys, self.strict, self.errors = prefix, keys, strict, errors
        self.forgotten = {
            (path, role)
            for path, part in module.named_modules()
            if isinstance(part, QParamsHolder)
            for role in vars(part)["_formats"]
            if not part.calibrated(role)
        }
        self.parts = [
            (part, _kept(part._parameters), _kept(part._buffers), vars(part).get("_formats"))
            for part in module.modules()
        ]
        self.forms = [  # of reference modules' weights
            (part, dict(vars(part)["forms"])) for part in module.modules() if "forms" in vars(part)
        ]
        self.extra = [
            (part, copy.deepcopy(part.get_extra_state()))
            for part in module.modules()
            if isinstance(part, ActivationPostProcess)
            and type(part).set_extra_state is not nn.Module.set_extra_state
        ]
        self.formats = [None if p[3] is None else dict(p[3]) for p in self.parts]

    def restore(self) -> None:
        """Gives the model its tensors, their values and formats again."""
        for (part, parameters, buffers, _), formats in zip(self.parts, self.formats, strict=True):
            for held, kept in ((part._parameters, parameters), (part._buffers, buffers)):
                for name, (tensor, values) in kept.items():
                    held[name] = tensor
                    if values is not None:
                        with torch.no_grad():
                            tensor.copy_(values)
            if formats is not None:
                vars(part).update(_formats=formats)
                vars(part)["_cache"].clear()
        for part, forms in self.forms:
            vars(part)["forms"] = forms
        for part, extra in self.extra:
            part.set_extra_state(extra)


_BEFORE: WeakKeyDictionary[nn.Module, _Before] = WeakKeyDictionary()


def loads_as_a_whole(module: Module) -> Module:
    """Lets a model stay as it was where a state dict does not fit it.

    torch itself loads all that fits before it raises: scales of one model would then read the codes
    of another. Here one `StateError` names all keys that are missing or unexpected (unless
    ``strict=False``), that have another shape, that are no tensors, and that hold a scale which is
    not positive and finite, a zero point which is no code, codes of a weight which its data type
    does not have, or a bias which is not finite.

    Returns:
        The model.
    """
    hooks: Any = module._load_state_dict_pre_hooks.values()
    if _remember not in (hook.hook for hook in hooks):
        module.register_load_state_dict_pre_hook(_remember)
        module.register_load_state_dict_post_hook(_restore)
    return module


def _remember(module: nn.Module, state: Any, prefix: str, *arguments: Any) -> None:
    odd = [f"{key!r}: not a name" for key in state if not isinstance(key, str)]
    if odd:
        raise _error(module, odd)
    own = {key: value for key, value in state.items() if key.startswith(prefix)}
    plain = [
        f"{key}: not a tensor but a {type(value).__name__}"
        for key, value in own.items()
        if not isinstance(value, Tensor) and not key.endswith("_extra_state")
    ]
    problems = plain or _unfit_values(module, own, prefix)
    if problems:  # before anything is loaded
        raise _error(module, problems)
    _BEFORE[module] = _Before(module, prefix, set(own), _is_strict(), arguments[-1])


def _unfit_values(module: nn.Module, own: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Values that a quantized module's buffers would round, wrap or take over without meaning."""
    problems = []
    for path, part in module.named_modules():
        if not isinstance(part, QParamsHolder):
            continue
        start = f"{prefix}{path}." if path else prefix
        scales = {name for role in vars(part)["_formats"] for name in buffer_names(role)}
        for name, held in part.named_buffers(recurse=False):
            value = own.get(start + name)
            if value is None or value.is_meta or held.shape != value.shape:
                continue  # a shape is what torch itself objects to
            if name == "weight_codes":
                why = _no_codes(part, value)
            elif name.endswith("zero_point"):
                real = name != "zero_point" and isinstance(part, Embedding)  # of rows of a table
                why = None if real or _whole(value) else "a zero point is a whole number"
            elif name in scales or _finite(value):
                why = None  # what a scale is, the module itself says
            else:
                why = "not finite real numbers"
            problems += [] if why is None else [f"{start}{name}: {why}"]
    return problems


def _no_codes(part: QParamsHolder, value: Tensor) -> str | None:
    """Why a tensor cannot be the codes of a module's weight; None if it can."""
    form = vars(part)["_formats"].get(WEIGHT)
    if value.dtype == torch.float16:
        return None if _finite(value) else "not finite real numbers"
    if value.dtype not in (torch.int8, torch.uint8) and (
        form is None or value.dtype != form.dtype.storage
    ):
        held = part.get_buffer("weight_codes").dtype
        return f"the codes are {held} here, and {value.dtype} in the state"
    if form is None or value.dtype != form.dtype.storage or not value.numel():
        return None  # eight bits of the other sign: the module takes over their type
    low, high = (int(end) for end in value.aminmax())
    if form.quant_min <= low and high <= form.quant_max:
        return None
    return f"codes lie in [{form.quant_min}, {form.quant_max}] here, in the state {low} to {high}"


def _whole(value: Tensor) -> bool:
    """Whether numbers are whole ones that int32 holds."""
    if value.is_complex():
        return False
    wide = value.double()
    return bool(((wide == wide.round()) & (wide.abs() < 2**31)).all())


def _finite(value: Tensor) -> bool:
    return not value.is_complex() and bool(value.isfinite().all())


def _is_strict() -> bool:
    """How ``load_state_dict`` was called, which torch does not tell its hooks: they see True."""
    frame = sys._getframe()
    while frame is not None and frame.f_code is not nn.Module.load_state_dict.__code__:
        frame = frame.f_back
    return frame is not None and bool(frame.f_locals["strict"])


def _restore(module: nn.Module, incompatible_keys: Any) -> None:
    before = _BEFORE.pop(module, None)
    if before is None:
        return
    problems = [*before.errors, *_invalid(module, before)]
    if before.strict and not before.prefix:
        problems += [f"{key}: missing" for key in incompatible_keys.missing_keys]
        problems += [f"{key}: unexpected" for key in incompatible_keys.unexpected_keys]
    if not problems:
        return
    before.restore()
    if not before.prefix:
        raise _error(module, problems)
    before.errors[:] = problems  # the model that this is a part of raises


def _error(module: nn.Module, problems: list[str]) -> StateError:
    return StateError(
        f"This state dict does not fit the {type(module).__name__}, which stays as it was: "
        + "; ".join(problem.rstrip(".") for problem in problems),
        fix="Load the state of a model that was prepared or converted in the same way.",
    )


def _invalid(module: nn.Module, before: _Before) -> list[str]:
    """Parameters that were loaded and mean nothing."""
    problems = []
    for path, part in module.named_modules():
        start = f"{before.prefix}{path}." if path else before.prefix
        if isinstance(part, QParamsHolder):
            for role in vars(part)["_formats"]:
                names = [start + name for name in buffer_names(role)]
                loaded = before.keys.intersection(names)
                if loaded and ((path, role) not in before.forgotten or part.calibrated(role)):
                    problems += _problem(", ".join(names), part, role)
        elif isinstance(part, FakeQuantizeBase | ActivationPostProcess):
            problems += [
                f"{start}{name}: {said}"
                for name, (ok, said) in _OBSERVED.items()
                if start + name in before.keys and not bool(ok(getattr(part, name)).all())
            ]
    return problems


def _problem(keys: str, part: QParamsHolder, role: str) -> list[str]:
    try:
        part.get_qparams(role)
    except QlabError as error:
        return [f"{keys}: {error}"]
    return []


_OBSERVED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "scale": (lambda scale: scale.isfinite() & (scale > 0), "not positive and finite"),
    "min_val": (lambda value: ~value.isnan(), "NaN"),
    "max_val": (lambda value: ~value.isnan(), "NaN"),
}


def _kept(tensors: dict[str, Any]) -> dict[str, tuple[Any, Tensor | None]]:
    """Each tensor, and a copy of its values."""
    return {
        name: (tensor, None if tensor is None else tensor.detach().clone())
        for name, tensor in tensors.items()
    }
