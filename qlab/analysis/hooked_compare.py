"""Float model and quantized layers side by side, where hooks are all there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.compare import COLUMNS, LayerErrors, ideal_of
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
    mapping: QConfigMapping,
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

    Returns:
        As `qlab.analysis.compare.compare_graphs`, with two more columns: ``calls`` of the layer in
        the quantized run, and how many of them were ``calls_apart``. A layer without any call to
        compare has NaN.

    Raises:
        NonFiniteError: NaN or infinity in a layer; names it.
        UnsupportedError: The quantized network gives an output of another shape.
    """
    layers = study.quantized_layers(mapping)
    plan = study.plan(mapping)
    pairs = {name: _Pair(plan.step(name), layer) for name, layer in layers.items()}
    output = NetworkOutput()
    data_pass = DataPass([batches], "comparing", on_progress, should_stop)
    for batch in data_pass:
        _measure(study, batch, pairs, output)
    ideal = partial(ideal_of, plan, study.ideal_sqnr)
    rows = {name: pair.row(ideal) for name, pair in pairs.items() if pair.local.count}
    whole = module_bytes(study.model)
    replaced = sum(module_bytes(study.model.get_submodule(name)) for name in layers)
    size = whole - replaced + sum(module_bytes(layer.module) for layer in layers.values())
    return Report(
        layers=pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS).rename_axis("layer"),
        output=output.as_dict(),
        outputs=output.to_frame(),
        size=Size(whole, size),
        coverage=coverage_of(plan),
        plan=plan,
        samples=data_pass.samples,
        complete=data_pass.complete,
    )


def _measure(
    study: ModuleStudy, batch: Batch, pairs: dict[str, _Pair], output: NetworkOutput
) -> None:
    """Adds one batch to every sum."""
    kept: dict[str, list[Tensor]] = defaultdict(list)
    layers = {name: pair.layer for name, pair in pairs.items()}

    def locally(name: str, given: Sequence[Any], output: Any) -> None:
        pair, value = pairs[name], first_tensor(output)
        pair.add(pair.local, value, first_tensor(run_layer(pair.layer, given)))
        kept[name].append(value.clone())  # what follows may write to it

    seen: dict[str, int] = defaultdict(int)

    def accumulate(name: str, given: Sequence[Any], output: Any) -> None:
        index, pair, value = seen[name], pairs[name], first_tensor(output)
        seen[name] += 1
        pair.calls += 1
        if index < len(kept[name]) and kept[name][index].shape == value.shape:
            pair.add(pair.accumulated, kept[name][index], value)
        else:
            pair.apart += 1

    x = outputs_of(study.runs.run(batch.inputs, locally, watch=pairs))
    x = {name: tensor.clone() for name, tensor in x.items()}
    y = outputs_of(study.runs.run(batch.inputs, accumulate, watch=pairs, replaced=layers))
    expected, received = ({name: tuple(t.shape) for name, t in given.items()} for given in (x, y))
    if expected != received:
        raise UnsupportedError(
            "The quantized network decides otherwise than the float network, and its output has "
            "another shape, so that the two cannot be compared",
            expected=f"shape {expected}",
            received=f"shape {received}",
            fix="Quantize fewer layers, or compare layer by layer with what_if.",
        )
    output.update(x, y, batch.labels)
