"""Long work in background threads, shared by everyone who wants the same result.

A page must not compute in its own script: moving any widget ends that. A job is named by what it
computes, so a second session that asks for the same thing waits for the first one's result.
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
    """What work is handed: it reports progress and asks whether it should stop."""

    def report(self, done: int, total: int, label: str) -> None: ...
    def should_stop(self) -> bool: ...


Work = Callable[[Progress], Any]


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
    """

    def __init__(self, title: str, work: Work) -> None:
        self.title = title
        self.done, self.total, self.label = 0, 0, ""
        self.result: Any = None
        self.error: Exception | None = None
        self.owners: set[str] = set()
        self._work = work
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
        """Share of the work that is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

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
        try:
            self.result = self._work(self)
        except CancelledError:
            self._cancelled.set()
        except Exception as error:
            self.error = error
            log_error(log, f"job failed: {self.title}", error)
        finally:
            self._finished.set()


@dataclass
class Board:
    """Jobs by name, running and finished; the newest `keep[kind]` results of each kind stay.

    A key is a tuple whose first element is its kind, such as `("report", "mlp", 256, mapping)`.
    """

    keep: dict[str, int]
    _jobs: OrderedDict[tuple[Hashable, ...], Job] = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def submit(self, key: tuple[Hashable, ...], title: str, work: Work, owner: str) -> Job:
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
            if job is None or job.state == "cancelled":
                job = self._jobs[key] = Job(title, work)
                job.start()
            self._jobs.move_to_end(key)
            job.owners.add(owner)
            self._evict(str(key[0]))
            return job

    def find(self, key: tuple[Hashable, ...]) -> Job | None:
        """The job named `key`, if there is one."""
        with self._lock:
            return self._jobs.get(key)

    def forget(self, key: tuple[Hashable, ...]) -> None:
        """Drops the job named `key`, so that asking again computes again."""
        with self._lock:
            self._jobs.pop(key, None)

    def leave(self, owner: str, keep: Hashable = None) -> None:
        """`owner` wants none of the running jobs any more, except the one named `keep`."""
        with self._lock:
            for key, job in list(self._jobs.items()):
                if key == keep or owner not in job.owners:
                    continue
                job.owners.discard(owner)
                if job.state == "running" and not job.owners:
                    job.cancel()
                    del self._jobs[key]

    def _evict(self, kind: str) -> None:
        finished = [k for k, job in self._jobs.items() if k[0] == kind and job.state != "running"]
        for key in finished[: max(0, len(finished) - self.keep[kind])]:
            del self._jobs[key]
