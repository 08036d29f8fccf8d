"""Values of a run kept within a budget of bytes, so that a change re-runs only what it touches."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from qlab.errors import ArgumentError
from qlab.execution.program import Program
from qlab.graph.shapes import tensors_in


class CachedRun:
    """One batch run through a program, with as many of its values kept as a budget allows.

    Where all fit, all are kept. Else those are kept from which the others are recomputed at the
    least cost: see `_choose`. What comes out never depends on what was kept: every value is
    computed by the same instructions from the same values.

    Args:
        program: The program.
        inputs: Positional inputs of the graph; held beside the budget, as the output is.
        budget: How many bytes of values may be kept; 0 keeps none.
        keep: Which values to keep, where an earlier run of the same shapes has shown it.

    Attributes:
        inputs: As given.
        output: What the graph gives for them.
        kept: Names of the values that are kept.
        bytes: How many bytes of values are kept.
        complete: Whether all values are.
    """

    def __init__(
        self,
        program: Program,
        inputs: tuple[Any, ...],
        budget: int,
        keep: Collection[str] | None = None,
    ) -> None:
        self.program, self.inputs = program, inputs
        self._placeholders = program.bind(inputs)
        values: dict[str, Any] = {}
        if keep is None:
            profile = _Profile(budget, self._placeholders)
            with torch.no_grad():
                values = {program.output: program.run(inputs, profile.see), **profile.values}
            keep = profile.values if profile.fits else _choose(program, profile, budget)
        self._kept = values
        if missing := {program.output, *keep} - values.keys():
            self._kept = self.values(missing) | values
        self.output: Any = self._kept[program.output]
        self.kept = frozenset(keep)
        self._kept = {name: self._kept[name] for name in keep}
        self.complete = len(self.kept) + len(self._placeholders) == len(program.instructions)
        self.bytes = sum(map(_bytes_of, self._kept.values()))

    def value(self, name: str) -> Any:
        """One value; see `values`."""
        return self.values((name,))[name]

    def values(self, names: Collection[str]) -> dict[str, Any]:
        """Values by name; those that were not kept are computed from the nearest that were."""
        with torch.no_grad():
            return self.program.resume({**self._placeholders, **self._kept}, names)

    def rerun(
        self, changed: Mapping[str, Any], program: Program | None = None, touched: Any = None
    ) -> Any:
        """The output that the graph gives where some values are others; runs only what follows.

        Args:
            changed: The values that are others, by name.
            program: Another program with mostly the same instructions, run on the same inputs
                instead of this one.
            touched: What `Program.changed_from` says of it, where that is known.

        Returns:
            What a whole run would give, bit by bit.
        """
        others: set[str] = set()
        if program is not None:
            others = program.changed_from(self.program) if touched is None else touched
        program = program or self.program
        affected = program.downstream(changed) | others
        kept = {name: value for name, value in self._kept.items() if name not in affected}
        with torch.no_grad():
            known = {**self._placeholders, **kept, **changed}
            return program.resume(known, (program.output,))[program.output]


class RunStore:
    """The runs of a program over several batches, within one budget.

    Where the values of all batches fit, all stay. Else only those of the batch that was asked for
    last do, as far as they fit.

    Args:
        program: The program.
        budget: How many bytes of values may be kept over all batches.

    Raises:
        ArgumentError: The budget is no number of bytes.
    """

    def __init__(self, program: Program, budget: int) -> None:
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
            raise ArgumentError(
                "The memory budget is a number of bytes",
                expected="a whole number, 0 or more",
                received=repr(budget),
            )
        self.program, self.budget = program, budget
        self._runs: dict[int, CachedRun] = {}
        self._kept: frozenset[str] = frozenset()
        self._kept_for: Any = None
        self._lent = 0
        self._lock = threading.Lock()

    def get(self, index: int, count: int | None, inputs: tuple[Any, ...]) -> CachedRun:
        """The run of a batch; made anew where the data gave other inputs before.

        Args:
            index: Which batch.
            count: How many batches there are; None where that is not known.
            inputs: Its inputs; copied, so that a loader may reuse its tensors.
        """
        with self._lock:
            found = self._runs.get(index)
            if found is not None and _same_inputs(found.inputs, inputs):
                return found
            self._runs.pop(index, None)
            if not self._all_fit(max(index, len(self._runs)) + 1 if count is None else count):
                self._runs.clear()
            own = tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)
            left = max(self.budget - self._lent - self.bytes - _bytes_of(own), 0)
            shapes = tuple(x.shape if isinstance(x, Tensor) else None for x in inputs)
            keep = self._kept if (shapes, left) == self._kept_for else None
            made = self._runs[index] = CachedRun(self.program, own, left, keep)
            self._kept, self._kept_for = made.kept, (shapes, left)
            return made

    def _all_fit(self, count: int) -> bool:
        fit = count * self._largest() <= self.budget - self._lent
        return fit and all(run.complete for run in self._runs.values())

    def _largest(self) -> int:
        return max(map(_size, self._runs.values()), default=0)

    def lend(self, count: int | None) -> int:
        """How many bytes of the budget other stores may take, until `take_back`.

        What its own runs over ``count`` batches leave, judged by those that it holds: all of them
        where they fit, else one at a time. Nothing before its first run. None counts as those held.
        """
        with self._lock:
            count = len(self._runs) if count is None else count
            need = self._largest() * (count if self._all_fit(count) else 1)
            spare = self.budget - self._lent - max(need, self.bytes)
            given = max(spare, 0) if self._runs else 0
            self._lent += given
            return given

    def take_back(self, given: int) -> None:
        """Ends what `lend` gave."""
        with self._lock:
            self._lent -= given

    @property
    def bytes(self) -> int:
        """How many bytes of inputs and values are kept."""
        return sum(map(_size, self._runs.values()))

    def __reduce__(self) -> tuple[type[RunStore], tuple[Program, int]]:
        return RunStore, (self.program, self.budget)


class _Profile:
    """Bytes and seconds of every value of one run, and the values until they exceed the budget."""

    def __init__(self, budget: int, inputs: Collection[str]) -> None:
        self.bytes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.values: dict[str, Any] = {}
        self.fits = True
        self._left, self._inputs = budget, inputs
        self._since = time.perf_counter()

    def see(self, name: str, value: Any) -> None:
        if name in self._inputs:
            return
        self.seconds[name] = time.perf_counter() - self._since
        self.bytes[name] = _bytes_of(value)
        if self.fits:
            self.values[name] = value
            self._left -= self.bytes[name]
            if self._left < 0:
                self.fits, self.values = False, {}
        self._since = time.perf_counter()


def _size(run: CachedRun) -> int:
    return run.bytes + _bytes_of(run.inputs)


def _bytes_of(value: Any) -> int:
    """What keeping a value holds; a view holds the whole tensor that it looks into."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors_in(value))


