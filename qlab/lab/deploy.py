"""The quantized model of a Lab: made, timed, written and checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from qlab.algorithms import recipe_of
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.fingerprint import same_values
from qlab.analysis.latency import Latency, measure_latency
from qlab.analysis.report import layer_bytes
from qlab.analysis.tasks import checked_hooks
from qlab.graph.inputs import Inputs
from qlab.io.exports import as_deployed, export
from qlab.io.files import path_of
from qlab.io.onnx_check import OnnxCheck, check_onnx, holds_integer_biases
from qlab.io.replay import Origin
from qlab.lab.arguments import Mapping, resolve_mapping
from qlab.lab.base import LabBase


class DeployableLab(LabBase):
    """A `LabBase` whose quantized model goes out; see `Lab`."""

    def convert(self, mapping: Mapping = None) -> nn.Module:
        """The quantized model of a configuration, with ranges from the cached statistics.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.

        Returns:
            The same type as ``convert_fx`` gives; a copy that the caller may change. Of a model
            that has no graph, a copy whose quantized layers each take and give real numbers.
        """
        return self._study.network(resolve_mapping(mapping))

    def latency(
        self,
        mapping: Mapping = None,
        batch: Inputs | None = None,
        repeats: int = 30,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Latency:
        """How long the fused float and the quantized network take on this machine, in turn.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            batch: Inputs of one call, as data gives them; the first evaluation batch if not given.
            repeats: How often each network is timed, at least 4.
            on_progress: Called as ``(done, total, label)`` after each pair of runs.
            should_stop: Asked after each pair of runs.

        Raises:
            ArgumentError: Fewer than 4 repeats, or a batch that the model does not take.
            DTypeError: A hook that cannot be called.
        """
        checked_hooks(on_progress, should_stop)
        data = self._evaluation_data if batch is None else self._batches([batch], "timing")
        return measure_latency(
            self._study.callables(resolve_mapping(mapping)),
            next(iter(data)).inputs,
            repeats,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def layer_sizes(self, quantized: nn.Module) -> pd.DataFrame:
        """What each layer's parameters take in float and in a quantized network of this Lab.

        Args:
            quantized: What `convert` returned.

        Returns:
            As `qlab.analysis.report.layer_bytes`: codes at their own bit width, bias, scales and
            zero points as stored [bytes].
        """
        names = [layer.name for layer in self.layers]
        return layer_bytes(names, self._study.floating, quantized)

    def identical(self, one: nn.Module, other: nn.Module, batch: Inputs | None = None) -> bool:
        """Whether two of this Lab's networks, such as a converted one and the same read back from
        its file, give the very same outputs.

        Args:
            one: What `convert` returned, or `qlab.load_quantized`.
            other: Another one.
            batch: Inputs of one call, as data gives them; the first evaluation batch if not given.
        """
        data = self._evaluation_data if batch is None else self._batches([batch], "given")
        inputs = next(iter(data)).inputs
        return same_values(*(self._call.run_quantized(model, inputs) for model in (one, other)))

    def export(
        self,
        path: str | os.PathLike[str],
        mapping: Mapping = None,
        *,
        origin: Origin | None = None,
    ) -> Path:
        """Writes the quantized model, its recipe or what is known of it; whole or not at all.

        ``.safetensors``: codes, scales and graph, read back by `qlab.load_quantized`.
        ``.onnx``: QuantizeLinear and DequantizeLinear around float operators, with biases as
        integer runtimes hold them (`QConfigMapping.set_integer_biases`); `check_onnx` runs it, and
        `qlab.io.onnx_file.save_onnx` writes a model with the biases that it has.
        ``.pt2``: the same program in aten operators, for ``torch.export.load`` without qlab.
        ``.json``: the `QConfigMapping`, read back by ``QConfigMapping.from_json``.
        ``.py``: a script that repeats repairs and conversion, and checks that they end in the same
        integers.
        ``.html``: a report that opens offline: configuration, errors, causes, versions.

        Args:
            path: Where to; its suffix decides what.
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            origin: How the script finds the model; without, its command line says it.

        Raises:
            ArgumentError: Another suffix, or no file can be written there.
            UnknownNameError: The mapping holds something unregistered, which no file can name.
            UnsupportedError: A checkpoint, program or script of a model that has no graph, a script
                of a fine-tuned one, or ONNX of what it cannot express: names operator and module.
        """
        target = path_of(path, "Lab.export")
        if target.suffix in (".safetensors", ".onnx", ".pt2", ".py"):
            self._study.whole_graph(f"A {target.suffix} file")
        return export(self, target, resolve_mapping(mapping), origin)

    def repair_recipes(self) -> list[dict[str, Any]]:
        """What `repeat_repairs` takes to repeat `repairs`, JSON-ready.

        Raises:
            UnsupportedError: One cannot be repeated, such as training on given data; names it.
        """
        return [recipe_of(report) for report in self.repairs]

    def check_onnx(
        self,
        source: str | os.PathLike[str] | bytes,
        mapping: Mapping = None,
        *,
        level: str = "all",
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> OnnxCheck:
        """Runs an exported ONNX file in onnxruntime on the calibration data, beside the integers.

        A file of `export` holds its biases as multiples of ``s_x · s_w``: it is compared with the
        integer model that does so too, and its output (``OnnxCheck.measured``) also with the one
        that `convert` gives for the mapping, which is what `compare` measures.

        Args:
            source: What `export` wrote: its path, or its bytes.
            mapping: The configuration that it was written with.
            level: How far onnxruntime may rewrite the graph; see `qlab.io.onnx_check.check_onnx`.
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch; the result then covers what was seen.

        Raises:
            FormatError: The file is not valid ONNX, or was not written from this configuration.
            ArgumentError: No such level, or a file that cannot be read.
            DTypeError: A hook that cannot be called.
            UnfinishedError: A loader failed; ``partial`` is what was compared before.
            UnsupportedError: The model has no graph; says why.
        """
        checked_hooks(on_progress, should_stop)
        self._study.whole_graph("Lab.check_onnx")
        hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
        resolved = resolve_mapping(mapping)
        if holds_integer_biases(source) and not resolved.integer_biases:
            hooks["measured"], resolved = self.convert(resolved), as_deployed(resolved)
        converted: Any = self.convert(resolved)
        return check_onnx(source, converted, self._study.sources, level=level, **hooks)
