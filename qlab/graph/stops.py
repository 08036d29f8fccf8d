"""What stopped a trace: the module, file and line of the user's code."""

from __future__ import annotations

import keyword
import linecache
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import fx, nn

from qlab.errors import TraceError

_FRAMEWORK = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")

_FIX = (
    "Rewrite that line without a decision on a tensor's value or shape (torch.where, a "
    "fixed number of steps), or use the eager workflow, which needs no graph: "
    "qlab.quantization.prepare and convert with QuantStub and DeQuantStub."
)


def trace_error(root: nn.Module, error: Exception, path: str | None = None) -> TraceError:
    """The error for a model that has no graph; names the module, file and line that said no.

    Args:
        root: The model.
        error: What tracing raised.
        path: The module it was in, where that is known; else the one whose code the line is in.
    """
    frames = list(_own_frames(error))
    if path is None:
        path = next((p for f, _ in reversed(frames) if (p := owner_of(root, f)) is not None), "")
    module = root.get_submodule(path)
    place = f"module {path!r}" if path else "the model itself"
    file, line, where = None, None, ""
    if frames:
        frame, line = frames[-1]
        file = frame.f_code.co_filename
        where = f" at {file}, line {line}: {linecache.getline(file, line).strip()}"
    why = _why(error)
    raised = TraceError(
        f"The model has no single graph: tracing stopped in {place} "
        f"({type(module).__name__}){where}",
        expected="a forward that takes the same path whatever the tensors hold",
        received=why,
        fix=_FIX,
    )
    raised.module, raised.file, raised.line, raised.why = path, file, line, why
    return raised


def _own_frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The user's frames of an error, or else of the one that it was raised from; outermost first"""
    cause: BaseException | None = error
    while cause is not None:
        found = [
            (step.tb_frame, step.tb_lineno)
            for step in _steps(cause.__traceback__)
            if not step.tb_frame.f_code.co_filename.startswith(_FRAMEWORK)
        ]
        if found:
            yield from found
            return
        cause = cause.__cause__ or cause.__context__


def _steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def own_frames_above(frame: FrameType | None) -> Iterator[FrameType]:
    """The user's frames among those that a call came through, the innermost first."""
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_FRAMEWORK):
            yield frame
        frame = frame.f_back


def owner_of(root: nn.Module, frame: FrameType) -> str | None:
    """The path of the module whose method a frame is in; None where it is no module's."""
    code = frame.f_code
    owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    return next((path for path, module in root.named_modules() if module is owner), None)


def _why(error: Exception) -> str:
    name = type(error).__name__
    if name == "GuardOnDataDependentSymNode":  # whose message is about symbols of torch.export
        return "a decision on what a tensor holds"
    return f"{name}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)


def check_names(graph: fx.Graph) -> None:
    """Raises `TraceError` where a module or parameter bears a name that code cannot write."""
    for node in graph.nodes:
        reserved = [part for part in str(node.target).split(".") if keyword.iskeyword(part)]
        if node.op in ("call_module", "get_attr") and reserved:
            raise TraceError(
                "A module or parameter bears a name that Python reserves",
                received=f"{reserved[0]!r} in {node.target!r}",
                fix="Give it another name; a graph is written as Python code.",
            )
