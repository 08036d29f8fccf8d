"""A Lab in one safetensors file: float model, statistics, inputs, configuration and runs.

The tensors are the fused float graph's, every statistic's and the inputs'; the file's metadata
holds the rest as JSON, but for the runs, which are JSON in a tensor of bytes, since they grow.
Reading one executes nothing that the file says (see `qlab.io.program`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, fx, nn

from qlab.analysis.calibration import Calibration
from qlab.analysis.fingerprint import first_difference, graph_fingerprint, tensor_fingerprint
from qlab.errors import (
    ArgumentError,
    FormatError,
    MissingDataError,
    QlabError,
    UnsupportedError,
)
from qlab.io import float_graph, program
from qlab.io.checkpoint import MALFORMED, read_bytes, read_header
from qlab.io.files import path_of, write_atomically
from qlab.qconfig import QConfigMapping
from qlab.stats import TensorStats

FORMAT = "qlab-lab"
VERSION = 1
REPAIRED_VERSION = 2
"""Of a file that holds a repaired model, too."""


@dataclass(frozen=True)
class RepairFile:
    """A repaired model beside the original one.

    Attributes:
        graph: The repaired graph, which is quantized.
        reference: The float graph that its layers are compared with; None for the original.
        reports: What was done, as JSON-ready data.
    """

    graph: fx.GraphModule
    reference: fx.GraphModule | None
    reports: list[dict[str, Any]]


@dataclass(frozen=True)
class LabFile:
    """What a Lab needs to go on where it was saved.

    Attributes:
        graph: The fused float graph; None where the file could not hold it.
        without_graph: Why, in words; empty where it is there.
        fingerprint: Of the float graph; see `qlab.analysis.fingerprint.graph_fingerprint`.
        data: Fingerprint of the calibration data.
        subject: Fingerprint of model and evaluation data, which runs are kept under.
        example_inputs: Inputs of one call, as the Lab was given them.
        sample_inputs: The small fixed sample that what-ifs run on.
        calibration: Statistics of every tensor, and how much data they saw.
        mapping: The configuration.
        runs: Rows of the store of runs.
        repair: The repaired model that the statistics and the configuration belong to; None where
            nothing was repaired.
    """

    graph: fx.GraphModule | None
    fingerprint: dict[str, str]
    data: str
    subject: str
    example_inputs: Any
    sample_inputs: tuple[Any, ...]
    calibration: Calibration
    mapping: QConfigMapping
    runs: list[dict[str, Any]]
    without_graph: str = ""
    repair: RepairFile | None = None

    def model(self, model: nn.Module | None) -> nn.Module:
        """The float model to go on with: the one given, else the file's own.

        Raises:
            ArgumentError: None is given, and the file holds none.
        """
        if model is not None:
            return model
        if self.graph is None:
            raise ArgumentError(
                "The file does not hold the float model",
                expected="load_lab(path, model) with the model that was saved",
                received=self.without_graph,
            )
        return self.graph

    def check_model(self, graph_module: fx.GraphModule) -> None:
        """Compares a fused float graph with the one that was saved.

        Raises:
            ArgumentError: They differ; names the first difference.
        """
        difference = first_difference(self.fingerprint, graph_fingerprint(graph_module))
        if difference is not None:
            raise ArgumentError(
                "The file was saved from another model",
                expected="the model that the statistics describe",
                received=f"one that differs: {difference}",
                fix="Load it with that model, or without one.",
            )

    def check_data(self, fingerprint: str) -> None:
        """Compares calibration data with that of the statistics.

        Raises:
            ArgumentError: They differ.
        """
        if fingerprint != self.data:
            raise ArgumentError(
                "The calibration data is not what the saved statistics were collected from",
                expected=f"samples with the fingerprint {self.data[:16]}",
                received=f"{fingerprint[:16]}",
                fix="Leave calibration= out to go on with the saved statistics; pass evaluation= "
                "to measure on other data, or make a new Lab.",
            )


class NoData:
    """Stands for data that a Lab was loaded without; whoever asks for it is told.

    Args:
        name: What it is called.
        batches: How many batches of it there were, where that is known.
    """

    def __init__(self, name: str, batches: int | None = None) -> None:
        self.name, self.batches = name, batches

    def __iter__(self) -> Iterator[Any]:
        raise self._error()

    def __len__(self) -> int:
        if self.batches is None:
            raise self._error()
        return self.batches

    def _error(self) -> MissingDataError:
        return MissingDataError(
            f"This Lab was loaded without its {self.name} data, which this needs",
            fix="Pass calibration= or evaluation= to load_lab.",
        )


def save_lab(contents: LabFile, path: str | os.PathLike[str]) -> Path:
    """Writes a Lab to ``path``, whole or not at all.

    A float graph that a file may not describe is left out, with the reason.

    Raises:
        ArgumentError: No file can be written there.
        UnsupportedError: Example inputs that are neither tensors nor plain values.
        UnknownNameError: The mapping holds something unregistered.
    """
    path, tensors = path_of(path, "Lab.save"), {}
    graph, reason = None, contents.without_graph
    if contents.graph is not None:
        try:
            graph, held = float_graph.describe(contents.graph)
            tensors |= {f"graph/{key}": tensor for key, tensor in held.items()}
        except UnsupportedError as error:
            reason = str(error)
    for node, stats in contents.calibration.statistics.items():
        tensors |= {f"stats/{node}/{key}": value for key, value in stats.state_dict().items()}
    runs = json.dumps(contents.runs, separators=(",", ":")).encode()
    tensors["runs"] = torch.from_numpy(np.frombuffer(runs, dtype=np.uint8).copy())
    repair = contents.repair and _describe_repair(contents.repair, tensors)
    header: dict[str, Any] = {
        "version": VERSION,
        "graph": graph,
        "without_graph": reason,
        "fingerprint": contents.fingerprint,
        "data": contents.data,
        "subject": contents.subject,
        "example_inputs": _pack(contents.example_inputs, "example", tensors),
        "sample_inputs": _pack(contents.sample_inputs, "sample", tensors),
        "calibration": _plain_fields(contents.calibration),
        "nodes": list(contents.calibration.statistics),
        "mapping": contents.mapping.to_json(),
    }
    if repair is not None:  # files without one stay readable by a qlab that knows no repairs
        header |= {"version": REPAIRED_VERSION, "repair": repair}
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    header["digest"] = _digest(header, plain)
    write_atomically(path, save(plain, {"format": FORMAT, "qlab": _json(header)}))
    return path


def read_lab(path: str | os.PathLike[str]) -> LabFile:
    """Reads what `save_lab` wrote.

    Raises:
        FormatError: Not such a file, truncated, damaged, or naming something qlab does not run.
        ArgumentError: No file can be read there.
        DTypeError: Not a path.
    """
    content = read_bytes(path, "load_lab")
    header = read_header(content, FORMAT, (VERSION, REPAIRED_VERSION), "a Lab that qlab saved")
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise FormatError(f"The file's tensors are not readable: {error}") from error
    try:
        if header.pop("digest") != _digest(header, tensors):
            raise FormatError(
                "The file is damaged: its content is not what was written",
                fix="Copy it again from where it was saved.",
            )
        return _contents(header, tensors)
    except QlabError:
        raise
    except MALFORMED as error:
        raise FormatError(f"The file does not describe a Lab: {error}") from error


def _contents(header: dict[str, Any], tensors: dict[str, Tensor]) -> LabFile:
    graph = header["graph"]
    seen = {name: program.decode(value, {}) for name, value in header["calibration"].items()}
    statistics = {
        node: TensorStats.from_state_dict(_below(tensors, f"stats/{node}/"))
        for node in header["nodes"]
    }
    return LabFile(
        graph=graph and float_graph.build(graph, _below(tensors, "graph/")),
        without_graph=header["without_graph"],
        fingerprint=dict(header["fingerprint"]),
        data=header["data"],
        subject=header["subject"],
        example_inputs=_unpack(header["example_inputs"], tensors),
        sample_inputs=_unpack(header["sample_inputs"], tensors),
        calibration=Calibration(statistics=statistics, **seen),
        mapping=QConfigMapping.from_json(header["mapping"]),
        runs=json.loads(tensors["runs"].numpy().tobytes()),
        repair=_build_repair(header["repair"], tensors) if "repair" in header else None,
    )


def _describe_repair(repair: RepairFile, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A repaired model as JSON; its graphs' tensors go into ``tensors``.

    Raises:
        UnsupportedError: A graph that a file may not describe: without it, statistics and
            configuration would be those of another model.
    """
    found: dict[str, Any] = {"reports": repair.reports}
    for name, graph in (("repaired", repair.graph), ("reference", repair.reference)):
        if graph is not None:
            found[name], held = float_graph.describe(graph)
            tensors |= {f"{name}/{key}": tensor for key, tensor in held.items()}
    return found


