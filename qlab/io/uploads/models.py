"""A `.pt2` archive to plain data, and from that data to a graph: the two halves of the border.

The reading process unpacks the archive, builds the program and runs it once; what it hands back is
data again (the program's JSON and raw tensors), which the caller checks anew and builds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab.errors import FormatError, UnsupportedError
from qlab.io.uploads import strict_json
from qlab.io.uploads.archive import Archive
from qlab.io.uploads.build import build
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.payload import Payloads, read_payloads
from qlab.io.uploads.program import Program, read_program
from qlab.io.uploads.raw import arguments, check, example_inputs
from qlab.io.uploads.recognise import pickled
from qlab.io.uploads.strict_json import shown

_PROGRAM = ("graph_module", "range_constraints", "schema_version")
_NOTES = ("archive_format", "archive_version", "byteorder")
#: Members that are never opened: example inputs are pickled, the rest are for torch alone.
_IGNORED = re.compile(r"data/sample_inputs/[^/]+\.pt|\.data/\w+|\.format_version|extra/.*")
_PAYLOAD = re.compile(r"data/(weights|constants)/((weight|tensor)_\d+|\w+_config\.json)")
_MODEL = re.compile(r"models/(\w+)\.json")
_COMPILED = (".so", ".o", ".a", ".dll", ".dylib", ".cubin", ".ptx", ".cpp", ".h", ".py", ".pte")


@dataclass(frozen=True)
class UploadedInput:
    """One tensor that an uploaded model takes.

    Attributes:
        name: The argument's name.
        shape: Sizes; None along an axis that may be of any length.
        dtype: Its dtype.
        rows: Of the table that its integers are looked up in; None where there is none.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype
    rows: int | None = None

    def __str__(self) -> str:
        """Such as ``ids int64 (N, 16)``; an axis of any length is N first and ``*`` elsewhere."""
        sizes = [str(size) if size is not None else "*" for size in self.shape]
        if sizes and sizes[0] == "*":
            sizes[0] = "N"
        return f"{self.name} {str(self.dtype).removeprefix('torch.')} ({', '.join(sizes)})"


@dataclass(frozen=True, eq=False)
class UploadedModel:
    """A float model read from an upload.

    Attributes:
        model: In eval mode. From an archive an `fx.GraphModule`, whose layers are `torch.nn`
            modules under the model's own names; from weights the architecture's own module.
        inputs: The tensors that it takes, in order.
        example_inputs: One value per argument: seeded numbers of the shapes that it was exported
            with, zeros for integers, True for masks.
    """

    model: nn.Module
    inputs: tuple[UploadedInput, ...]
    example_inputs: tuple[Any, ...]