def _choose(program: Program, profile: _Profile, budget: int) -> set[str]:
    """The values to keep within a budget.

    After an instruction the live values are those that later ones read: who keeps them need not
    look back. Keeping the live values of some positions cuts the program into stretches, and a
    value costs at most its own stretch. With seconds c of a stretch the expected cost of a value
    is about the sum of c²; cutting one into a and b saves 2ab. The cut that saves most per byte is
    made, again and again, until none fits.
    """
    names = [i.name for i in program.instructions if i.name in profile.bytes]
    live = _live_after(program, names)
    until = [0.0, *itertools.accumulate(profile.seconds[name] for name in names)]
    cuts, kept, left = [0, len(names)], set[str](), budget

    def added(position: int) -> int:
        return sum(profile.bytes[name] for name in live[position - 1] - kept)

    def gain(position: int) -> float:
        before = max(cut for cut in cuts if cut < position)
        behind = min(cut for cut in cuts if cut > position)
        saved = (until[position] - until[before]) * (until[behind] - until[position])
        return saved / (added(position) + 1)

    while True:
        open_ = [p for p in range(1, len(names)) if p not in cuts and added(p) <= left]
        if not open_:
            return kept
        best = max(open_, key=gain)
        left -= added(best)
        kept |= live[best - 1]
        cuts.append(best)


def _live_after(program: Program, names: list[str]) -> list[frozenset[str]]:
    """For each instruction the computed values that are read after it."""
    live: frozenset[str] = frozenset()
    found = []
    for name in reversed(names):
        found.append(live)
        reads = (read for read in program.by_name[name].reads if read in program.by_name)
        computed = frozenset(r for r in reads if program.by_name[r].op != "placeholder")
        live = (live - {name}) | computed
    return found[::-1]


def _same_inputs(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
