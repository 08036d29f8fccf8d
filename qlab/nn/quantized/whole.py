"""A state dict whose tensors do not fit leaves a quantized model as it was."""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class _Before:
    """What a model held before a load, and where torch collects what does not fit."""

    def __init__(self, module: nn.Module, errors: list[str]) -> None:
        self.errors = errors
        self.parts = [
            (part, _kept(part._parameters), _kept(part._buffers), vars(part).get("_formats"))
            for part in module.modules()
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


_BEFORE: WeakKeyDictionary[nn.Module, _Before] = WeakKeyDictionary()


def loads_as_a_whole(module: Module) -> Module:
    """Lets a model stay as it was where a state dict has tensors that do not fit it.

    torch itself loads all others before it raises: scales of one model would then read the codes
    of another. Missing and unexpected keys are torch's affair, as with any model.

    Returns:
        The model.
    """
    if _remember not in (hook.hook for hook in module._load_state_dict_pre_hooks.values()):
        module.register_load_state_dict_pre_hook(_remember)
        module.register_load_state_dict_post_hook(_restore)
    return module


def _remember(module: nn.Module, *arguments: Any) -> None:
    errors: list[str] = arguments[-1]
    _BEFORE[module] = _Before(module, errors)


def _restore(module: nn.Module, incompatible_keys: Any) -> None:
    before = _BEFORE.pop(module, None)
    if before is not None and before.errors:
        before.restore()


def _kept(tensors: dict[str, Any]) -> dict[str, tuple[Any, Tensor | None]]:
    """Each tensor, and a copy of its values."""
    return {
        name: (tensor, None if tensor is None else tensor.detach().clone())
        for name, tensor in tensors.items()
    }
