"""Which workspaces somebody looks at; one that nobody does is abandoned after a while.

A browser tab may go away for a moment, at a reload or when the network drops, so that the work of
its workspace goes on for a time of grace.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Attendance:
    """Open tabs by workspace. Safe to use from several threads.

    Attributes:
        abandoned: Called with a workspace's id when its last tab has been closed for `grace`
            seconds, in a thread of its own.
        grace: Seconds.
    """

    abandoned: Callable[[str], None]
    grace: float = 60.0
    _tabs: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _timers: dict[str, threading.Timer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arrive(self, workspace: str, tab: str) -> None:
        """A tab shows the workspace; it may say so again and again."""
        with self._lock:
            self._tabs[workspace].add(tab)
            timer = self._timers.pop(workspace, None)
            if timer is not None:
                timer.cancel()

    def leave(self, workspace: str, tab: str) -> None:
        """A tab was closed; the last one starts the time of grace."""
        with self._lock:
            tabs = self._tabs[workspace]
            tabs.discard(tab)
            if tabs or workspace in self._timers:
                return
            del self._tabs[workspace]
            timer = threading.Timer(self.grace, self._expire, (workspace,))
            timer.daemon = True
            self._timers[workspace] = timer
            timer.start()

    def tabs(self, workspace: str) -> int:
        """How many tabs show the workspace."""
        with self._lock:
            return len(self._tabs.get(workspace, ()))

    def _expire(self, workspace: str) -> None:
        with self._lock:
            # Whoever arrived has taken the timer away, even if it was too late to stop it.
            if self._timers.get(workspace) is not threading.current_thread():
                return
            del self._timers[workspace]
        self.abandoned(workspace)
