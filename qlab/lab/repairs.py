"""What a Lab can do about accuracy that quantization lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Sequence
from collections.abc import Mapping as Named
from typing import Any, Self

from qlab.algorithms import (
    AutoRepair,
    Hooks,
    Limits,
    Repaired,
    Subject,
    algorithm,
    estimate_seconds,
    finetuning,
    repair,
    run_repair,
)
from qlab.algorithms.finetune import Loss, check_lesson
from qlab.algorithms.table import checked_recipes
from qlab.analysis.calibration import Progress, Stop
from qlab.errors import ArgumentError, DTypeError
from qlab.lab.arguments import Mapping, resolve_mapping
from qlab.lab.base import LabBase
from qlab.qconfig import QConfigMapping
from qlab.runs import record_report

_REFUSED, _OTHER = "This repair cannot be applied here", "a repair of another model"


class RepairableLab(LabBase):
    """A `LabBase` whose model can be repaired; see `Lab`."""

    def repair_with(
        self,
        name: str,
        mapping: Mapping = None,
        layers: Sequence[str] | None = None,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
        **settings: Any,
    ) -> Repaired:
        """Runs an algorithm that wins accuracy back, and measures what it won; applies nothing.

        Args:
            name: A key of `qlab.algorithms.ALGORITHMS`, such as ``"equalize"``.
            mapping: The configuration to repair the model for.
            layers: The layers to repair; all that have a quantized weight if not given.
            on_progress: Called as ``(done, total, label)``.
            should_stop: Asked at each step; the result then says ``report.complete=False``, and
                its model and mapping are as before.
            **settings: The algorithm's own, and ``seed``.

        Raises:
            UnknownNameError: No such algorithm or layer.
            ArgumentError: No such setting, or a value that makes no sense.
            UnsupportedError: The model has no graph; says why.
        """
        hooks = Hooks(on_progress, should_stop)
        subject, resolved = self._subject(), resolve_mapping(mapping)
        with self._finding_the_first():
            return run_repair(
                algorithm(name), subject, resolved, layers, chosen=settings, hooks=hooks
            )

    def repair_seconds(
        self,
        name: str,
        mapping: Mapping = None,
        layers: Sequence[str] | None = None,
        **settings: Any,
    ) -> float:
        """How long `repair_with` will work here, about; measuring before and after not included."""
        subject, resolved = self._subject(), resolve_mapping(mapping)
        return estimate_seconds(name, subject, resolved, layers, settings)

    def repair(
        self,
        mapping: Mapping,
        target: float | Named[str, float],
        *,
        allowed: Collection[str] | None = None,
        max_seconds: float | None = None,
        keep_size: bool = False,
        seed: int = 0,
        train_on: Any = None,
        loss: Loss | None = None,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> AutoRepair:
        """Looks for a repair that reaches a target: the cheapest remedy for each cause first.

        ``result.log`` explains what was found, tried and kept, ``result.reached`` says whether the
        target was; `apply` makes a Lab of the best found, and nothing is applied before. See
        `qlab.algorithms.repair_search` for the order, and what the result is not.

        Args:
            mapping: The configuration to repair the model for.
            target: The least accuracy [%], or the least output SQNR [dB] where the data has no
                labels; or least values by metric, such as ``{"accuracy": 97, "sqnr": 20}``.
            allowed: Names of `qlab.algorithms.REMEDIES`; all if not given.
            max_seconds: After it nothing is begun, and what runs is stopped; what is found then
                depends on the machine.
            keep_size: No remedy that grows the model: no layer stays in float or gets more bits.
            seed: The same one gives the same result.
            train_on: Batches as the ``loader`` of `finetune`: giving them allows training, which is
                tried last. Without them nothing is trained.
            loss: That of `finetune`.
            on_progress: Called as ``(done, total, label)``, anew for each part of the work.
            should_stop: Asked at each step; the result is the best until then, and says
                ``complete=False``.

        Raises:
            ArgumentError: A target that is no number of a metric measured here, or a loss without
                data to train on.
            UnknownNameError: No such remedy.
            UnsupportedError: The model has no graph; says why.
        """
        if loss is not None and train_on is None:
            raise ArgumentError("A loss is for training", expected="train_on", received="none")
        subject, resolved, row = self._subject(), resolve_mapping(mapping), None
        if train_on is not None:
            self._study.whole_graph("Lab.repair")
            loader = self._batches(train_on, "training")
            check_lesson(loader, loss, self._study)
            row = finetuning(loader, loss)
        limits = Limits(allowed, max_seconds, keep_size, seed, row)
        with self._finding_the_first():
            return repair(subject, resolved, target, limits, Hooks(on_progress, should_stop))

    def finetune(
        self,
        mapping: Mapping,
        loader: Any,
        loss: Loss | None = None,
        steps: int = 500,
        *,
        layers: Sequence[str] | None = None,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
        **settings: Any,
    ) -> Repaired:
        """Trains on with the rounding in place, and measures what it won; applies nothing.

        Weights, biases and scales are learned, batch norm stays as it was; what comes out converts
        to the network that was trained. See `qlab.algorithms.finetune`.

        Args:
            mapping: The configuration to train the model for.
            loader: Batches of (inputs, labels), as ``evaluation`` of the constructor. It is read
                once, as many batches as the steps need are kept, and a part of them is held out.
            loss: Called as ``loss(output, labels)``. Not given, it is the cross-entropy and the
                distance from the float network's softmax, half each; or, where the loader gives no
                labels, the squared distance from the float network's output.
            steps: Of one batch each; training may end earlier.
            layers: The layers to train; all that have a quantized weight if not given.
            on_progress: Called as ``(done, total, label)``.
            should_stop: Asked at each step; model and mapping then stay as before.
            **settings: Fields of `qlab.algorithms.finetune.FinetuneSettings`, and ``seed``.

        Raises:
            ArgumentError: No such setting, a loader of one batch, or a loss without labels.
            UnknownNameError: No such layer.
            UnsupportedError: The model has no graph; says why.
        """
        hooks, chosen = Hooks(on_progress, should_stop), {"steps": steps, **settings}
        subject, resolved = self._subject(), resolve_mapping(mapping)
        row = finetuning(self._batches(loader, "training"), loss)
        with self._finding_the_first():
            return run_repair(row, subject, resolved, layers, chosen=chosen, hooks=hooks)

    def finetune_seconds(
        self,
        mapping: Mapping,
        loader: Any,
        loss: Loss | None = None,
        steps: int = 500,
        *,
        layers: Sequence[str] | None = None,
        **settings: Any,
    ) -> float:
        """How long `finetune` will train here, about: a step is timed; measuring not included."""
        row = finetuning(self._batches(loader, "training"), loss)
        resolved = resolve_mapping(mapping)
        chosen = {"steps": steps, **settings}
        with self._finding_the_first():
            return estimate_seconds(row, self._subject(), resolved, layers, chosen)

    def _subject(self) -> Subject:
        return Subject(self._study, self._evaluation_data)

    def apply(self, repaired: Repaired | AutoRepair) -> Self:
        """A Lab of the repaired model, whose reference stays the original one.

        This Lab stays as it is, and is the new one's `before`. What was measured becomes two runs,
        the latter the child of the former, so that ``lab.runs.undo()`` goes back.

        Args:
            repaired: What `repair_with` or `repair` of this Lab gave. Of the latter each step is a
                run, the child of the one before, and ``mapping`` of the new Lab the one found.

        Raises:
            ArgumentError: It was stopped, or is of another model.
            DTypeError: It is no repair.
        """
        if isinstance(repaired, AutoRepair):
            return self._apply_steps(repaired)
        if not isinstance(repaired, Repaired):
            raise DTypeError(
                _REFUSED,
                expected="what repair_with, finetune or repair of this Lab gave",
                received=repr(repaired)[:100],
            )
        if repaired.base is not self._study.graph or repaired.measured is None:
            raise ArgumentError(
                _REFUSED,
                expected="what repair_with of this Lab gave, run to its end",
                received="a repair that was stopped" if repaired.measured is None else _OTHER,
            )
        made = self.repaired(
            repaired.model, repaired.reference, (repaired.report,), repaired.calibration
        )
        made.mapping = repaired.mapping
        before, after = repaired.measured
        told: Any = {"seconds": 0.0, "subject": self.subject}
        told["calibration"] = self._study.calibration
        first = record_report(self.runs, repaired.asked, before, **told)
        told = {"seconds": repaired.report.seconds, "subject": made.subject}
        told |= {"name": repaired.report.title, "parent": None if first is None else first.id}
        told["calibration"] = repaired.calibration
        record_report(made.runs, repaired.mapping, after, **told)
        return made

    def repeat_repairs(self, recipes: Sequence[Named[str, Any]]) -> Self:
        """A Lab repaired as another one was, algorithm after algorithm, as `apply` makes it.

        Args:
            recipes: What `repair_recipes` of the other one gave.

        Raises:
            FormatError: They are something else.
        """
        made = self
        for recipe in checked_recipes(recipes):
            mapping = QConfigMapping.from_json(json.dumps(recipe["mapping"]))
            chosen = dict(recipe["settings"])
            made = made.apply(made.repair_with(recipe["name"], mapping, recipe["layers"], **chosen))
        return made

    def _apply_steps(self, found: AutoRepair) -> Self:
        if found.base is not self._study.graph:
            raise ArgumentError(_REFUSED, expected="what repair of this Lab gave", received=_OTHER)
        made, asked = self._asking(found.asked), found.asked
        for step in found.steps:
            assert step.mapping is not None and step.measured is not None
            if step.repaired is not None:
                made = made.apply(step.repaired)
            else:
                told: Any = {"seconds": 0.0, "subject": made.subject}
                told["calibration"] = made._study.calibration
                first = record_report(made.runs, asked, step.measured[0], **told)
                told |= {"name": step.title, "parent": None if first is None else first.id}
                record_report(made.runs, step.mapping, step.measured[1], **told)
                made = made._asking(step.mapping)
            asked = step.mapping
        return made

    def _asking(self, mapping: QConfigMapping) -> Self:
        """The same Lab with another configuration to keep."""
        made = copy.copy(self)
        made._data, made.mapping = list(self._data), mapping
        return made
