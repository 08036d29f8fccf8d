"""An exported ONNX file run in onnxruntime and compared with the integer model, code by code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.fidelity import Agreement
from qlab.analysis.metrics import ErrorSums, LabelCounts
from qlab.analysis.tasks import DataPass
from qlab.errors import ArgumentError, FormatError
from qlab.execution import GraphRunner
from qlab.io.onnx_file import INTEGER_BIASES, TENSORS
from qlab.nn.quantized import DeQuantize
from qlab.qparams import QParams, quantize

#: How far onnxruntime rewrites a graph before it runs: its own names.
LEVELS = ("disable_all", "basic", "extended", "all")
COUNTS = ("codes", "exact", "off_by_1", "off_by_2", "off_by_more", "max_steps")
WHERE = ("local", "accumulated")
_GIVEN = ".given"


@dataclass(frozen=True)
class OnnxCheck:
    """What onnxruntime made of an exported file.

    Attributes:
        table: One row per tensor that the file quantizes, in its order, indexed by the node of the
            converted graph that has the same codes. Columns ``codes``, how many were compared;
            ``exact``, the share of them, 0 to 1, that are equal; ``off_by_1``, ``off_by_2`` and
            ``off_by_more``, how many differ by so many steps; ``max_steps``, the largest
            difference; each with ``_local`` (the operator fed qlab's own codes) and
            ``_accumulated`` (inside the network that onnxruntime runs).
        output: ``sqnr`` [dB] of onnxruntime's network output, qlab's being the signal; where the
            output comes from codes ``within_one``, the share of numbers, 0 to 1, that differ by at
            most one step, and ``exact``; for a classifier's logits ``top1_agreement`` [%].
        measured: The same of onnxruntime's output beside another model, the one whose biases are
            real numbers, which is what ``Lab.compare`` measures unless its configuration has
            integer biases; empty where there is no other.
        samples: How many samples were compared.
        opset: The file's operator set.
        level: How far onnxruntime rewrote the graph.
        runtime: Its name and version.
        complete: False where it was stopped early.
    """

    table: pd.DataFrame
    output: dict[str, float]
    samples: int
    opset: int
    level: str
    runtime: str
    complete: bool = True
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def most_local_steps(self) -> int:
        """The largest difference of any operator that was fed qlab's codes, in steps."""
        return max(self.table["max_steps_local"].tolist(), default=0)

    def totals(self, where: str) -> dict[str, int]:
        """Sums of ``codes`` and the ``off_by_…`` counts over all tensors.

        Args:
            where: ``"local"`` or ``"accumulated"``.
        """
        names = ("codes", "off_by_1", "off_by_2", "off_by_more")
        return {name: sum(self.table[f"{name}_{where}"].tolist()) for name in names}

    def describe(self) -> str:
        """The result in one sentence."""
        told = f"{self.runtime} (graph optimization {self.level}), opset {self.opset}, "
        told += f"{self.samples} samples: "
        if len(self.table):
            steps = self.most_local_steps
            told += f"every operator at most {steps} step{'' if steps == 1 else 's'} off"
        else:
            told += f"no tensor of codes to compare, {self.output['sqnr']:.1f} dB SQNR"
        told += _told(self.output)
        if self.measured:
            told += f"; beside the model with real biases {self.measured['sqnr']:.1f} dB SQNR"
            told += _told(self.measured)
        return told


def _told(output: Mapping[str, float]) -> str:
    told = ""
    if "within_one" in output:
        told += f"; {output['within_one']:.2%} of outputs within one step"
    if "top1_agreement" in output:
        told += f"; the same class on {output['top1_agreement']:.1f} % of samples"
    return told


def check_onnx(
    source: str | os.PathLike[str] | bytes,
    model: fx.GraphModule,
    sources: Sequence[Batches],
    *,
    level: str = "all",
    measured: fx.GraphModule | None = None,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> OnnxCheck:
    """Validates an exported file and runs it beside the model that it was made from.

    Args:
        source: The file's path, or its bytes.
        model: The converted graph.
        sources: Data to run both on, one after the other.
        level: How far onnxruntime may rewrite the graph: ``"all"``, its default, in which operators
            between DequantizeLinear and QuantizeLinear become integer kernels; ``"disable_all"``
            runs the file as it is written.
        measured: Another converted graph whose output is compared, too; see `OnnxCheck.measured`.
        on_progress: Called as ``(batches done, batches in all, label)``.
        should_stop: Asked after each batch; the result then says ``complete=False``.

    Raises:
        FormatError: The file is not valid ONNX, or qlab did not write it.
        ArgumentError: No such level, or a file that cannot be read.
        UnfinishedError: A loader failed; ``partial`` is what was compared before.
    """
    if level not in LEVELS:
        raise ArgumentError(
            "onnxruntime has no such graph optimization level",
            expected=" or ".join(LEVELS),
            received=repr(level),
        )
    import onnxruntime

    content = source if isinstance(source, bytes) else _read(Path(source))
    networks = _Networks(content, model, level, measured)
    data_pass = DataPass(sources, "running the ONNX file", on_progress, should_stop)
    for batch in data_pass:
        networks.measure(batch)
    return data_pass.finished(
        OnnxCheck(
            networks.table(),
            networks.output.as_dict(),
            data_pass.samples,
            networks.opset,
            level,
            f"onnxruntime {onnxruntime.__version__}",
            complete=data_pass.complete,
            measured=networks.measured_output.as_dict() if measured is not None else {},
        )
    )


def holds_integer_biases(source: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file was written from a model with integer biases.

    Raises:
        FormatError: Not valid ONNX.
        ArgumentError: It cannot be read.
    """
    import onnx

    content = source if isinstance(source, bytes) else _read(Path(source))
    try:
        proto = onnx.load_from_string(content)
    except Exception as error:  # protobuf has several
        raise _invalid(error) from error
    return any(entry.key == INTEGER_BIASES for entry in proto.metadata_props)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArgumentError(
            "The ONNX file cannot be read", received=f"{str(path)!r} ({error.strerror})"
        ) from error


@dataclass
class _Output:
    """What is counted of the network's output."""

    errors: ErrorSums = field(default_factory=ErrorSums)
    labels: LabelCounts = field(default_factory=LabelCounts)
    agreement: Agreement = field(default_factory=Agreement)

    def update(self, ours: Tensor, theirs: Tensor, qparams: QParams | None) -> None:
        self.errors.update(ours, theirs)
        if ours.ndim == 2:
            self.labels.update(ours, theirs, None)
        if qparams is not None:
            self.agreement.count(quantize(ours, qparams), quantize(theirs, qparams))

    def as_dict(self) -> dict[str, float]:
        found = {"sqnr": self.errors.sqnr}
        if self.agreement.codes:
            far = self.agreement.off_by_2 + self.agreement.off_by_more
            found["within_one"] = 1.0 - far / self.agreement.codes
            found["exact"] = self.agreement.exact
        if "top1_agreement" in (counts := self.labels.as_dict()):
            found["top1_agreement"] = counts["top1_agreement"]
        return found


class _Networks:
    """The integer model and the file in onnxruntime: whole, and cut before every operator."""

    def __init__(
        self, content: bytes, model: fx.GraphModule, level: str, measured: fx.GraphModule | None
    ) -> None:
        proto = _checked(content)
        self.opset = next(o.version for o in proto.opset_import if not o.domain)
        self.tensors = _tensors(proto)
        carriers = {node.name for node in model.graph.nodes}
        if missing := [node for node in self.tensors.values() if node not in carriers]:
            raise FormatError(
                "The ONNX file was made from another model",
                expected="tensors of nodes of the converted graph",
                received=", ".join(missing),
            )
        self.counts = {where: {tensor: Agreement() for tensor in self.tensors} for where in WHERE}
        self.output, self.measured_output = _Output(), _Output()
        self.measured = None if measured is None else GraphRunner(measured, ())
        self.measured_last = None if measured is None else _last_codes(measured)
        self.last = _last_codes(model)
        self.ours = GraphRunner(model, set(self.tensors.values()))
        self.names = [value.name for value in proto.graph.input]
        self.types = _code_types(proto, self.tensors)
        self.results = len(proto.graph.output)
        self.whole = _session(_tapped(proto, self.types, cut=False), level)
        self.cut = _session(_tapped(proto, self.types, cut=True), level)

    def measure(self, batch: Batch) -> None:
        """Adds one batch to all counts."""
        ours, codes = self.ours.collect(batch.inputs)
        leaves = [leaf for leaf in pytree.tree_leaves(batch.inputs) if isinstance(leaf, Tensor)]
        given = {n: t.detach().cpu().numpy() for n, t in zip(self.names, leaves, strict=False)}
        cut = {
            tensor + _GIVEN: _to_numpy(codes[node], self.types[tensor])
            for tensor, node in self.tensors.items()
        }
        results = self.whole.run(None, given)
        self._count("accumulated", codes, results[self.results :])
        needed = {value.name for value in self.cut.get_inputs()}
        fed = {name: value for name, value in {**given, **cut}.items() if name in needed}
        self._count("local", codes, self.cut.run(None, fed)[self.results :])
        theirs = torch.from_numpy(results[0])
        self.output.update(_first_tensor(ours), theirs, self.last)
        if self.measured is not None:
            y = _first_tensor(self.measured.collect(batch.inputs)[0])
            self.measured_output.update(y, theirs, self.measured_last)

    def _count(self, where: str, codes: Mapping[str, Tensor], results: Iterable[Any]) -> None:
        for (tensor, node), result in zip(self.tensors.items(), results, strict=True):
            expected = codes[node].cpu()
            self.counts[where][tensor].count(_from_numpy(result, expected.dtype), expected)

    def table(self) -> pd.DataFrame:
        rows = {
            node: {
                f"{name}_{where}": getattr(self.counts[where][tensor], name)
                for where in WHERE
                for name in COUNTS
            }
            for tensor, node in self.tensors.items()
        }
        columns = [f"{name}_{where}" for where in WHERE for name in COUNTS]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("tensor")


def _first_tensor(outputs: Any) -> Tensor:
    leaves = pytree.tree_leaves(outputs)
    return next(leaf for leaf in leaves if isinstance(leaf, Tensor)).detach().cpu()


def _last_codes(model: fx.GraphModule) -> QParams | None:
    """How the codes are read that the model's first output comes from; None if from none."""
    output = next(node for node in model.graph.nodes if node.op == "output")
    node = next((n for n in pytree.tree_leaves(output.args) if isinstance(n, fx.Node)), None)
    if node is None or node.op != "call_module":
        return None
    module = model.get_submodule(str(node.target))
    bound = module.input_qparams if isinstance(module, DeQuantize) else None
    return bound[0] if bound else None


def _checked(content: bytes) -> Any:
    import onnx

    try:
        proto = onnx.load_from_string(content)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # protobuf, the checker and shape inference have their own each
        raise _invalid(error) from error
    return proto


def _invalid(error: Exception) -> FormatError:
    return FormatError("Not a valid ONNX file", received=str(error).strip().splitlines()[0])


def _tensors(proto: Any) -> dict[str, str]:
    found = {entry.key: entry.value for entry in proto.metadata_props}.get(TENSORS)
    if found is None:
        raise FormatError(
            "The ONNX file does not say which of its tensors are which of the model",
            expected=f"an entry {TENSORS!r} in its metadata, as Lab.export writes it",
        )
    return json.loads(found)


def _code_types(proto: Any, tensors: Mapping[str, str]) -> dict[str, int]:
    """ONNX type of each tensor of codes."""
    known = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    return {tensor: known[tensor] for tensor in tensors}


def _tapped(proto: Any, types: Mapping[str, int], *, cut: bool) -> bytes:
    """The file with every tensor of codes as a further output, float8 as float32.

    If ``cut``, whatever reads codes reads them from a further input instead.
    """
    import onnx
    from onnx import TensorProto, helper

    made = onnx.ModelProto()
    made.CopyFrom(proto)
    graph = made.graph
    shapes = {value.name: value for value in proto.graph.value_info}
    for name, kind in types.items():
        wide = _is_float8(kind)
        if cut:
            for node in graph.node:
                replaced = [name + _GIVEN + wide * "_8" if i == name else i for i in node.input]
                node.input[:] = replaced
            _declare(graph.input, name + _GIVEN, TensorProto.FLOAT if wide else kind, shapes[name])
            if wide:
                cast = helper.make_node("Cast", [name + _GIVEN], [name + _GIVEN + "_8"], to=kind)
                graph.node.insert(0, cast)
        if wide:
            graph.node.append(
                helper.make_node("Cast", [name], [name + "_32"], to=TensorProto.FLOAT)
            )
        out = name + "_32" if wide else name
        _declare(graph.output, out, TensorProto.FLOAT if wide else kind, shapes[name])
    return made.SerializeToString()


def _declare(values: Any, name: str, kind: int, like: Any) -> None:
    value = values.add()
    value.CopyFrom(like)
    value.name = name
    value.type.tensor_type.elem_type = kind


def _is_float8(kind: int) -> bool:
    from onnx import TensorProto

    return kind in (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)


def _session(content: bytes, level: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    name = "ORT_DISABLE_ALL" if level == "disable_all" else f"ORT_ENABLE_{level.upper()}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its remarks on the graph are not for people
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _to_numpy(codes: Tensor, kind: int) -> np.ndarray[Any, Any]:
    codes = codes.detach().cpu()
    return (codes.float() if _is_float8(kind) else codes).numpy()


def _from_numpy(values: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(values).to(dtype)
