"""Running independent tasks one after the other, or on an executor, with progress and a stop."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

from qlab.analysis.calibration import Stop

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.1


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
        should_stop: Asked after each task, and while waiting.

    Returns:
        Whether all tasks were done: False where it was stopped.
    """
    if executor is not None:
        return _run_on(executor, iter(tasks), run, done, should_stop)
    stopped = False
    for task in tasks:
        if stopped:
            return False
        done(task, run(task))
        stopped = should_stop is not None and should_stop()
    return True


def _run_on(
    executor: Executor,
    tasks: Iterable[T],
    run: Callable[[T], R],
    done: Callable[[T, R], None],
    should_stop: Stop | None,
) -> bool:
    waiting: dict[Future[R], T] = {}
    room = max(32, 4 * (os.cpu_count() or 1))
    remaining = iter(tasks)
    try:
        while True:
            for task in itertools.islice(remaining, room - len(waiting)):
                waiting[executor.submit(run, task)] = task
            if not waiting:
                return True
            finished, _ = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                done(waiting.pop(future), future.result())
            if waiting and should_stop is not None and should_stop():
                return False
    finally:
        for future in waiting:
            future.cancel()
