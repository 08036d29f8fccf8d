"""Running independent tasks one after the other, or on an executor, with progress and a stop."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from numbers import Integral
from typing import Any, Generic, TypeVar

import torch

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.calibration import Progress, Stop
from qlab.errors import ArgumentError, DTypeError, UnfinishedError, UnsupportedError

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.1


class TaskError(Exception):
    """A task, or the executor that had it, failed; ``__cause__`` says how.

    Args:
        task: Which.
    """

    def __init__(self, task: Any) -> None:
        super().__init__("a task failed")
        self.task = task


class DataPass:
    """One pass over data, with progress and a stop after each batch.

    A loader that fails after the first batch ends the pass; `finished` then raises, with what was
    made of the batches before it.

    Args:
        sources: Data, one after the other.
        label: What is being done.
        on_progress: Called as ``(batches done, batches in all, label)``; where a loader does not
            say how many it has, all are those done.
        should_stop: Asked after each batch.

    Raises:
        DTypeError: A hook that cannot be called.
        UnfinishedError: A loader failed before the first batch.

    Attributes:
        done: Batches seen.
        total: Batches in all as announced; those seen until now where a loader announces none.
        samples: Samples seen.
        complete: Whether all was seen, whatever number of batches a loader had announced.
    """

    def __init__(
        self,
        sources: Sequence[Batches],
        label: str,
        on_progress: Progress | None = None,
        should_stop: Stop | None = None,
    ) -> None:
        checked_hooks(on_progress, should_stop)
        self._sources, self._label = sources, label
        self._on_progress, self._should_stop = on_progress, should_stop
        self.announced = announced(sources)
        self.done, self.samples, self.complete = 0, 0, False
        self._broken: UnfinishedError | None = None

    @property
    def total(self) -> int:
        return self.done if self.announced is None else self.announced

    def __iter__(self) -> Iterator[Batch]:
        batches = itertools.chain.from_iterable(self._sources)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                break
            except UnfinishedError as error:
                if not self.done:
                    raise
                self._broken = error
                return
            yield batch
            self.done, self.samples = self.done + 1, self.samples + batch.samples
            if self._on_progress is not None:
                self._on_progress(self.done, self.total, self._label)
            if self._should_stop is not None and self._should_stop():
                self.complete = self.announced is not None and self.done >= self.announced
                return
        self.complete = True

    def finished(self, found: R) -> R:
        """What was made of the pass.

        Raises:
            UnfinishedError: A loader failed; ``partial`` is ``found``.
        """
        if self._broken is None:
            return found
        fix = "Repair the loader. What the batches before gave is in the error's `partial`."
        cause = self._broken.__cause__ or self._broken
        raise UnfinishedError.of(self._broken.problem, cause, fix, found) from cause


def announced(sources: Iterable[Batches]) -> int | None:
    """How many batches there are in all; None where a source does not know."""
    lengths = [source.length for source in sources]
    return sum(n for n in lengths if n is not None) if None not in lengths else None


def run_pieces(
    pieces: Iterable[tuple[str, Callable[[], object]]],
    total: int,
    *,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> bool:
    """Runs functions one after the other.

    Args:
        pieces: What each is for, and the function; taken as they are needed.
        total: How many there are.
        on_progress: Called as ``(done, total, label)`` after each.
        should_stop: Asked before each.

    Returns:
        Whether all were run: False where it was stopped.
    """
    for done, (label, run) in enumerate(pieces, start=1):
        if should_stop is not None and should_stop():
            return False
        run()
        if on_progress is not None:
            on_progress(done, total, label)
    return True


def run_tasks(
    tasks: Iterable[T],
    run: Callable[[T], R],
    done: Callable[[T, R], None],
    *,
    executor: Executor | None = None,
    should_stop: Stop | None = None,
) -> bool:
    """Runs every task and hands on what it gave, in any order.

    Args:
        tasks: Taken as they are needed: only so many wait in the executor as keep it busy.
        run: What to do with each; picklable where the executor needs that.
        done: Called in this thread with each task and its result.
        executor: Runs the tasks; this thread does where it is None.
        should_stop: Asked after each task, while tasks are handed out, and while waiting.

    Returns:
        Whether all tasks were done: False where it was stopped.

    Raises:
        TaskError: A task failed; what others gave was handed on. What ``tasks`` raises comes
            through, after what was begun has ended.
    """
    if executor is not None:
        return _OnExecutor(executor, run, done, should_stop).all(iter(tasks))
    stopped = False
    for task in tasks:
        if stopped:
            return False
        try:
            result = run(task)
        except Exception as error:
            raise TaskError(task) from error
        done(task, result)
        stopped = should_stop is not None and should_stop()
    return True


def checked_executor(executor: Any) -> Executor | None:
    """An executor, or None.

    Raises:
        DTypeError: Something else.
        UnsupportedError: Processes made by fork, while PyTorch computes with several threads.
    """
    if executor is None:
        return None
    if not isinstance(executor, type) and callable(getattr(executor, "submit", None)):
        _check_start_method(executor)
        return executor
    raise DTypeError(
        "Not an executor",
        expected="a concurrent.futures.Executor, of threads, processes or a cluster, or None",
        received=repr(executor),
        fix="Pass ThreadPoolExecutor(2), for example, or leave it out.",
    )


def _check_start_method(executor: Any) -> None:
    """Refuses forked processes beside threads: a fork has none of the threads of OpenMP, and waits
    for them for ever in its first layer."""
    context = getattr(executor, "_mp_context", None)
    forked = isinstance(executor, ProcessPoolExecutor) and (
        getattr(context, "get_start_method", multiprocessing.get_start_method)() == "fork"
    )
    if forked and (threads := torch.get_num_threads()) > 1:
        raise UnsupportedError(
            f"A process made by fork hangs once PyTorch has computed with {threads} threads",
            expected='ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))',
            received='a ProcessPoolExecutor whose start method is "fork"',
            fix='Pass that, with the script\'s own work under `if __name__ == "__main__":`, or '
            "call torch.set_num_threads(1) before anything is computed.",
        )


def checked_hooks(on_progress: Any, should_stop: Any) -> None:
    """Refuses hooks that cannot be called, before anything is run.

    Raises:
        DTypeError: One is neither a function nor None.
    """
    for name, hook, taken in (
        ("on_progress", on_progress, "(done, total, label)"),
        ("should_stop", should_stop, "nothing"),
    ):
        if hook is not None and not callable(hook):
            raise DTypeError(
                f"{name} cannot be called",
                expected=f"a function of {taken}, or None",
                received=repr(hook),
                fix="Pass should_stop=threading.Event().is_set, for example."
                if name == "should_stop"
                else "Pass on_progress=print, for example.",
            )


def checked_count(name: str, value: Any) -> int:
    """A number of points, or of layers.

    Raises:
        ArgumentError: It is no whole number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ArgumentError(
            f"{name} says how many", expected="a whole number, 1 or more", received=value
        )
    return int(value)


