"""`Runs`: every configuration that was measured, in an embedded SQLite file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock, local
from typing import Any

import pandas as pd

from qlab.analysis.tables import compare_tables
from qlab.errors import ArgumentError, DTypeError, UnknownNameError
from qlab.qconfig import QConfigMapping
from qlab.runs.database import Connection, explained
from qlab.runs.rows import COLUMNS, Run, checked_name, checked_row, encoded, run_of


class Runs:
    """A store of runs that outlives the process, however it ends.

    Each run is one transaction of an SQLite file in WAL mode: a kill at any moment leaves all runs
    that were added and nothing of one that was not. Any number of threads and processes may use
    one file; each thread has its own connection, and writers wait for each other.

    Args:
        path: The file; made where there is none. None: a private temporary file, deleted with
            the object.

    Raises:
        FormatError: The file is not a store of runs, is damaged, or comes from a newer qlab.
        ArgumentError: The file cannot be opened or written.
        DTypeError: ``path`` is no path.

    Example:
        >>> from qlab import presets
        >>> runs = Runs()
        >>> first = runs.add(presets.get("int8").mapping(), {"accuracy": 97.5}, name="8 bits")
        >>> runs.add(presets.get("int4-weights").mapping(), {"accuracy": 91.0}, parent=first.id)
        Run(id=2, name='run 2', ...)
        >>> runs.undo().name
        '8 bits'
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is not None and not isinstance(path, str | os.PathLike):
            raise DTypeError(
                "Runs are kept in a file",
                expected="a path, or None for a private file",
                received=type(path).__name__,
            )
        self._path = None if path is None else Path(path).absolute()
        self._lock = RLock()
        self._own = local()
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()
        if path is not None:
            with self._reading():
                pass

    @property
    def path(self) -> Path:
        """The SQLite file."""
        with self._lock:
            if self._path is None:
                folder = tempfile.mkdtemp(prefix="qlab-runs-")
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                self._path = Path(folder) / "runs.sqlite"
            return self._path

    def close(self) -> None:
        """Closes every thread's connection; the next call opens one again."""
        for connection in list(self._open):
            connection.close()

    # Writing

    def add(
        self,
        mapping: QConfigMapping,
        metrics: Mapping[str, float],
        *,
        name: str | None = None,
        parent: int | None = None,
        layers: pd.DataFrame | None = None,
        seconds: float | None = None,
        subject: str = "",
    ) -> Run:
        """Keeps a measured configuration as a new run.

        Args:
            mapping: The configuration.
            metrics: Named numbers; infinities and NaN are kept as such.
            name: What people call it; ``"run <id>"`` if not given.
            parent: The run that it was made from.
            layers: One row per layer: columns of numbers, booleans or text.
            seconds: How long measuring took.
            subject: What was measured, such as a fingerprint of model and data.

        Raises:
            UnknownNameError: The mapping holds an observer that is not registered, and so has no
                JSON form, or there is no run ``parent``. Nothing is written.
            ArgumentError: A metric is no number, or the table holds something else.
        """
        values = encoded(mapping, metrics, layers) | {"seconds": seconds, "subject": subject}
        with self._writing() as database:
            return self._insert(database, values, name, parent)

    def record(
        self,
        mapping: QConfigMapping,
        metrics: Mapping[str, float],
        *,
        subject: str,
        name: str | None = None,
        parent: int | None = None,
        layers: pd.DataFrame | None = None,
        seconds: float | None = None,
    ) -> Run:
        """Keeps a measurement; where an equal mapping was measured on ``subject``, updates its run.

        That run keeps its number, name, date and parent, and becomes the latest. A new run's
        parent, where none is given, is the latest one of the same subject. Errors and arguments
        as for `add`.
        """
        values = encoded(mapping, metrics, layers) | {"seconds": seconds, "subject": subject}
        with self._writing() as database:
            if parent is not None:
                self._get(database, parent)
            known = database.execute(
                "SELECT id FROM runs WHERE subject = ? AND identity = ? ORDER BY turn DESC LIMIT 1",
                (subject, values["identity"]),
            ).fetchone()
            if known is None:
                latest = self._latest(database, subject)
                previous = None if latest is None else latest.id
                return self._insert(database, values, name, previous if parent is None else parent)
            database.execute(
                "UPDATE runs SET metrics = ?, layers = ?, seconds = ? WHERE id = ?",
                (values["metrics"], values["layers"], seconds, known[0]),
            )
            return self._touch(database, known[0])

    def rename(self, id: int, name: str) -> Run:
        """Gives a run another name.

        Raises:
            UnknownNameError: There is no such run.
            ArgumentError: The name is empty or no text.
        """
        with self._writing() as database:
            self._get(database, id)
            database.execute("UPDATE runs SET name = ? WHERE id = ?", (checked_name(name), id))
            return self._get(database, id)

    def go_to(self, id: int) -> Run:
        """Makes a run the latest, so that what is recorded next has it as its parent.

        Raises:
            UnknownNameError: There is no such run.
        """
        with self._writing() as database:
            self._get(database, id)
            return self._touch(database, id)

    def undo(self, subject: str | None = None) -> Run:
        """Goes back to the parent of the latest run; nothing is deleted.

        Args:
            subject: Of the runs of this subject; of all if not given.

        Raises:
            ArgumentError: There is no run, or the latest one has no parent.
        """
        with self._writing() as database:
            latest = self._latest(database, subject)
            if latest is None or latest.parent is None:
                raise ArgumentError(
                    "There is nothing to undo",
                    expected="a latest run with a parent",
                    received="no runs" if latest is None else f"{latest.name!r}, a first run",
                )
            return self._touch(database, latest.parent)

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Adds runs that `dump` returned, parents included; runs that are there already stay.

        Their numbers are kept where the store is empty. A run with the subject, mapping and date
        of one in the store counts as the same.

        Raises:
            FormatError: Not what `dump` returns; nothing is written.
        """
        entries = [checked_row(row) for row in rows]
        with self._writing() as database:
            numbers: dict[int, int] = {}
            empty = database.execute("SELECT count(*) FROM runs").fetchone()[0] == 0
            for entry in sorted(entries, key=lambda e: e["id"]):
                same = database.execute(
                    "SELECT id FROM runs WHERE subject = ? AND identity = ? AND created = ?",
                    (entry["subject"], entry["identity"], entry["created"]),
                ).fetchone()
                if same is not None:
                    numbers[entry["id"]] = same[0]
                    continue
                row = entry | {"parent": numbers.get(entry["parent"])}
                if not empty:
                    del row["id"]
                numbers[entry["id"]] = _write(database, row)

    # Reading

    def get(self, id: int) -> Run:
        """A run by its number.

        Raises:
            UnknownNameError: There is none.
        """
        with self._reading() as database:
            return self._get(database, id)

    def latest(self, subject: str | None = None) -> Run | None:
        """The run that was measured, or gone back to, last; None where there is none.

        Args:
            subject: Of the runs of this subject; of all if not given.
        """
        with self._reading() as database:
            return self._latest(database, subject)

    def of(self, subject: str) -> tuple[Run, ...]:
        """The runs of one subject, oldest first."""
        with self._reading() as database:
            query = f"SELECT {COLUMNS} FROM runs WHERE subject = ? ORDER BY id"
            return tuple(map(run_of, database.execute(query, (subject,)).fetchall()))

    def __iter__(self) -> Iterator[Run]:
        """Yields all runs, oldest first, as they are at this moment."""
        with self._reading() as database:
            rows = database.execute(f"SELECT {COLUMNS} FROM runs ORDER BY id").fetchall()
        return map(run_of, rows)

    def __len__(self) -> int:
        with self._reading() as database:
            return database.execute("SELECT count(*) FROM runs").fetchone()[0]

    def __bool__(self) -> bool:
        """True also where it is empty: a store is there."""
        return True

    def compare(self, a: int, b: int) -> pd.DataFrame:
        """Two runs layer by layer.

        Args:
            a: Number of the one run.
            b: Number of the other.

        Returns:
            One row per layer of either. For each column that either table has, ``<column>_a`` and
            ``<column>_b``, and for numbers ``<column>_change``: b minus a, 0 where both are equal,
            infinities included, and NaN where a run lacks the layer.

        Raises:
            UnknownNameError: There is no such run.
            ArgumentError: A run was kept without its layers.
        """
        tables = []
        for run in (self.get(a), self.get(b)):
            if run.layers is None:
                raise ArgumentError(
                    f"Run {run.id} ({run.name!r}) was kept without its layers",
                    expected="a run that was added with layers=",
                )
            tables.append(run.layers)
        return compare_tables(tables[0], tables[1])

    def dump(self) -> list[dict[str, Any]]:
        """All rows as JSON-ready data, which `restore` takes."""
        with self._reading() as database:
            cursor = database.execute("SELECT * FROM runs ORDER BY id")
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        for row in rows:
            row["layers"] = None if row["layers"] is None else row["layers"].hex()
        return rows

    # Inside a transaction

    def _insert(
        self,
        database: sqlite3.Connection,
        values: dict[str, Any],
        name: str | None,
        parent: int | None,
    ) -> Run:
        if parent is not None:
            self._get(database, parent)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        row = values | {"name": "", "created": now, "parent": parent, "turn": _next_turn(database)}
        number = _write(database, row)
        chosen = f"run {number}" if name is None else checked_name(name)
        database.execute("UPDATE runs SET name = ? WHERE id = ?", (chosen, number))
        return self._get(database, number)

    def _touch(self, database: sqlite3.Connection, id: int) -> Run:
        turn = _next_turn(database)
        database.execute("UPDATE runs SET turn = ? WHERE id = ?", (turn, id))
        return self._get(database, id)

    def _get(self, database: sqlite3.Connection, id: int) -> Run:
        row = None
        if isinstance(id, int):
            query = f"SELECT {COLUMNS} FROM runs WHERE id = ?"
            row = database.execute(query, (id,)).fetchone()
        if row is None:
            known = [number for (number,) in database.execute("SELECT id FROM runs ORDER BY id")]
            raise UnknownNameError.of("run", id, known)
        return run_of(row)

    def _latest(self, database: sqlite3.Connection, subject: str | None) -> Run | None:
        row = database.execute(
            f"SELECT {COLUMNS} FROM runs WHERE ?1 IS NULL OR subject = ?1"
            " ORDER BY turn DESC LIMIT 1",
            (subject,),
        ).fetchone()
        return None if row is None else run_of(row)

    # Connections

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with explained(self.path):
            yield self._connection()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with explained(self.path):
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.rollback()
                raise
            database.commit()

    def _connection(self) -> sqlite3.Connection:
        held: Connection | None = getattr(self._own, "connection", None)
        if held is None or held.database is None or held.process != os.getpid():
            held = Connection(self.path)
            self._own.connection = held
            with self._lock:
                self._open.add(held)
        assert held.database is not None
        return held.database


def _next_turn(database: sqlite3.Connection) -> int:
    return database.execute("SELECT coalesce(max(turn), 0) + 1 FROM runs").fetchone()[0]


def _write(database: sqlite3.Connection, row: dict[str, Any]) -> int:
    names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    written = database.execute(f"INSERT INTO runs ({names}) VALUES ({places})", row).lastrowid
    assert written is not None
    return written
