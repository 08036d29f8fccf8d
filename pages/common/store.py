"""Every workspace of the server: in memory the last ones, on disk all that were used.

A workspace is known by a random id and found by nothing else. What was never changed is not
written.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import streamlit as st

from pages.common import saved
from pages.common.jobs import log_error
from pages.common.workspace import Workspace

if TYPE_CHECKING:
    from qlab.runs import Runs

log = logging.getLogger(__name__)
BITS = 128
#: Workspaces in memory, and on disk: beyond that, the longest unused one goes.
IN_MEMORY, ON_DISK = 256, 2000
_ID = re.compile(f"[0-9a-f]{{{BITS // 4}}}", re.ASCII)


def data_folder() -> Path:
    """Where qlab keeps what must survive a restart: `$QLAB_DATA`, or the user's data folder."""
    return Path(os.environ.get("QLAB_DATA") or platformdirs.user_data_path("qlab"))


class Store:
    """Workspaces by id. Safe to use from several threads.

    Args:
        folder: Where they are kept, one JSON file each; made, for this user only, when needed.
        in_memory: How many stay in memory.
        on_disk: How many files stay when the store is opened.
    """

    def __init__(self, folder: Path, in_memory: int = IN_MEMORY, on_disk: int = ON_DISK) -> None:
        self.folder = folder
        self._in_memory = in_memory
        self._spaces: OrderedDict[str, Workspace] = OrderedDict()
        self._saved: dict[str, int] = {}
        self._runs: dict[str, Runs] = {}
        self._lock = threading.RLock()
        self._prune(on_disk)

    def new(self) -> Workspace:
        """A workspace with an id that nobody knows."""
        return self._keep(Workspace(secrets.token_hex(BITS // 8)))

    def find(self, id: object) -> Workspace | None:
        """The workspace of an id; None for an unknown one and for what is no id."""
        if not isinstance(id, str) or not _ID.fullmatch(id):
            return None
        with self._lock:
            space = self._spaces.get(id) or self._read(id)
            return space and self._keep(space)

    def save(self, space: Workspace) -> None:
        """Writes a workspace, whole or not at all, if it was changed since the last time."""
        from qlab.errors import QlabError
        from qlab.io.files import write_atomically

        with self._lock:
            revision = space.revision
            if self._saved.get(space.id, 0) == revision:
                return
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                content = saved.to_json(space).encode()
                write_atomically(self._path(space.id), content, private=True)
            except (OSError, QlabError) as error:
                log_error(log, f"workspaces cannot be saved in {self.folder}", error)
                return
            self._saved[space.id] = revision

    def save_all(self) -> None:
        """Writes every workspace that was changed."""
        for space in list(self._spaces.values()):
            self.save(space)

    def runs(self, space: Workspace) -> Runs:
        """Every configuration that was measured in a workspace; a file beside the workspace's.

        Where no file can be made they are kept until the server ends.
        """
        from qlab.errors import QlabError
        from qlab.runs import Runs

        with self._lock:
            if space.id not in self._runs:
                path = self.folder / f"{space.id}.sqlite"
                try:
                    self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._runs[space.id] = Runs(path)
                except (OSError, QlabError) as error:
                    log_error(log, f"runs cannot be saved in {self.folder}", error)
                    self._runs[space.id] = Runs()
            return self._runs[space.id]

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}.json"

    def _keep(self, space: Workspace) -> Workspace:
        with self._lock:
            self._spaces[space.id] = space
            self._spaces.move_to_end(space.id)
            while len(self._spaces) > self._in_memory:
                _, oldest = self._spaces.popitem(last=False)
                self.save(oldest)
                self._saved.pop(oldest.id, None)
                self._runs.pop(oldest.id, None)
        return space

    def _read(self, id: str) -> Workspace | None:
        from qlab.errors import QlabError

        try:
            return saved.from_json(self._path(id).read_text(encoding="utf-8"), id)
        except FileNotFoundError:
            return None
        except (OSError, QlabError) as error:
            log_error(log, "a saved workspace cannot be read", error)
            return None

    def _prune(self, most: int) -> None:
        files = sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        for path in files[most:]:
            for belonging in self.folder.glob(f"{path.stem}.*"):
                belonging.unlink(missing_ok=True)


@st.cache_resource(show_spinner=False)
def store() -> Store:
    """The one store of the server; it writes what is left to write when the server ends."""
    opened = Store(data_folder() / "workspaces")
    atexit.register(opened.save_all)
    return opened
