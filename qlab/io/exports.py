"""What a Lab writes, by suffix: each file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qlab.errors import ArgumentError
from qlab.io.checkpoint import checkpoint_bytes
from qlab.io.files import write_atomically
from qlab.io.replay import Origin, Replayed, replay_script
from qlab.io.standalone import pt2_bytes
from qlab.qconfig import QConfigMapping

Writer = Callable[[Any, QConfigMapping, Origin | None], bytes]


def _checkpoint(lab: Replayed, mapping: QConfigMapping, origin: Origin | None) -> bytes:
    return checkpoint_bytes(lab.convert(mapping))


def _recipe(lab: Replayed, mapping: QConfigMapping, origin: Origin | None) -> bytes:
    return mapping.to_json(indent=2).encode()


def _report(lab: Any, mapping: QConfigMapping, origin: Origin | None) -> bytes:
    from qlab.report import html_report  # brings plotly and a template engine, which take a while

    return html_report(lab, mapping, origin and origin.model)


def as_deployed(mapping: QConfigMapping) -> QConfigMapping:
    """A configuration whose biases are those that runtimes of an ONNX file make of them anyway."""
    return mapping.copy().set_integer_biases()


def _onnx(lab: Replayed, mapping: QConfigMapping, origin: Origin | None) -> bytes:
    from qlab.io.onnx_file import onnx_bytes  # brings onnxscript, which takes a while

    return onnx_bytes(lab.convert(as_deployed(mapping)), lab.example_values)


def _program(lab: Replayed, mapping: QConfigMapping, origin: Origin | None) -> bytes:
    return pt2_bytes(lab.convert(mapping), lab.example_call)


#: By suffix, what makes the file's whole content; it is written only when all of it is there.
WRITERS: dict[str, Writer] = {
    ".safetensors": _checkpoint,
    ".onnx": _onnx,
    ".pt2": _program,
    ".json": _recipe,
    ".py": replay_script,
    ".html": _report,
}


def export(
    lab: Replayed, path: str | os.PathLike[str], mapping: QConfigMapping, origin: Origin | None
) -> Path:
    """Writes the file that the path's suffix asks for.

    Args:
        lab: The Lab.
        path: Where to; a file that is there is replaced.
        mapping: The configuration.
        origin: How a script finds the model again.

    Raises:
        ArgumentError: Another suffix, or no file can be written there.
    """
    target = Path(path)
    writer = WRITERS.get(target.suffix)
    if writer is None:
        *others, last = WRITERS
        raise ArgumentError(
            "Lab.export writes by suffix",
            expected=f"a path that ends in {', '.join(others)} or {last}",
            received=str(path),
        )
    write_atomically(target, writer(lab, mapping, origin))
    return target
