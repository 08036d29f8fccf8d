"""`Lab`: one model, its calibration data, and every question about quantizing it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

from pandas import DataFrame

from qlab.algorithms import with_algorithms
from qlab.analysis.calibration import Progress, Stop
from qlab.analysis.causes import Cause
from qlab.analysis.diagnosis import causes_of, remedied
from qlab.analysis.fidelity import Fidelity, measure_fidelity
from qlab.analysis.report import Report
from qlab.analysis.search import Candidate, Measure, Search, Space, budget_limits, search_mappings
from qlab.analysis.sensitivity import Sensitivity, checked_since, checked_ways, names_of
from qlab.analysis.tasks import checked_count, checked_executor
from qlab.analysis.what_if import WhatIf, what_if
from qlab.lab.arguments import DEFAULT_PRESET, Mapping, resolve_mapping
from qlab.lab.deploy import DeployableLab
from qlab.lab.repairs import RepairableLab
from qlab.lab.tensors import TensorLab
from qlab.qconfig import QConfigMapping
from qlab.ranges import TensorSpec
from qlab.runs import record_report
from qlab.runs.rows import checked_name


class Lab(RepairableLab, DeployableLab, TensorLab):
    """What-ifs about one model, answered from one calibration pass.

    Args:
        model: A float model; it is copied, never changed. One that cannot become a graph is worked
            on layer by layer, through hooks (`traced`, `trace_error`).
        example_inputs: Inputs of one call: a tensor, a tuple of positional inputs, or a dict of
            keyword inputs. What is no tensor is fixed at the given value; batches give the others.
        calibration: Batches of inputs (see `qlab.analysis.batches.Batches`).
        evaluation: Batches of (inputs, labels) on which `compare` measures; the calibration data
            if not given.
        device: Where everything runs; the model's own device if not given.
        memory_budget: How many bytes of the float network's activations on the evaluation data are
            kept, so that a change of one layer runs only what follows it. A model that needs more
            works, slower; 0 keeps none.
        patterns: Chains of layers that are quantized as one, where the model has a graph, as such
            or by title, such as ``"Linear + GELU"``; with those of `qlab.registry.ON_REQUEST` also
            sums behind convolutions, and GELU.
        runs: Where what `compare` measures is kept: a `Runs`, or the path of its SQLite file, which
            several Labs may share. None: a private file, gone with the Lab.

    Attributes:
        runs: Every configuration that was measured.
        mapping: A configuration that `save` keeps; the default preset until somebody sets it.
        repairs: What was done to the model, as reports, in order; see `repair_with` and `apply`.
        before: The Lab of the model before the last repair; None for an original model.

    Raises:
        ArgumentError: Example inputs that do not fit the model, no such device, a budget that is
            no number of bytes, or something that is no pattern.
        UnknownNameError: No pattern has such a title.
    """

    def compare(
        self,
        mapping: Mapping = None,
        *,
        parts: bool = False,
        name: str | None = None,
        parent: int | None = None,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Report:
        """Every layer's local and accumulated error, and the network's own, measured.

        The quantized network that is measured is the one that `convert` returns and `export`
        writes, run on the evaluation data beside the float network. What was measured is kept in
        `runs`; measuring an equal mapping again from equal statistics updates its run.
        A comparison that was stopped, or a mapping with an unregistered callable, is not kept.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            parts: Whether to measure two more networks in the same pass: with the weights alone
                quantized, and with the activations alone.
            name: What its run is called; a preset's name, or by its number, if not given.
            parent: The run that it was made from; the latest if not given.
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch, of calibration too where that comes first; the
                report then covers what was seen.

        Raises:
            NonFiniteError: NaN or infinity; names the first layer that produced it, or the input.
            UnfinishedError: A loader failed; ``partial`` is the report on the batches before.
            ArgumentError: An empty name.
            UnknownNameError: There is no run ``parent``.
        """
        resolved = resolve_mapping(mapping)
        if name is not None:
            checked_name(name)
        if parent is not None:
            self.runs.get(parent)  # refused before anything is measured, as a name is
        hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
        seen_all = self._calibrated_whole(**hooks)
        began = time.monotonic()
        with self._finding_the_first():
            measured = self._study.compare(resolved, self._evaluation_data, parts=parts, **hooks)
        measured = replace(measured, complete=measured.complete and seen_all)
        seconds = time.monotonic() - began
        if not measured.complete:
            return measured  # nor is the rest of the data read, which names the subject of a run
        told: Any = {"subject": self.subject, "name": name, "parent": parent}
        told |= {"seconds": seconds, "calibration": self.calibrated}
        record_report(self.runs, resolved, measured, **told)
        return measured

    def channels(self, name: str, mapping: Mapping = None) -> DataFrame:
        """The local error of each channel of a layer's output, on the evaluation data.

        Args:
            name: A layer.
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.

        Returns:
            One row per channel: the metrics of `qlab.analysis.metrics`, ``rmse_scale``,
            ``nmse_rounding``, ``nmse_clipping`` and ``clipped_share`` [%].

        Raises:
            UnknownNameError: No such layer.
            UnsupportedError: The configuration leaves the layer in float.
        """
        with self._finding_the_first():
            return self._study.channels(name, resolve_mapping(mapping), self._evaluation_data)

    def sensitivity(
        self,
        mappings: Mapping | dict[str, Mapping] | Sequence[Mapping] = None,
        *,
        ways: str | Sequence[str] | None = None,
        executor: Executor | None = None,
        since: Sensitivity | None = None,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Sensitivity:
        """What each layer's quantization alone costs the network, and what leaving it out wins.

        Args:
            mappings: The candidate configurations: one, a sequence of them, or a dict by name.
            ways: One or some of ``"on"`` (the layer alone is quantized), ``"off"`` (it alone is
                not) and ``"estimate"`` (``"on"`` to first order, for all layers in one pass) to
                answer; all if not given, without a graph all but the estimate.
            executor: Any `concurrent.futures.Executor`, of threads, processes or a cluster; it
                changes when the answer comes, not what it says. Of processes it is made with
                ``mp_context=multiprocessing.get_context("spawn")``: forked ones would hang.
            since: An earlier answer, such as one that was stopped: what it measured of the same
                layers, from the same statistics, is not measured again. It needs evaluation data
                that comes in the same order again.
            on_progress: Called as ``(done, total, label)`` while layers are prepared, then after
                each task.
            should_stop: Asked before each layer that is prepared and after each task, which take
                less than a batch; what was measured until then is kept.

        Raises:
            UnknownNameError: No such preset or way.
            ArgumentError: Nothing to measure.
            UnsupportedError: The estimate, or an executor, for a model that has no graph; forked
                processes, unless PyTorch computes with one thread.
            UnfinishedError: A loader, a worker or the executor failed; its ``partial`` is the
                answer so far, for ``since``.
        """
        named = [(DEFAULT_PRESET, None)] if mappings is None else names_of(mappings)
        candidates = {name: resolve_mapping(mapping) for name, mapping in named}
        asked = checked_ways(ways)
        checked_executor(executor)
        seen_all = self._calibrated_whole(on_progress, should_stop)
        hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
        found = self._sensitivity(candidates, asked, executor, since=since, **hooks)
        return found if seen_all else replace(found, complete=False)

    def _sensitivity(self, candidates: Any, *how: Any, **more: Any) -> Sensitivity:
        """As far as calibration went; see `Study.sensitivity`."""
        with self._finding_the_first():
            return self._study.sensitivity(candidates, self._evaluation_data, *how, **more)

    def search(
        self,
        budget: float,
        *,
        by: Measure = "size",
        candidates: Sequence[Candidate] | None = None,
        mapping: Mapping = None,
        sensitivity: Sensitivity | None = None,
        executor: Executor | None = None,
        points: int | None = 64,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Search:
        """Mixed precision: how many bits each layer gets, solved exactly under a budget.

        Args:
            budget: A whole number of bytes or bit operations, or a fraction of what ``mapping``
                takes: 0.5 is half the size of 8 bits.
            by: ``"size"`` or ``"bit_ops"`` (MACs × weight bits × activation bits).
            candidates: What layers may become; see `default_candidates`.
            mapping: What everything else gets.
            sensitivity: That of an earlier search with these candidates (``Search.sensitivity``);
                measured if not given, and to its end if that one was stopped early.
            executor: Runs that measurement, as in `sensitivity`.
            points: How many points the front has at most, the 20 nearest the budget without gaps;
                None for all that there are.
            on_progress: Called as ``(done, total, label)``.
            should_stop: Asked after each task, and before each layer that is prepared; the front
                then holds what was found.

        Raises:
            ArgumentError: An impossible budget; states the smallest possible.
            UnsupportedError: The model has no graph; says why.
        """
        self._study.whole_graph("Lab.search")
        checked_executor(executor)
        if points is not None:
            checked_count("points", points)
        checked_since(sensitivity)
        resolved = resolve_mapping(mapping)
        seen_all = self.calibrate(on_progress, should_stop).complete
        hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
        space = Space(self._study, resolved, candidates, by, **hooks)
        budget_limits(space, budget)  # refused before anything is measured
        if not space.complete:
            hooks["should_stop"] = lambda: True
        if sensitivity is None or not sensitivity.complete:
            configurations = space.configurations() or {"base": resolved}
            sensitivity = self._sensitivity(
                configurations, ("on",), executor, since=sensitivity, **hooks
            )
        before = self.runs.latest(self.subject) if sensitivity.complete else None
        compare = partial(self.compare, parent=None if before is None else before.id)
        found = search_mappings(space, budget, sensitivity, compare, points=points, **hooks)
        return found if seen_all else replace(found, complete=False)

    def what_if(
        self,
        name: str,
        weight: TensorSpec | None = None,
        activation: TensorSpec | None = None,
        *,
        mapping: Mapping = None,
    ) -> WhatIf:
        """What one layer would lose if it were quantized in another way; nothing is applied.

        Tensor errors come from the weight itself and from the output's cached statistics; the
        output SQNR from running the layer alone on the float inputs of a small cached sample of the
        calibration data. `compare` measures on the evaluation data: where that is other data, the
        two differ by as much as the data does.

        Args:
            name: The layer.
            weight: How to quantize its weight; as ``mapping`` has it if not given.
            activation: How to quantize its output; as ``mapping`` has it if not given.
            mapping: The configuration that the layer's inputs and unchanged parts come from.

        Raises:
            UnknownNameError: No such layer.
            ArgumentError: A weight spec for a layer that has no weight.
            UnsupportedError: The layer has no quantized form.
        """
        return what_if(self._study, self.plan(mapping), name, weight, activation)

    def causes(self, name: str, mapping: Mapping = None) -> tuple[Cause, ...]:
        """Why a layer loses precision: what gains most first, what gains nothing last.

        ``cause.apply(mapping)`` is a configuration with the remedy in it, ``cause.gain`` what that
        was measured to gain, ``cause.algorithms`` what `repair_with` offers against it.

        Args:
            name: The layer.
            mapping: The configuration under which it is judged.

        Raises:
            UnknownNameError: No such layer.
        """
        data, seen = self._evaluation_data, self._study.sources
        unseen = None if any(data is source for source in seen) else data
        found = causes_of(self._study, resolve_mapping(mapping), name, unseen)
        return with_algorithms(found)

    def remedy(self, cause: Cause, mapping: Mapping = None) -> QConfigMapping:
        """A configuration with a cause's remedy in every layer that has the same cause.

        `Cause.apply` changes the one layer that the cause was found in; this changes all of its
        kind, such as the scales of every weight whose channels differ too much to share one.

        Args:
            cause: What `causes` found.
            mapping: The configuration to change; it stays as it is.

        Raises:
            UnsupportedError: No configuration avoids this cause; says what would.
        """
        return remedied(self._study, resolve_mapping(mapping), cause)

    def fidelity(
        self,
        mapping: Mapping = None,
        *,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> Fidelity:
        """Float, simulated (fake-quantized) and integer network side by side, layer by layer.

        Args:
            mapping: A `QConfigMapping`, a preset's name, or None for the default preset.
            on_progress: Called as ``(done, total, label)`` after each batch.
            should_stop: Asked after each batch; the result then covers what was seen.

        Raises:
            NonFiniteError: NaN or infinity in a layer.
            UnfinishedError: A loader failed; ``partial`` is what was compared before.
            UnsupportedError: The model has no graph; says why.
        """
        graph = self._study.whole_graph("Lab.fidelity")
        resolved = resolve_mapping(mapping)
        seen_all = self._calibrated_whole(on_progress, should_stop)
        with self._finding_the_first():
            found = measure_fidelity(
                (graph, self._study.converted(resolved)),
                self._study.plan(resolved),
                self._evaluation_data,
                reference=self._study.reference,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        return found if seen_all else replace(found, complete=False)
