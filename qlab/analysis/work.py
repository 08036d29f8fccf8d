"""What sensitivity measures, in pieces that can be sent to another thread, process or machine."""

from __future__ import annotations

import hashlib
import pickle
import threading
import weakref
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch

from qlab.analysis.batches import Batch
from qlab.analysis.cache import LastResults
from qlab.analysis.gradient import changed_value, estimated_noise
from qlab.analysis.networks import OutputSums
from qlab.analysis.probe import QuantizedLayer
from qlab.execution import CachedRun, Program, RunStore

_KEPT_WORKS = 4


@dataclass(frozen=True)
class On:
    """A layer as deployed inside the float network.

    Attributes:
        node: The layer's node.
        layer: The layer.
        inputs: The nodes that feed it.
    """

    node: str
    layer: QuantizedLayer
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Off:
    """A quantized network with one layer in float, or none.

    Attributes:
        base: Which of the wholly quantized networks shares most of its values.
        program: The network.
        touched: The instructions whose values may differ from the base's.
    """

    base: int
    program: Program
    touched: frozenset[str]


class Work:
    """The networks and what is to be measured on them; the same for every batch.

    The values of the quantized networks take what the float network's leave of its budget, so that
    all stores together keep it. Where a work is pickled, that happens once however often it is
    sent. A process that receives it again keeps the one it has, with the values that it cached,
    until another question about the same float network arrives.

    Args:
        floats: The float network and where its values are cached.
        on: The layers to quantize alone, by number.
        bases: The wholly quantized networks.
        off: The networks with one layer in float, by number.
    """

    def __init__(
        self,
        floats: RunStore,
        on: dict[int, On],
        bases: tuple[Program, ...],
        off: dict[int, Off],
    ) -> None:
        self._parts = floats, on, bases, off
        self.floats, self.on, self.off = floats, on, off
        self._bases: tuple[RunStore, ...] = ()
        self._lock = threading.Lock()
        self._sent: tuple[str, str, bytes] | None = None

    def base(self, task: Task, run: CachedRun, off: Off) -> CachedRun:
        """A task's batch, whose float run is given, in a network's wholly quantized self."""
        with self._lock:
            programs = self._parts[2]
            if not self._bases and programs:
                lent = self.floats.lend(task.batches)
                weakref.finalize(self, self.floats.take_back, lent)
                each = lent // len(programs)
                self._bases = tuple(RunStore(program, each) for program in programs)
        return self._bases[off.base].get(task.index, task.batches, run.inputs)

    def __reduce__(self) -> tuple[Any, tuple[str, str, bytes]]:
        if self._sent is None:
            data = pickle.dumps(self._parts)
            self._sent = _token(self.floats), hashlib.sha256(data).hexdigest(), data
        return _received, self._sent


_TOKENS: weakref.WeakKeyDictionary[RunStore, str] = weakref.WeakKeyDictionary()


def _token(floats: RunStore) -> str:
    """What tells one float network's store from all others, in any process."""
    return _TOKENS.setdefault(floats, uuid4().hex)


class _Received:
    """The work that this process was sent last about a float network."""

    def __init__(self) -> None:
        self.digest = ""
        self.work: Work | None = None
        self.lock = threading.Lock()

    def get(self, digest: str, data: bytes) -> Work:
        with self.lock:
            if self.work is None or self.digest != digest:
                self.work = None  # its values go before the next one's come
                self.work, self.digest = Work(*pickle.loads(data)), digest
            return self.work


_RECEIVED: LastResults[_Received] = LastResults(_KEPT_WORKS)


def _received(token: str, digest: str, data: bytes) -> Work:
    return _RECEIVED.get(token, _Received).get(digest, data)


@dataclass(frozen=True)
class Task:
    """Some measurements on one batch.

    Attributes:
        work: What there is to measure.
        batch: The data.
        index: Which batch it is.
        batches: How many there are; None where that is not known.
        way: ``"on"``, ``"off"`` or ``"estimate"``.
        cases: Which entries of ``work.on`` or ``work.off``.
        threads: How many threads PyTorch computes with; sums could differ in the last bits else.
    """

    work: Work
    batch: Batch
    index: int
    batches: int | None
    way: str
    cases: tuple[int, ...]
    threads: int


@dataclass(frozen=True)
class Measured:
    """What a task found.

    Attributes:
        reference: The float network compared with itself: its signal, and its answers.
        outputs: By case the errors of the network's output; none for ``"estimate"``.
        estimates: By case the estimate of their squared sum; for ``"estimate"`` only.
    """

    reference: OutputSums
    outputs: dict[int, OutputSums]
    estimates: dict[int, float]


def measure(task: Task) -> Measured:
    """Runs a task; a pure function of it, wherever it runs.

    Raises:
        NonFiniteError: NaN or infinity in an output.
    """
    if torch.get_num_threads() != task.threads:
        torch.set_num_threads(task.threads)
    if task.way == "estimate":
        return _estimated(task)
    run = task.work.floats.get(task.index, task.batches, task.batch.inputs)
    reference = _compared(run.output, run.output, task.batch)
    outputs = {
        case: _compared(run.output, _output(task, run, case), task.batch) for case in task.cases
    }
    return Measured(reference, outputs, {})


def _estimated(task: Task) -> Measured:
    layers = [task.work.on[case] for case in task.cases]
    output, found = estimated_noise(
        task.work.floats.program,
        task.batch.inputs,
        [(on.node, on.layer, on.inputs) for on in layers],
        samples=task.batch.samples,
        seed=task.index,
    )
    reference = _compared(output, output, task.batch)
    return Measured(reference, {}, dict(zip(task.cases, found, strict=True)))


def _output(task: Task, run: CachedRun, case: int) -> Any:
    """The output of one network of ``work.on`` or ``work.off``."""
    if task.way == "on":
        on = task.work.on[case]
        return run.rerun({on.node: changed_value(run, on.node, on.layer, on.inputs)[0]})
    off = task.work.off[case]
    return task.work.base(task, run, off).rerun({}, off.program, off.touched)


def _compared(reference: Any, value: Any, batch: Batch) -> OutputSums:
    sums = OutputSums.empty()
    sums.update(reference, value, batch.labels)
    return sums
