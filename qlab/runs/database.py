"""The SQLite file of a store of runs: whose it is, its tables, its connections."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qlab.errors import ArgumentError, FormatError, QlabError

_APPLICATION = 0x716C6162  # "qlab": SQLite's own field for whose file it is
_VERSION = 1
_PATIENCE = 30.0
"""Seconds to wait for another writer."""

_SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    turn INTEGER NOT NULL,
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    created TEXT NOT NULL,
    seconds REAL,
    mapping TEXT NOT NULL,
    identity TEXT NOT NULL,
    metrics TEXT NOT NULL,
    parent INTEGER REFERENCES runs (id),
    layers BLOB
);
CREATE INDEX runs_by_identity ON runs (subject, identity);
CREATE INDEX runs_by_turn ON runs (turn);
"""


class Connection:
    """One thread's connection; closed when the thread ends, since only the thread holds it."""

    def __init__(self, path: Path) -> None:
        self.process = os.getpid()
        self.database: sqlite3.Connection | None = None
        database = sqlite3.connect(
            path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            _set_up(database, path)
        except BaseException:
            database.close()
            raise
        self.database = database

    _own_process = staticmethod(os.getpid)  # still there when modules are torn down at the end

    def close(self) -> None:
        if self.database is not None and self.process == self._own_process():
            self.database.close()
            self.database = None

    def __del__(self) -> None:
        self.close()


def _set_up(database: sqlite3.Connection, path: Path) -> None:
    """Checks whose file it is before anything is written, and makes the tables of a new one."""
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("BEGIN")  # what is read is of one moment: another process may be making it
    ours = _is_ours(database, path)
    database.rollback()
    if ours:
        return
    _patiently(database, "PRAGMA journal_mode = WAL")
    database.execute("BEGIN IMMEDIATE")
    try:
        if not _is_ours(database, path):  # another process may have been first
            for statement in filter(str.strip, _SCHEMA.split(";")):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_VERSION}")
        database.commit()
    except BaseException:
        database.rollback()
        raise


def _is_ours(database: sqlite3.Connection, path: Path) -> bool:
    """True for a store of this version, False for an empty file.

    Raises:
        FormatError: Somebody else's file, or another version.
    """
    application = database.execute("PRAGMA application_id").fetchone()[0]
    version = database.execute("PRAGMA user_version").fetchone()[0]
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and not application:
        return False
    if application != _APPLICATION:
        raise FormatError(
            "An SQLite file, but not a store of runs",
            expected="a file that qlab.runs made, or a path where there is none",
            received=repr(str(path)),
        )
    if version != _VERSION:
        raise FormatError(
            "The store of runs has another version",
            expected=f"version {_VERSION}",
            received=f"version {version}",
            fix="Open it with the qlab that wrote it, or start another file.",
        )
    return True


def _patiently(database: sqlite3.Connection, statement: str) -> None:
    """Runs what SQLite refuses at once, not after the timeout, while another process is at it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            database.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as qlab's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "unable to open" in str(error) or "readonly" in str(error):
            raise ArgumentError(
                "The store of runs cannot be opened there",
                expected="a file, or a folder for one, that may be written to",
                received=f"{str(path)!r} ({error})",
            ) from error
        raise QlabError(
            f"The store of runs {str(path)!r} is out of order: {error}",
            fix="Is another program holding it, or the disk full?",
        ) from error
    except sqlite3.DatabaseError as error:
        raise FormatError(
            "The store of runs is not readable",
            expected="an SQLite file that qlab.runs made",
            received=f"{str(path)!r} ({error})",
        ) from error
