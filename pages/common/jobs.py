"""Long work in background threads, shared by everyone who wants the same result.

A page must not compute in its own script: moving any widget ends that. A job is named by what it
computes, so a second workspace that asks for the same thing waits for the first one's result.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Progress(Protocol):
    """What work is handed: it reports progress and asks whether it should stop.

    Attributes:
        partial: What the work may leave behind when it is cancelled, to go on from: the next job
            of the same name starts with it. None at first.
        timed: Set by work that ends after a given time: `total` is that, in seconds.
        part: Set by work of several parts, each of which reports anew: which one it is in, and
            what each of them takes of the whole.
    """

    partial: Any
    timed: bool
    part: tuple[int, tuple[float, ...]]

    def report(self, done: int, total: int, label: str) -> None: ...
    def should_stop(self) -> bool: ...


Work = Callable[[Progress], Any]
Key = tuple[Hashable, ...]
#: Cancelled jobs that are kept for what they left behind.
MOST_STOPPED = 8


@dataclass
class Parts:
    """Reports work of several parts as one whole; a part begins with a label of its own.

    Attributes:
        progress: What is told.
        labels: How the labels of each part begin; a part without any takes all others.
        shares: What each takes of the whole, about; they sum to 1.
    """

    progress: Progress
    labels: tuple[tuple[str, ...], ...]
    shares: tuple[float, ...]
    _now: int = 0

    def report(self, done: int, total: int, label: str) -> None:
        """As `Progress.report`, which is told in which part that was."""
        named = any(label.startswith(own) for own in self.labels if own)
        for place in range(self._now, len(self.labels)):
            own = self.labels[place]
            if label.startswith(own) if own else not named:
                self._now = place
                break
        self.progress.part = (self._now, self.shares)
        self.progress.report(done, total, label)


def log_error(to: logging.Logger, message: str, error: Exception) -> None:
    """Logs an error; with its traceback only where the engine did not raise it on purpose."""
    from qlab.errors import QlabError

    if isinstance(error, QlabError):
        to.warning("%s: %s", message, error)
    else:
        to.error(message, exc_info=error)


class CancelledError(Exception):
    """Raised by work that stopped because nobody wants its result any more."""


class Job:
    """One computation in its own thread.

    Attributes:
        title: What is being computed, in words.
        done, total, label: How far it is; `total` is 0 until the work knows.
        result: What the work returned, once `state` is `"done"`.
        error: What it raised, once `state` is `"failed"`.
        partial: What cancelled or failed work left behind, once it has ended.
        timed: Whether `total` is the most seconds that the work may take.
        part: In which of its parts the work is, and what each takes of the whole.
        owners: The workspaces that want it.
    """

    def __init__(self, title: str, work: Work, after: "Job | None" = None) -> None:
        self.title = title
        self.done, self.total, self.label = 0, 0, ""
        self.result: Any = None
        self.error: Exception | None = None
        self.partial: Any = None
        self.timed = False
        self.part: tuple[int, tuple[float, ...]] = (0, (1.0,))
        self._furthest = 0.0
        self.owners: set[str] = set()
        self._work, self._after = work, after
        self._cancelled = threading.Event()
        self._finished = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"job: {title}", daemon=True)

    @property
    def state(self) -> str:
        """`"running"`, `"done"`, `"failed"` or `"cancelled"`."""
        if not self._finished.is_set():
            return "running"
        if self._cancelled.is_set() and self.result is None:
            return "cancelled"
        return "failed" if self.error else "done"

    @property
    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1; it never falls."""
        now, shares = self.part
        within = min(1.0, self.done / self.total) if self.total else 0.0
        self._furthest = max(self._furthest, sum(shares[:now]) + shares[now] * within)
        return self._furthest

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace so far; None before there is one."""
        elapsed = time.monotonic() - self._started
        if not self.fraction or elapsed < 1:
            return None
        return elapsed * (1 - self.fraction) / self.fraction

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end; True if it came within `timeout` seconds."""
        return self._finished.wait(timeout)

    def cancel(self) -> None:
        """Asks the work to stop at its next chance."""
        self._cancelled.set()

    def report(self, done: int, total: int, label: str) -> None:
        """Called by the work: `done` of `total` steps, busy with `label`."""
        self.done, self.total, self.label = done, total, label

    def should_stop(self) -> bool:
        """Asked by the work: has it been cancelled?"""
        return self._cancelled.is_set()

    def _run(self) -> None:
        if self._after is not None:  # it may still be about to leave something behind
            self._after.wait()
            self.partial, self._after = self._after.partial, None
            self._started = time.monotonic()
        try:
            self.result = self._work(self)
        except CancelledError:
            self._cancelled.set()
        except Exception as error:
            self.error = error
            self.partial = getattr(error, "partial", None) or self.partial
            log_error(log, f"job failed: {self.title}", error)
        finally:
            self._finished.set()


