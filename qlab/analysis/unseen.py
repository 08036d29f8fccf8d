"""What another range of a layer's output gains on samples that neither range was fitted to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import first_samples
from qlab.analysis.metrics import ErrorSums
from qlab.analysis.probe import LayerProbe, QuantizedLayer
from qlab.analysis.study import Study
from qlab.analysis.what_if import deployed
from qlab.execution import GraphRunner
from qlab.graph import Plan
from qlab.stats import TensorStats

_BATCHES = 8
_SAMPLES = 8  # of each of them: running 64 samples costs little


def unseen_errors(
    study: Study, plans: tuple[Plan, Plan], name: str, evaluation: Batches | None
) -> tuple[ErrorSums, ErrorSums]:
    """Error of a layer's output under two plans, on samples that no range of it has seen.

    On evaluation data, with the ranges of all calibration data; without any, the range of every
    other batch is judged on the batches between, and the other way round. The layer is deployed
    alone and fed the float network's values on a few samples of each batch.

    Args:
        study: What is known of the model.
        plans: How the layer is quantized, and how else.
        name: The layer.
        evaluation: Data that calibration did not see; None where there is none.

    Raises:
        MissingDataError: The study was loaded without its data.
    """
    sums = ErrorSums(), ErrorSums()
    if evaluation is not None:
        few = [first_samples(batch, _SAMPLES) for batch in itertools.islice(evaluation, _BATCHES)]
        _judge(study, plans, name, few, sums)
        return sums
    few = study.few_of_each
    for half in (0, 1):
        _judge(study, plans, name, few[half::2], sums, few[1 - half :: 2])
    return sums


def _judge(
    study: Study,
    plans: tuple[Plan, Plan],
    name: str,
    unseen: list[tuple[Any, ...]],
    sums: tuple[ErrorSums, ErrorSums],
    seen: list[tuple[Any, ...]] | None = None,
) -> None:
    """Adds the errors on ``unseen``, with the ranges of ``seen`` or of all calibration data."""
    probe, steps = study.probe(name), [plan.step(name) for plan in plans]
    layers = [_layer(study, plan, name, seen) for plan in plans]
    for values in _values(study, probe, {probe.node, *probe.inputs}, unseen):
        for step, layer, total in zip(steps, layers, sums, strict=True):
            output = layer.run([values[node] for node in probe.inputs])
            total.update(step.counting(values[probe.node]), step.counting(output))


def _layer(
    study: Study, plan: Plan, name: str, seen: list[tuple[Any, ...]] | None
) -> QuantizedLayer:
    """A layer as a plan deploys it, the range of its output from some samples alone."""
    step, probe = plan.step(name), study.probe(name)
    if seen is None or step.output is None:
        return deployed(study, plan, name, (step.weight, step.output))
    node = plan.range_node(probe.node)
    stats = TensorStats(channel_axis=study.stats(node).channel_axis)
    for values in _values(study, probe, {node}, seen):
        stats.update(values[node])
    weight = study.weight_qparams(name, step.weight)[0] if step.weight else None
    output = step.output.qparams(stats).whole_range().to(study.graph_device)
    return probe.quantized(weight, study.input_qparams(plan, probe), output)


def _values(
    study: Study, probe: LayerProbe, nodes: set[str], samples: Iterable[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Float values at some nodes; without a graph those around the layer, call by call."""
    if study.trace_error is not None:
        yield from study.float_values(probe, samples=samples)
        return
    runner = GraphRunner(study.reference, nodes)
    for inputs in samples:
        yield runner.collect(inputs)[1]
