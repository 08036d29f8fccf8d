"""What a model's forward writes to: which, in which line, and what it was."""

from __future__ import annotations

import copy
import inspect
import itertools
import linecache
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from qlab.errors import QlabError, TraceError
from qlab.graph.inputs import ANY, tensors_of
from qlab.graph.stops import own_frames_above, owner_of

_FIX = "Keep it out of the forward."


class State:
    """What a model's forward may write to, to be told what it did, and to put it back: buffers, and
    the attributes that its modules have as Python objects.

    Args:
        root: The model, as it is to be.

    Attributes:
        attributes: The paths of the attributes that `restored` put back last.
    """

    def __init__(self, root: nn.Module) -> None:
        self._kept = [
            _Kept(module, name, f"{path}.{name}".lstrip("."), buffer)
            for path, module in root.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and not buffer.is_inference()
        ]
        self._plain = [_Plain(module, path) for path, module in root.named_modules()]
        self.attributes: list[str] = []

    def restored(self) -> list[str]:
        """Puts back what was written to, into the same tensors; the paths of the buffers."""
        written = [kept for kept in self._kept if kept.is_written()]
        for kept in written:
            kept.restore()
        for kept in self._kept:  # several may be one tensor
            kept.version = kept.buffer._version
        self.attributes = [path for plain in self._plain for path in plain.restored()]
        return [kept.path for kept in written]


#: What every module has, which no forward writes to.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
#: Constants that a symbolic trace keeps on the model, to be copied into its graph.
_OF_THE_TRACER = "_tensor_constant"
_Container = list | dict | set | deque
_MISSING = object()


class _Plain:
    """The attributes of one module that are no parameters, buffers or modules.

    What an attribute refers to is put back, and what a list, dict, set or deque holds; not what
    other objects hold, nor tensors that were written to in place.
    """

    def __init__(self, module: nn.Module, path: str) -> None:
        self.module, self.path = module, path
        self.values = self._now()
        self.contents = {
            name: copy.copy(value)
            for name, value in self.values.items()
            if isinstance(value, _Container)
        }

    def _now(self) -> dict[str, Any]:
        written = (item for item in vars(self.module).items() if item[0] not in _OF_EVERY_MODULE)
        return {name: value for name, value in written if not name.startswith(_OF_THE_TRACER)}

    def restored(self) -> list[str]:
        """Puts back what is other; the paths of it."""
        now, found = self._now(), list[str]()
        for name in now.keys() | self.values.keys():
            before = self.values.get(name, _MISSING)
            filled = name in self.contents and _refill(before, self.contents[name])
            if now.get(name, _MISSING) is before and not filled:
                continue
            found.append(f"{self.path}.{name}".lstrip("."))
            if before is _MISSING:
                del vars(self.module)[name]
            else:
                vars(self.module)[name] = before
        return sorted(found)


def _refill(container: Any, content: Any) -> bool:
    """Puts back what a container held; whether it held anything else."""
    if _identities(container) == _identities(content):
        return False
    container.clear()
    (container.extend if isinstance(container, list | deque) else container.update)(content)
    return True


def _identities(container: Any) -> list[int]:
    parts = itertools.chain(*container.items()) if isinstance(container, dict) else container
    return [id(part) for part in parts]