@dataclass
class Board:
    """Jobs by name, running and finished; the newest `keep[kind]` results of each kind stay.

    A key is a tuple whose first element is its kind, such as `("report", "mlp", 256, mapping)`.
    Owners are workspaces. Safe to use from several threads.
    """

    keep: dict[str, int]
    _jobs: OrderedDict[Key, Job] = field(default_factory=OrderedDict)
    _stopped: OrderedDict[Key, Job] = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def submit(self, key: Key, title: str, work: Work, owner: str) -> Job:
        """The job named `key`: the one that runs or ran, else a new one, started.

        A failed job is not repeated until `forget` was called for its key.

        Args:
            key: What is computed.
            title: The same in words.
            work: Computes it; called in another thread with a `Progress`.
            owner: Who wants it; a running job whose last owner leaves is cancelled.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None or (job.should_stop() and job.state != "done"):
                stopped = self._stopped.pop(key, job)
                job = self._jobs[key] = Job(title, work, stopped)
                job.start()
            self._jobs.move_to_end(key)
            job.owners.add(owner)
            self._evict(str(key[0]))
            return job

    def find(self, key: Key) -> Job | None:
        """The job named `key`, if there is one."""
        with self._lock:
            return self._jobs.get(key)

    def stopped(self, key: Key) -> Job | None:
        """The cancelled job named `key`, for what it left behind, if it was not resumed."""
        with self._lock:
            return self._stopped.get(key)

    def running(self, owner: str) -> list[tuple[Key, Job]]:
        """The running jobs that `owner` wants, in the order in which they were asked for."""
        with self._lock:
            return [
                (key, job)
                for key, job in self._jobs.items()
                if owner in job.owners and job.state == "running"
            ]

    def forget(self, key: Key) -> None:
        """Drops the job named `key`, so that asking again computes again.

        What a failed one left behind as `Job.partial` is kept for the next of that name.
        """
        with self._lock:
            job = self._jobs.pop(key, None)
            if job is not None and job.state == "failed" and job.partial is not None:
                self._leave(key, job)

    def release(self, key: Key, owner: str) -> None:
        """`owner` wants the job named `key` no more; if nobody else does, it is cancelled.

        What it left behind as `Job.partial` is kept for the next job of that name.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None or owner not in job.owners:
                return
            if job.owners != {owner} or job.state != "running":
                job.owners.discard(owner)
                return
            job.cancel()
            self._leave(key, self._jobs.pop(key))

    def _leave(self, key: Key, job: Job) -> None:
        self._stopped[key] = job
        while len(self._stopped) > MOST_STOPPED:
            self._stopped.popitem(last=False)

    def abandon(self, owner: str) -> None:
        """`owner` is gone: what only it wanted is cancelled, its results and remains dropped."""
        with self._lock:
            for key, job in list(self._jobs.items()):
                if owner not in job.owners:
                    continue
                if job.owners == {owner}:
                    job.cancel()
                    del self._jobs[key]
                else:
                    job.owners.discard(owner)
            for key in [key for key, job in self._stopped.items() if owner in job.owners]:
                del self._stopped[key]

    def _evict(self, kind: str) -> None:
        finished = [k for k, job in self._jobs.items() if k[0] == kind and job.state != "running"]
        for key in finished[: max(0, len(finished) - self.keep[kind])]:
            del self._jobs[key]