def _build_repair(data: dict[str, Any], tensors: dict[str, Tensor]) -> RepairFile:
    graphs = {
        name: float_graph.build(data[name], _below(tensors, f"{name}/"))
        for name in ("repaired", "reference")
        if name in data
    }
    return RepairFile(graphs["repaired"], graphs.get("reference"), list(data["reports"]))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _plain_fields(calibration: Calibration) -> dict[str, Any]:
    fields = {f.name: getattr(calibration, f.name) for f in dataclasses.fields(calibration)}
    del fields["statistics"]
    return {name: program.encode(value) for name, value in fields.items()}


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over all that is written; safetensors notices a truncated file, no changed byte."""
    parts = [f"{key} {tensor_fingerprint(tensors[key])}" for key in sorted(tensors)]
    return hashlib.sha256("\n".join([_json(header), *parts]).encode()).hexdigest()


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Inputs as JSON; tensors go into ``tensors`` and are referred to by name."""
    match value:
        case Tensor():
            tensors[name] = value
            return {"tensor": name}
        case tuple() | list():
            items = [_pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": items}
        case dict():
            entries = enumerate(value.items())
            return {
                "dict": [
                    [program.encode(k), _pack(v, f"{name}.{i}", tensors)] for i, (k, v) in entries
                ]
            }
    return {"plain": program.encode(value)}


def _unpack(data: Any, tensors: dict[str, Tensor]) -> Any:
    match data:
        case {"tensor": str(name)}:
            return tensors[name]
        case {"tuple": list(items)}:
            return tuple(_unpack(item, tensors) for item in items)
        case {"list": list(items)}:
            return [_unpack(item, tensors) for item in items]
        case {"dict": list(entries)}:
            return {program.decode(k, {}): _unpack(v, tensors) for k, v in entries}
        case {"plain": value}:
            return program.decode(value, {})
    raise FormatError("An input is not readable", received=repr(data)[:200])
