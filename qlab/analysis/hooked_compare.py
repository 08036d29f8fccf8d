"""Float model and quantized layers side by side, where hooks are all there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.compare import COLUMNS, LayerErrors, ideal_of, with_parts
from qlab.analysis.hooked_run import run_layer
from qlab.analysis.networks import NetworkOutput, first_tensor, outputs_of
from qlab.analysis.report import Report, Size, coverage_of, module_bytes
from qlab.analysis.tasks import DataPass
from qlab.errors import UnsupportedError
from qlab.graph.plan import Step
from qlab.qconfig import QConfigMapping

if TYPE_CHECKING:
    from qlab.analysis.hooked import ModuleStudy

_COLUMNS = [*COLUMNS, "calls", "calls_apart"]


@dataclass
class _Pair(LayerErrors):
    """A layer's errors over all calls."""

    calls: int = 0
    apart: int = 0

    def row(self, ideal: Callable[[Step], float]) -> list[Any]:
        return [*super().row(ideal), self.calls, self.apart]


def compare_modules(
    study: ModuleStudy,
    mappings: Sequence[QConfigMapping],
    batches: Batches,
    *,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Report:
    """Measures every quantized layer twice, and the network's output.

    Local: the quantized layer on what the float model gives it. Accumulated: in a run in which
    every layer is its quantized self; its nth call is compared with the nth call in the float run.
    A model that decides on what tensors hold may then go another way: calls that the float run did
    not make, or made on another shape, count as ``calls_apart`` and are not measured.

    Args:
        study: The float model and its statistics.
        mappings: The configuration, or `with_halves` of it; one float run of a batch serves all.
        batches: Data to measure on.
        on_progress: Called as ``(batches done, batches in all, label)``.
        should_stop: Asked after each batch; the report then says ``complete=False``.

    Returns:
        As `qlab.analysis.compare.compare_graphs`, with two more columns: ``calls`` of the layer in
        the quantized run, and how many of them were ``calls_apart``. A layer without any call to
        compare has NaN.

    Raises:
        NonFiniteError: NaN or infinity in a layer; names it.
        UnfinishedError: A loader failed; ``partial`` is the report on the batches before.
        UnsupportedError: The quantized network gives an output of another shape.
    """
    compared = [_Comparison(study, mapping) for mapping in mappings]
    data_pass = DataPass([batches], "comparing", on_progress, should_stop)
    for batch in data_pass:
        _measure(study, batch, compared)
    return data_pass.finished(with_parts([each.report(data_pass) for each in compared]))


class _Comparison:
    """What is measured of one configuration."""

    def __init__(self, study: ModuleStudy, mapping: QConfigMapping) -> None:
        self.study, self.plan = study, study.plan(mapping)
        self.layers = study.quantized_layers(mapping)
        self.pairs = {
            name: _Pair(self.plan.step(name), layer) for name, layer in self.layers.items()
        }
        self.output = NetworkOutput()

    def locally(self, name: str, given: Sequence[Any], value: Tensor) -> None:
        """Adds what a layer gives for what the float model gives it."""
        if (pair := self.pairs.get(name)) is not None:
            pair.add(pair.local, value, first_tensor(run_layer(pair.layer, given)))

    def inside(self, batch: Batch, kept: Mapping[str, list[Tensor]]) -> Any:
        """Runs the quantized network and adds what its layers give, call by call."""
        seen: dict[str, int] = defaultdict(int)

        def accumulate(name: str, given: Sequence[Any], output: Any) -> None:
            index, pair, value = seen[name], self.pairs[name], first_tensor(output)
            seen[name] += 1
            pair.calls += 1
            if index < len(kept[name]) and kept[name][index].shape == value.shape:
                pair.add(pair.accumulated, kept[name][index], value)
            else:
                pair.apart += 1

        run = self.study.runs.run
        return run(batch.inputs, accumulate, watch=self.pairs, replaced=self.layers)

    def report(self, data_pass: DataPass) -> Report:
        """What was measured until now."""
        ideal = partial(ideal_of, self.plan, self.study.ideal_sqnr)
        rows = {name: pair.row(ideal) for name, pair in self.pairs.items() if pair.local.count}
        model = self.study.model
        whole = module_bytes(model)
        replaced = sum(module_bytes(model.get_submodule(name)) for name in self.layers)
        size = whole - replaced + sum(module_bytes(x.module) for x in self.layers.values())
        layers = pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)
        return Report(
            layers=layers.rename_axis("layer"),
            output=self.output.as_dict(),
            outputs=self.output.to_frame(),
            size=Size(whole, size),
            coverage=coverage_of(self.plan),
            plan=self.plan,
            samples=data_pass.samples,
            complete=data_pass.complete,
        )


def _measure(study: ModuleStudy, batch: Batch, compared: Sequence[_Comparison]) -> None:
    """Adds one batch to every sum."""
    kept: dict[str, list[Tensor]] = defaultdict(list)

    def see(name: str, given: Sequence[Any], output: Any) -> None:
        value = first_tensor(output)
        for comparison in compared:
            comparison.locally(name, given, value)
        kept[name].append(value.clone())  # what follows may write to it

    watched = set().union(*(comparison.pairs for comparison in compared))
    x = outputs_of(study.runs.run(batch.inputs, see, watch=watched))
    x = {name: tensor.clone() for name, tensor in x.items()}
    for comparison in compared:
        y = outputs_of(comparison.inside(batch, kept))
        _check_shapes(x, y)
        comparison.output.update(x, y, batch.labels)


def _check_shapes(x: dict[str, Tensor], y: dict[str, Tensor]) -> None:
    """Raises where the quantized network gives other shapes than the float network."""
    expected, received = ({name: tuple(t.shape) for name, t in given.items()} for given in (x, y))
    if expected != received:
        raise UnsupportedError(
            "The quantized network decides otherwise than the float network, and its output has "
            "another shape, so that the two cannot be compared",
            expected=f"shape {expected}",
            received=f"shape {received}",
            fix="Quantize fewer layers, or compare layer by layer with what_if.",
        )