def check_repeatable(
    root: nn.Module, attributes: list[str], inputs: inspect.BoundArguments
) -> None:
    """Refuses a model whose answer depends on what earlier calls left in its attributes.

    A graph would repeat the answer of one call. Where no example inputs are known, or the model
    does not take them, nothing is refused.

    Args:
        root: The model; it stays as it is.
        attributes: The paths of what its forward writes to.
        inputs: Of one call.

    Raises:
        TraceError: Two calls give different answers; names module and attribute.
    """
    modules, known = root.modules(), tensors_of(inputs)
    if any(module.training for module in modules) or any(value is ANY for _, value in known):
        return
    before, answers = State(root), list[list[Any]]()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            for _ in range(2):
                torch.manual_seed(0)
                output = root(*inputs.args[1:], **inputs.kwargs)
                answers.append([_copied(leaf) for leaf in pytree.tree_leaves(output)])
        except Exception:
            return
        finally:
            before.restored()
    first, second = answers
    if len(first) == len(second) and all(map(_same, first, second)):
        return
    owner, _, name = attributes[0].rpartition(".")
    where = f"module {owner!r}" if owner else "the model itself"
    error = TraceError(
        f"The model's answer depends on what earlier calls left in {name!r} of {where} "
        f"({type(root.get_submodule(owner)).__name__})",
        received=f"two answers to one input; its forward changes {', '.join(attributes)}",
        fix=_FIX,
    )
    error.module, error.why = owner, f"a new value for {attributes[0]!r}"
    raise error


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, equal_nan=True)
    return type(one) is type(other) and (not isinstance(one, int | float | str) or one == other)


class _Kept:
    """One buffer, and what it held."""

    def __init__(self, module: nn.Module, name: str, path: str, buffer: Tensor) -> None:
        self.module, self.name, self.path, self.buffer = module, name, path, buffer
        self.version, self.value = buffer._version, buffer.detach().clone()

    def is_written(self) -> bool:
        other = self.module._buffers.get(self.name) is not self.buffer
        return other or self.buffer._version != self.version

    def restore(self) -> None:
        with torch.no_grad():
            self.buffer.copy_(self.value)
        self.module._buffers[self.name] = self.buffer


def state_error(root: nn.Module, target: str, inputs: inspect.BoundArguments) -> TraceError:
    """The error for a model whose forward writes to a buffer; names module, file and line.

    The line is found by running the model once more on its example inputs; where there are none,
    or it does not write to the buffer then, only the module that owns the buffer is named.

    Args:
        root: The model; it stays as it is.
        target: The buffer's path.
        inputs: Of one call.
    """
    place = _where(root, target, inputs)
    path, file, line = (target.rpartition(".")[0], None, None) if place is None else place
    module = f"module {path!r}" if path else "the model itself"
    code = ""
    if file is not None and line is not None:
        code = f" at {file}, line {line}: {linecache.getline(file, line).strip()}"
    why = f"a new value for {target!r}"
    error = TraceError(
        f"The model writes to its own state when it is called, in {module} "
        f"({type(root.get_submodule(path)).__name__}){code}",
        received=why,
        fix=_FIX,
    )
    error.module, error.file, error.line, error.why = path, file, line, why
    return error


def _where(
    root: nn.Module, target: str, inputs: inspect.BoundArguments
) -> tuple[str, str | None, int | None] | None:
    """Module, file and line that write to a buffer; None where a run does not show it."""
    if any(value is ANY for _, value in tensors_of(inputs)):
        return None
    before, owner = State(root), target.rpartition(".")[0]
    watch = _Watch(root, root.get_submodule(owner), target.rpartition(".")[2])
    hook = register_module_buffer_registration_hook(watch.assigned)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), watch:
            root(*inputs.args[1:], **inputs.kwargs)
    except (QlabError, RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        pass  # the line may come before what fails
    finally:
        hook.remove()
        before.restored()
    return watch.found


class _Watch(TorchFunctionMode):
    """Notes the line of the first call of this thread that writes to a buffer, or replaces it."""

    def __init__(self, root: nn.Module, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.root, self.owner, self.name = root, owner, name
        buffer = owner._buffers[name]
        assert buffer is not None
        self.buffer, self.version = buffer, buffer._version
        self.thread = threading.get_ident()
        self.found: tuple[str, str | None, int | None] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.found is None and self.buffer._version != self.version:
            self._note()
        return result

    def assigned(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        """Sees every assignment to a buffer in the process."""
        own = threading.get_ident() == self.thread and module is self.owner
        if own and name == self.name and value is not self.buffer and self.found is None:
            self._note()

    def _note(self) -> None:
        for frame in own_frames_above(sys._getframe(1)):
            path = owner_of(self.root, frame)
            if path is not None:
                self.found = path, frame.f_code.co_filename, frame.f_lineno
                return
