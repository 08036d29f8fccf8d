"""`migrate`: walks a model of the reference and builds qlab's."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn

from qlab.errors import ArgumentError, DTypeError, QlabError
from qlab.io.migrate.graph import has_operators, rewritten
from qlab.io.migrate.modules import converted, counterpart, is_theirs, refusal, skeleton
from qlab.io.migrate.tensors import is_quantized, quantized


def migrate(model: Any) -> Any:
    """The same model on qlab's engine: the same integers, scales and zero points.

    Args:
        model: A model that ``torch.ao.quantization`` converted, in memory: eager or traced, static
            or dynamic, trained or not; or one of its quantized tensors. It stays as it is. Layers
            that it left in float, and modules of one's own, are copied with their parameters and
            hooks; a module that occurs twice stays one.

    Returns:
        A module that takes and gives real numbers as the given one does; for a tensor a `QTensor`.

    Raises:
        DTypeError: Something else, a script module for example.
        ArgumentError: Nothing in it is quantized.
        UnsupportedError: A part has no form in qlab, or was prepared and not converted; names its
            path, class and why.
    """
    if is_quantized(model):
        return quantized(model)
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise DTypeError(
            "migrate: not a model that can be read",
            expected="a torch.nn.Module or a quantized tensor, held in memory",
            received=type(model).__name__,
            fix="Migrate the model that the script was made of, and load state dicts into it "
            "before: a script does not say which classes it came from.",
        )
    walk = _Migration()
    migrated = walk.module(model, "")
    if not walk.found:
        raise ArgumentError(
            "migrate: nothing in this model is quantized",
            expected="a model that torch.ao.quantization converted",
            received=type(model).__name__,
            fix="To quantize a float model, use qlab itself: qlab.Lab, or qlab.quantization.",
        )
    return migrated


class _Migration:
    """One walk; remembers what it has made, so that shared parts stay shared."""

    def __init__(self) -> None:
        self.made: dict[int, nn.Module] = {}
        self.tensors: dict[int, Any] = {}
        self.found = False

    def module(self, mod: nn.Module, path: str) -> nn.Module:
        if id(mod) not in self.made:
            self.made[id(mod)] = self._made(mod, path)
        return self.made[id(mod)]

    def _made(self, mod: nn.Module, path: str) -> nn.Module:
        if isinstance(mod, fx.GraphModule):
            self.found = self.found or has_operators(mod)
            return rewritten(mod, lambda child, name: self.module(child, name), path)
        if not is_theirs(mod):
            return self._copied(mod, path)
        if ".quantized.reference." in type(mod).__module__:
            reason = "it is converted in reference form; call convert_fx on the prepared model"
            raise refusal(path, mod, f"{reason} instead of convert_to_reference_fx")
        target = counterpart(mod)
        if target is None or hasattr(mod, "weight_fake_quant"):
            reason = "it is prepared for training, not converted; call convert first"
            if target is None:
                reason = "no module of qlab takes its place"
                if "observer" in type(mod).__module__ or "fake_quant" in type(mod).__module__:
                    reason = "it observes a model that was prepared; convert it first"
            raise refusal(path, mod, reason)
        self.found = True
        try:
            made = converted(mod, target) or self._with_parts(mod, target, path)
        except QlabError as error:
            if str(error).startswith("migrate: "):
                raise
            raise refusal(path, mod, error) from error
        except (AttributeError, TypeError, RuntimeError) as error:
            raise refusal(path, mod, f"it is not what its class says: {error}") from error
        return _with_hooks(made, mod)

    def _with_parts(self, mod: nn.Module, target: type[nn.Module], path: str) -> nn.Module:
        """A module that holds others: stubs, fused float layers, recurrent layers on codes."""
        parts = list(mod.named_children())
        if issubclass(target, nn.Sequential):
            return target(*(self.module(p, _join(path, n)) for n, p in parts)).train(mod.training)
        if target.__module__ == "qlab.nn.stubs":
            own = {name: self.module(part, _join(path, name)) for name, part in parts}
            made = target(*(part for name, part in own.items() if name == "module"))
            for name, part in own.items():
                made.add_module(name, part)
            return made.train(mod.training)
        made = skeleton(mod, target)
        self._put(made, mod, path)
        return made

    def _put(self, made: nn.Module, mod: nn.Module, path: str) -> None:
        """Puts migrated parts where a skeleton has parts of the same name."""
        for name, part in mod.named_children():
            inner = _join(path, name)
            own = counterpart(part) if is_theirs(part) else None
            if own is not None and name in dict(made.named_children()):
                ready = converted(part, own)
                if ready is not None:
                    made.add_module(name, ready)
                    continue
            if name in dict(made.named_children()):
                self._put(made.get_submodule(name), part, inner)
            elif any(True for _ in part.parameters()) or any(True for _ in part.buffers()):
                raise refusal(inner, part, "qlab's module has no such part")

    def _copied(self, mod: nn.Module, path: str) -> nn.Module:
        """A module of one's own, or of torch: copied, its parts migrated."""
        made = copy.copy(mod)
        vars(made).update({key: copy.copy(v) for key, v in vars(mod).items() if key[:1] == "_"})
        for key, value in vars(mod).items():
            if is_quantized(value):
                vars(made)[key] = quantized(value)
                self.found = True
        vars(made).pop("qconfig", None)  # the reference's, which means nothing here
        made._parameters = {k: self.tensor(v) for k, v in mod._parameters.items()}
        made._buffers = {k: self.tensor(v) for k, v in mod._buffers.items()}
        made._modules = {
            name: None if part is None else self.module(part, _join(path, name))
            for name, part in mod._modules.items()
        }
        return made

    def tensor(self, value: Any) -> Any:
        """A parameter or buffer, copied once."""
        if value is None:
            return None
        if id(value) not in self.tensors:
            twin = quantized(value) if is_quantized(value) else copy.deepcopy(value)
            self.tensors[id(value)] = twin
        return self.tensors[id(value)]


def _with_hooks(made: nn.Module, mod: nn.Module) -> nn.Module:
    made._forward_hooks = OrderedDict(mod._forward_hooks)
    made._forward_pre_hooks = OrderedDict(mod._forward_pre_hooks)
    return made


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
