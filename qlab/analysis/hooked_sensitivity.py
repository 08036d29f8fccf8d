"""One layer quantized at a time, and all but one, by running the model with hooks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.cases import Candidates, Cases, layer_key
from qlab.analysis.networks import OutputSums, outputs_of
from qlab.analysis.probe import QuantizedLayer
from qlab.analysis.sensitivity import Sensitivity, answer, known_of, summary
from qlab.analysis.tasks import run_pieces
from qlab.analysis.work import Measured
from qlab.errors import UnsupportedError
from qlab.graph.plan import Step

if TYPE_CHECKING:
    from qlab.analysis.hooked import ModuleStudy

Layers = dict[str, QuantizedLayer]


@dataclass(frozen=True)
class _Task:
    """Some networks to run on one batch; the fields are those of `qlab.analysis.work.Task`."""

    batch: Batch
    index: int
    way: str
    cases: tuple[int, ...]


class _Modules:
    """The networks of a question: which layers of the model are quantized in each."""

    def __init__(self, study: ModuleStudy, candidates: Candidates, cases: Cases) -> None:
        self.study, self.candidates, self.cases = study, candidates, cases
        self.chosen: dict[tuple[str, int], Layers] = {}
        self.reference: tuple[int, dict[str, Tensor]] | None = None
        self.steps: dict[str, list[Step]] = {}
        for config, mapping in candidates.items():
            plan = study.plan(mapping)
            self.steps[config] = [step for step in plan.steps if is_replaced(step)]
            cases.add_rows(config, plan, self.steps[config], self._inputs(config))

    def _inputs(self, config: str) -> dict[str, tuple[str, ...]]:
        return {step.node: self.study.inputs[step.name] for step in self.steps[config]}

    def pieces(self) -> Iterator[tuple[str, Any]]:
        """What is to be done before anything is measured."""
        for config, mapping in self.candidates.items():
            for name, compute in self.study.scales(self.study.plan(mapping)):
                yield f"preparing {name}", compute
            yield f"preparing {config}", lambda config=config: self._add(config)

    def _add(self, config: str) -> None:
        study, cases, mapping = self.study, self.cases, self.candidates[config]
        layers, plan = study.quantized_layers(mapping), study.plan(mapping)
        inputs = self._inputs(config)
        for name in layers:
            self.chosen["on", cases.rows[name, config]["on"]] = {name: layers[name]}
        if "off" in cases.ways:
            keys = {s.name: layer_key(plan, s, inputs[s.node]) for s in self.steps[config]}
            for left_out in (None, *layers):
                rest = {name: layer for name, layer in layers.items() if name != left_out}
                number = cases.add_network(config, left_out, tuple(keys[name] for name in rest))
                self.chosen["off", number] = rest

    def measure(self, task: _Task) -> Measured:
        """Runs a task; the float network once per batch."""
        runs, batch = self.study.runs, task.batch
        if self.reference is None or self.reference[0] != task.index:
            self.reference = task.index, _copied(runs.run(batch.inputs))
        x = self.reference[1]
        outputs = {}
        for case in task.cases:
            layers = self.chosen[task.way, case]
            y = _copied(runs.run(batch.inputs, watch=(), replaced=layers))
            outputs[case] = _compared(x, y, batch)
        return Measured(_compared(x, x, batch), outputs, {})


def measure_modules(
    study: ModuleStudy,
    candidates: Candidates,
    data: Batches,
    *,
    ways: tuple[str, ...],
    since: Sensitivity | None = None,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Sensitivity:
    """Runs the model once per batch, layer and way, in this thread.

    Args:
        study: The model and its statistics.
        candidates: Configurations by name.
        data: Data to measure on, with labels for accuracies.
        ways: ``"on"``, ``"off"`` or both.
        since: As `qlab.analysis.sensitivity.measure_sensitivity`, as are the others and errors.
        on_progress: Called as ``(done, total, label)``.
        should_stop: Asked before each layer that is prepared, and after each run.
    """
    cases = Cases(ways, known_of(since, (study.calibration or study.calibrate(), study.graph)))
    modules = _Modules(study, candidates, cases)
    hooks: dict[str, Any] = {"on_progress": on_progress, "should_stop": should_stop}
    pieces = list(modules.pieces())
    if not run_pieces(pieces, len(pieces), **hooks):
        return summary(cases, False)

    def tasks() -> Iterator[_Task]:
        for index, batch in enumerate(data):
            modules.reference = None  # a loader may give the same tensors with other values
            for way, part in cases.parts(index, 1):
                yield _Task(batch, index, way, part)

    return answer(cases, tasks, (data.length, 1), run=modules.measure, **hooks)


def is_replaced(step: Step) -> bool:
    """Whether a layer is quantized in a model without a graph."""
    return step.execution in ("integer", "simulated", "dynamic")


def refuse_executor(executor: object) -> None:
    """Raises `UnsupportedError` where there is one."""
    if executor is not None:
        raise UnsupportedError(
            "A model without a graph is measured in this thread: its hooks are seen by whoever "
            "calls it",
            received=f"executor={type(executor).__name__}",
            fix="Leave the executor out. Lab.trace_error says which line kept the model from "
            "becoming a graph.",
        )


def _copied(value: Any) -> dict[str, Tensor]:
    """A model's outputs, which the next run may write over."""
    return {name: tensor.clone() for name, tensor in outputs_of(value).items()}


def _compared(x: dict[str, Tensor], y: dict[str, Tensor], batch: Batch) -> OutputSums:
    sums = OutputSums.empty()
    sums.add(x, y, batch.labels)
    return sums