def unpack(content: bytes, limits: Limits) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads an archive, builds its program and runs it once; for the reading process.

    Returns:
        What `assemble` takes: JSON-ready data, and tensors by name.

    Raises:
        FormatError: Damaged or inconsistent.
        UnsupportedError: It holds something that is not data, or an operator that is not admitted.
    """
    archive = Archive(content, limits)
    root, name = _layout(archive)
    program = strict_json.load(archive.read(f"{root}/models/{name}.json"), "The program", limits)
    program = strict_json.of(program, dict, "the program")
    data = {key: program[key] for key in _PROGRAM if key in program}
    _forget_stack_traces(data)
    read = read_program(data, limits)
    payloads = read_payloads(archive, root, name, limits)
    graph, raw = build(read, payloads.tensors, payloads.parameters)
    check(raw, graph, read, limits)
    tensors = {k: v for k, v in payloads.tensors.items() if k not in payloads.shared}
    described = {
        "program": data,
        "parameters": sorted(payloads.parameters),
        "shared": payloads.shared,
    }
    return described, tensors


def assemble(data: Any, tensors: dict[str, Tensor], limits: Limits) -> UploadedModel:
    """Builds the model from what `unpack` gave.

    Raises:
        FormatError: The data does not hold together.
        UnsupportedError: As `unpack`.
    """
    program = read_program(strict_json.field(data, "program", dict, "the result"), limits)
    shared = strict_json.field(data, "shared", dict, "the result")
    for name, first in shared.items():
        if first not in tensors:
            raise FormatError("A shared tensor is missing", received=shown(first))
        tensors[name] = tensors[first]
    parameters = strict_json.field(data, "parameters", list, "the result")
    payloads = Payloads(tensors, frozenset(map(str, parameters)), shared)
    graph, _ = build(program, payloads.tensors, payloads.parameters)
    examples = arguments(program, iter(example_inputs(program, limits)))
    return UploadedModel(graph, tuple(_inputs(program, graph)), tuple(examples))


def _inputs(program: Program, graph: fx.GraphModule) -> list[UploadedInput]:
    given = [program.infos[name] for name in program.given if name is not None]
    names = [str(n.target) for n in graph.graph.nodes if n.op == "placeholder"]
    flat = names if len(names) == len(given) else [f"input_{i}" for i in range(len(given))]
    rows = table_rows(graph)
    return [
        UploadedInput(
            name,
            tuple(s.example if s.fixed else None for s in info.sizes),
            info.dtype,
            rows.get(name),
        )
        for name, info in zip(flat, given, strict=True)
    ]


def table_rows(graph: fx.GraphModule) -> dict[str, int]:
    """Of inputs that an embedding looks up: how many rows its table has."""
    rows: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            module, source = graph.get_submodule(str(node.target)), node.args[0]
            if isinstance(module, nn.Embedding) and source.op == "placeholder":
                name = str(source.target)
                rows[name] = min(rows.get(name, module.num_embeddings), module.num_embeddings)
    return rows


def _layout(archive: Archive) -> tuple[str, str]:
    """The folder that holds everything, and the program's name; all members are known ones."""
    roots = {name.partition("/")[0] for name in archive}
    members = [name.partition("/")[2] for name in archive]
    if "data.pkl" in members:
        raise pickled("data.pkl in the archive")
    if any(m.startswith("serialized_") for m in {*members, *archive}):
        raise UnsupportedError(
            "The archive has the layout of torch 2.7 or older, whose weights are pickled",
            fix="Export the model again with torch 2.13 or a neighbouring version.",
        )
    if len(roots) != 1 or "" in members:
        raise FormatError(
            "The archive is none of torch.export.save",
            expected="one folder with models/ and data/",
            received=shown(sorted(roots)),
        )
    models = []
    for member in members:
        if match := _MODEL.fullmatch(member):
            models.append(match.group(1))
        elif not (member in _NOTES or _IGNORED.fullmatch(member) or _PAYLOAD.fullmatch(member)):
            _refuse_member(member)
    if len(models) != 1:
        raise FormatError("The archive holds no single model", received=shown(models))
    root = roots.pop()
    _check_notes(archive, root)
    return root, models[0]


def _refuse_member(member: str) -> None:
    if "aotinductor" in member or PurePosixPath(member).suffix in _COMPILED:
        raise UnsupportedError(
            "The archive holds compiled code, which would run as it is loaded",
            expected="an archive of torch.export.save",
            received=shown(member),
            fix="Upload what torch.export.save wrote, not a package of AOTInductor or ExecuTorch.",
        )
    if "custom_obj" in member or "opaque" in member:
        raise UnsupportedError(
            "The archive holds an object of Python, which only running code can restore",
            received=shown(member),
            fix="Keep custom and opaque objects out of the model.",
        )
    raise FormatError(
        "The archive holds a member that torch.export.save does not write", received=shown(member)
    )


def _check_notes(archive: Archive, root: str) -> None:
    expected = {"archive_format": b"pt2", "byteorder": b"little"}
    for name, value in expected.items():
        member = f"{root}/{name}"
        found = archive.read(member)[:32].strip() if member in archive else value
        if found != value:
            raise FormatError(
                f"The archive's {name} is not read",
                expected=value.decode(),
                received=shown(found),
            )


def _forget_stack_traces(data: dict[str, Any]) -> None:
    """Drops what only people read, and what is most of the JSON."""
    graph_module = strict_json.field(data, "graph_module", dict, "the program")
    graph = strict_json.field(graph_module, "graph", dict, "the graph module")
    for node in strict_json.field(graph, "nodes", list, "the graph"):
        metadata = strict_json.field(node, "metadata", dict, "an operator")
        node["metadata"] = {k: v for k, v in metadata.items() if k == "nn_module_stack"}