class _OnExecutor(Generic[T, R]):
    """Tasks on an executor: which wait there, and what becomes of them."""

    def __init__(
        self,
        executor: Executor,
        run: Callable[[T], R],
        done: Callable[[T, R], None],
        should_stop: Stop | None,
    ) -> None:
        self.executor, self.run, self.done = executor, run, done
        self.should_stop = should_stop or (lambda: False)
        self.waiting: dict[Future[R], T] = {}
        self.room = max(32, 4 * (os.cpu_count() or 1))

    def all(self, tasks: Iterator[T]) -> bool:
        try:
            while True:
                if not self._fill(tasks):
                    return False
                if not self.waiting:
                    return True
                wait(self.waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                self._collect()
                if self.waiting and self.should_stop():
                    return False
        finally:
            for future in self.waiting:
                future.cancel()

    def _fill(self, tasks: Iterator[T]) -> bool:
        """Hands out what there is room for; False where it was stopped."""
        for task in itertools.islice(self._drained(tasks), self.room - len(self.waiting)):
            try:
                future = self.executor.submit(self.run, task)
            except Exception as error:
                self._collect(patiently=True)
                raise TaskError(task) from error
            self.waiting[future] = task
            if future.done():  # an executor that works where it is handed the task
                self._collect()
            if self.should_stop():
                self._collect()
                return False
        return True

    def _drained(self, tasks: Iterator[T]) -> Iterator[T]:
        """The tasks; where making one fails, what was begun ends first."""
        try:
            yield from tasks
        except Exception:
            self._collect(patiently=True)
            raise

    def _collect(self, patiently: bool = False) -> None:
        """Hands on what is done, and what is not yet, where there is patience; then fails."""
        while patiently and not self.should_stop():
            if not wait(self.waiting, timeout=_POLL_SECONDS).not_done:
                break
        failed: list[tuple[T, BaseException]] = []
        for future in [future for future in self.waiting if future.done()]:
            task = self.waiting.pop(future)
            error = _error_of(future)
            if error is None:
                self.done(task, future.result())
            else:
                failed.append((task, error))
        if failed:
            task, error = failed[0]
            raise TaskError(task) from error


def _error_of(future: Future[Any]) -> BaseException | None:
    """What went wrong with a future that is done, cancelled included."""
    try:
        return future.exception()
    except BaseException as error:
        return error
