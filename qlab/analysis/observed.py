"""A float graph, its data, and what calibration saw of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import (
    Calibration,
    Progress,
    Stop,
    activation_bytes,
    collect_statistics,
    first_samples,
    sample_inputs,
)
from qlab.analysis.fingerprint import model_fingerprint
from qlab.analysis.probe import LayerProbe
from qlab.errors import DTypeError, UncalibratedError, UnfinishedError
from qlab.execution import GraphRunner
from qlab.stats import TensorStats

_SAMPLE_BYTES = 64 * 2**20
_LARGEST_SAMPLE = 32
_FEW = 64
_LAYER_ELEMENTS = 2**21


class Observed:
    """What is known of a model before anything is decided; `Study` decides.

    Args:
        graph: The float graph after fusion, on the device where everything runs.
        example_inputs: Inputs of one call, on that device.
        data: Calibration data.
        reference: The float graph that is observed, where a repair changed ``graph``: its nodes
            have the same names. ``graph`` if not given.

    Attributes:
        sources: Calibration data, in the order in which it was added.
        calibration: What was seen of it; None before the first pass.
        sample_inputs: What `sample` runs on; None before it was asked for.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        example_inputs: tuple[Any, ...],
        data: Batches,
        reference: fx.GraphModule | None = None,
    ) -> None:
        self.graph = graph
        self.reference = graph if reference is None else reference
        self.example_inputs = example_inputs
        self.sources = [data]
        self.calibration: Calibration | None = None
        self.sample_inputs: tuple[Any, ...] | None = None
        self._sampled: tuple[dict[str, Any], int] | None = None
        self._lock = threading.RLock()

    def calibrate(
        self, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Calibration:
        """One float pass over the data not seen so far; returns at once where there is none."""
        with self._lock:
            if self.calibration is None or not self.calibration.complete:
                hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
                with self._keeping(self.sources):
                    seen = self._collect(self.sources, self.calibration, **hooks)
                    self.calibration = replace(seen, model=self.fingerprint)
                self._forget()
            return self.calibration

    @contextmanager
    def _keeping(self, sources: list[Batches]) -> Iterator[None]:
        """Where a loader fails: what was seen stays, and `calibrate` goes on from there."""
        try:
            yield
        except UnfinishedError as error:
            if isinstance(error.partial, Calibration) and error.partial.batches:
                self.sources = sources
                self.calibration = replace(error.partial, model=self.fingerprint)
                self._forget()
            raise

    def add_data(
        self, data: Batches, on_progress: Progress | None = None, should_stop: Stop | None = None
    ) -> Calibration:
        """Takes in more calibration data, after all that is there; nothing is seen twice."""
        with self._lock:
            sources = [*self.sources, data]
            hooks: Any = {"on_progress": on_progress, "should_stop": should_stop}
            with self._keeping(sources):
                seen = self._collect(sources, self.calibration, **hooks)
                self.calibration = replace(seen, model=self.fingerprint)
            self.sources = sources
            self._forget()
            return self.calibration

    @cached_property
    def fingerprint(self) -> str:
        """Of the model that is observed, as `Calibration.model` keeps it."""
        return model_fingerprint(self.reference)

    def restore(self, calibration: Calibration, sample_inputs: tuple[Any, ...]) -> None:
        """Goes on from saved statistics of all data that is here, however it is batched now."""
        seen = (self.sources[0].count(),) if calibration.complete else calibration.seen
        self.calibration = replace(calibration, seen=seen)
        self.sample_inputs = sample_inputs

    def float_values(
        self,
        probe: LayerProbe,
        few: bool = False,
        samples: Iterable[tuple[Any, ...]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The float values around a layer for all calibration data, call by call.

        Args:
            probe: The layer.
            few: Of some samples of every batch only, see `few_of_each`.
            samples: Inputs to take instead.
        """
        runner = GraphRunner(self.reference, {probe.node, *probe.inputs})
        for inputs in self._inputs(few) if samples is None else samples:
            yield runner.collect(inputs)[1]

    def _inputs(self, few: bool) -> Iterator[tuple[Any, ...]]:
        if few:
            yield from self.few_of_each
            return
        for batch in itertools.chain.from_iterable(self.sources):
            yield batch.inputs

    @cached_property
    def few_of_each(self) -> list[tuple[Any, ...]]:
        """Inputs of a few samples of every batch, 64 in all or one of each: what differs between
        batches shows in them, and running them costs little."""
        batches = list(itertools.chain.from_iterable(self.sources))
        largest = max(_FEW // max(len(batches), 1), 1)
        return [first_samples(batch, largest) for batch in batches]

    def check_finite(self, data: Batches, called: str) -> None:
        """Runs the float model over data that is measured on, and keeps nothing.

        Raises:
            NonFiniteError: As `calibrate`; names the first layer, and the data as ``called``.
        """
        with self._lock:
            self._collect([data], None, called)

    def _collect(
        self,
        sources: Sequence[Batches],
        start: Calibration | None,
        called: str = "calibration",
        **hooks: Any,
    ) -> Calibration:
        graph = self.reference
        nodes = [node for node in graph.graph.nodes if node.op != "output"]
        names = {node.name: str(node.meta.get("name", node.name)) for node in nodes}
        return collect_statistics(graph, sources, names, start=start, called=called, **hooks)

    def merge(self, other: Calibration) -> Calibration:
        """Takes in what another Lab of the same model saw, after all that was seen here."""
        if not isinstance(other, Calibration):
            raise DTypeError(
                "Only a calibration can be merged",
                expected="the `calibrated` of another Lab",
                received=type(other).__name__,
            )
        with self._lock:
            mine = self.calibration or self.calibrate()
            merged = mine.merge(other)
            self.calibration = replace(merged, seen=mine.seen, complete=mine.complete)
            self._forget()
            return self.calibration

    def _forget(self) -> None:
        """Called when the statistics have become others: drops what was computed from them."""

    def stats(self, node: str) -> TensorStats:
        """What calibration saw at a node; calibrates first where that has not happened.

        Raises:
            UncalibratedError: No tensor of real numbers was seen there.
        """
        seen = self.calibration or self.calibrate()
        if node not in seen.statistics:
            raise UncalibratedError(
                f"Calibration saw no floating-point tensor at node {node!r}",
                fix="Only tensors of real numbers have statistics.",
            )
        return seen.statistics[node]

    @property
    def masks(self) -> frozenset[str]:
        """The network's inputs in which calibration saw infinity, as additive masks hold it."""
        seen = {} if self.calibration is None else self.calibration.statistics
        inputs = (node.name for node in self.graph.graph.nodes if node.op == "placeholder")
        return frozenset(name for name in inputs if name in seen and seen[name].inf_count)

    def sample(self) -> tuple[dict[str, Any], int]:
        """Every float value for a small fixed sample of the calibration data, and its size.

        As many samples of the first batch as fit 64 MiB of activations, at most 32.
        """
        with self._lock:
            if self._sampled is None:
                self._sampled = self._take_sample()
            return self._sampled

    def _take_sample(self) -> tuple[dict[str, Any], int]:
        if self.sample_inputs is None:
            size = activation_bytes(self.reference, self.example_inputs)
            self.sample_inputs = self._first_samples(size)
        names = [node.name for node in self.graph.graph.nodes if node.op != "output"]
        _, values = GraphRunner(self.reference, names).collect(self.sample_inputs)
        return values, samples_in(self.sample_inputs)

    def _first_samples(self, example_bytes: int) -> tuple[Any, ...]:
        """As many as fit 64 MiB of activations, which take so many bytes for the examples."""
        per_sample = max(example_bytes // samples_in(self.example_inputs), 1)
        largest = min(_LARGEST_SAMPLE, max(_SAMPLE_BYTES // per_sample, 1))
        return sample_inputs(self.sources[0], largest)

    def layer_sample(self, probe: LayerProbe) -> tuple[dict[str, Any], int]:
        """Out of `sample` the values of a layer's inputs and output, and for how many samples.

        As many samples as keep the largest of these tensors within 2 million elements, so that a
        what-if takes milliseconds whatever the size of the layer; at least one.
        """
        values, samples = self.sample()
        own = {node: values[node] for node in (*probe.inputs, probe.node)}
        aligned = {
            node: value
            for node, value in own.items()
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == samples
        }
        largest = max((value[0].numel() for value in aligned.values()), default=1)
        fitting = max(1, min(samples, _LAYER_ELEMENTS // max(largest, 1)))
        if probe.node not in aligned or fitting == samples:
            return own, samples
        return own | {node: value[:fitting] for node, value in aligned.items()}, fitting


def samples_in(inputs: tuple[Any, ...]) -> int:
    """Length of the first tensor's first axis; 1 where there is none."""
    sizes = (x.shape[0] for x in inputs if isinstance(x, Tensor) and x.ndim)
    return max(next(sizes, 1), 1)
