"""Files that people bring into a workspace: kept beside it, bounded, and nobody else's.

A file is known by the hash of its bytes, so that the same one twice is one file. Its bytes are read
by `qlab.io.uploads` alone, which treats them as data.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from pages.common.brought import ModelFile, SampleFile
from pages.common.jobs import CancelledError, Progress
from pages.common.store import store
from pages.common.workspace import Workspace

if TYPE_CHECKING:
    from qlab.cli.files import FileData
    from qlab.io.uploads import Limits, Preprocessing, UploadedModel

#: Bytes of all files of one workspace, and of all workspaces together.
IN_WORKSPACE = int(os.environ.get("QLAB_WORKSPACE_BYTES", str(2**30)))
IN_ALL = int(os.environ.get("QLAB_DISK_BYTES", str(8 * 2**30)))
#: Models of one workspace.
MOST_MODELS = 4
#: Files that are read at a time, each in a process with the memory that `Limits` states.
_READING = threading.BoundedSemaphore(2)
_POLL = 0.1
#: Models that were read last, since they are asked for again as soon as they are on offer.
MOST_RECENT = 2
_RECENT: dict[tuple[str, str], UploadedModel] = {}
_HASH = 32
_FILES = f"*.{'[0-9a-f]' * _HASH}"
_LONGEST = 60


def limits() -> Limits:
    """What one upload may take: Streamlit's size, and ``QLAB_UPLOAD_…`` in the environment."""
    from qlab.io.uploads import Limits

    most = int(st.get_option("server.maxUploadSize")) * 2**20
    asked = Limits.from_environment(file_bytes=most)
    return replace(asked, file_bytes=min(asked.file_bytes, most))


def keep(space: Workspace, content: bytes) -> str:
    """Writes a file beside the workspace, unless it is there; returns what it is known by.

    Raises:
        FormatError: Larger than allowed, or the workspace has no room left.
        ArgumentError: It cannot be written.
    """
    from qlab.errors import ArgumentError, FormatError
    from qlab.io.files import write_atomically

    limits().check("file_bytes", len(content), "The file is too large")
    name = hashlib.sha256(content).hexdigest()[:_HASH]
    path = _path(space, name)
    if path.is_file():
        return name
    taken = sum(file.stat().st_size for file in path.parent.glob(f"{space.id}.{_FILES[2:]}"))
    if taken + len(content) > IN_WORKSPACE:
        raise FormatError(
            "This workspace has no room for the file",
            expected=f"at most {IN_WORKSPACE} bytes of files together",
            received=f"{taken} bytes and {len(content)} more",
            fix="Remove a model or data that you uploaded. The server's QLAB_WORKSPACE_BYTES "
            "sets how much there is.",
        )
    _make_room(path.parent, len(content), space)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, content, private=True)
    except OSError as error:
        raise ArgumentError("The file cannot be kept", received=str(error)) from error
    return name


def _make_room(folder: Path, size: int, but: Workspace) -> None:
    """Deletes the files of workspaces that were not used for longest until all stay in bounds."""
    files = [file for file in folder.glob(_FILES) if not file.name.startswith(but.id)]
    files.sort(key=lambda file: _last_used(folder, file))
    total = size + sum(file.stat().st_size for file in folder.glob(_FILES))
    while files and total > IN_ALL:
        file = files.pop(0)
        total -= file.stat().st_size
        file.unlink(missing_ok=True)


def _last_used(folder: Path, file: Path) -> float:
    saved = folder / f"{file.name.partition('.')[0]}.json"
    return (saved if saved.exists() else file).stat().st_mtime


def content(space: Workspace, file: str, title: str) -> bytes:
    """The bytes of a file.

    Raises:
        ArgumentError: It is not there any more.
    """
    from qlab.errors import ArgumentError

    try:
        return _path(space, file).read_bytes()
    except OSError as error:
        raise ArgumentError(
            f"The file {title} is not on this server any more",
            fix="Upload it again. Files of workspaces that were not used for longest go first.",
        ) from error


def _path(space: Workspace, file: str) -> Path:
    return store().folder / f"{space.id}.{file}"


def tidy(space: Workspace) -> None:
    """Deletes the workspace's files that nothing in it names any more."""
    with space.lock:
        reading = (space.reading_model, *space.reading_samples.values())
        kept = (*space.models.values(), *space.samples.values(), *filter(None, reading))
        named = {each.file for each in kept}
        for path in store().folder.glob(f"{space.id}.{_FILES[2:]}"):
            if path.name.partition(".")[2] not in named:
                path.unlink(missing_ok=True)


def title_of(name: str) -> str:
    """A file's name as it is shown: its last part, of printable characters, not too long."""
    last = re.split(r"[\\/]", name)[-1]
    plain = "".join(c for c in last if c.isprintable()).strip() or "upload"
    stem, dot, suffix = plain.rpartition(".")
    keep_suffix = dot and 0 < len(suffix) <= 12
    cut = _LONGEST - (len(suffix) + 1 if keep_suffix else 0)
    return f"{stem[:cut]}.{suffix}" if keep_suffix else plain[:_LONGEST]


def unused_name(space: Workspace, title: str, taken: tuple[str, ...]) -> str:
    """A name for a model that no other one has: a number follows where it is taken."""
    number, name = 1, title
    while name in taken or name in space.models:
        number += 1
        name = f"{title} ({number})"
    return name


def read_model(space: Workspace, chosen: ModelFile, progress: Progress) -> UploadedModel:
    """Reads a model's file, or has it from a moment ago; for a job.

    Raises:
        CancelledError: The job was cancelled.
        QlabError: The file is refused.
    """
    from qlab.io.uploads import open_model

    key = (chosen.file, chosen.architecture)
    if (known := _RECENT.get(key)) is not None:
        return known
    with _turn(progress):
        progress.report(0, 2, f"reading {chosen.title}")
        found = open_model(
            content(space, chosen.file, chosen.title),
            chosen.architecture or None,
            name=chosen.title,
            limits=limits(),
            should_stop=progress.should_stop,
        )
    progress.report(1, 2, "checked and built")
    _RECENT[key] = found
    while len(_RECENT) > MOST_RECENT:
        _RECENT.pop(next(iter(_RECENT)), None)
    return found


def read_samples(
    space: Workspace, chosen: SampleFile, model: UploadedModel, progress: Progress
) -> FileData:
    """Reads data and fits them to a model; for a job.

    Raises:
        CancelledError: The job was cancelled.
        QlabError: The file is refused, or does not fit the model.
    """
    from qlab.cli.files import data_for

    with _turn(progress):
        progress.report(0, 2, f"reading {chosen.title}")
        found = data_for(
            model,
            chosen.title,
            preprocessing(chosen),
            content=content(space, chosen.file, chosen.title),
            limits=limits(),
            should_stop=progress.should_stop,
        )
    progress.report(1, 2, "fitted to the model")
    return found


def preprocessing(chosen: SampleFile) -> Preprocessing:
    """What is done to images of a file."""
    from qlab.io.uploads import Preprocessing

    size = (chosen.height, chosen.width) if chosen.height and chosen.width else None
    return Preprocessing(size, None, chosen.mean, chosen.std)


@contextmanager
def _turn(progress: Progress) -> Iterator[None]:
    """Waits for a turn to read; turns what a stopped reading raises into the job's end."""
    from qlab.io.uploads import StoppedError

    progress.report(0, 2, "waiting for other files to be read")
    while not _READING.acquire(timeout=_POLL):
        if progress.should_stop():
            raise CancelledError
    try:
        yield
    except StoppedError as error:
        raise CancelledError from error
    finally:
        _READING.release()


def add_model(space: Workspace, name: str, chosen: ModelFile) -> None:
    """Puts a model that was read on offer."""
    space.set_model(name, chosen)
    tidy(space)


def remove_model(space: Workspace, name: str) -> None:
    """Forgets a model, its data and its files."""
    space.forget_model(name)
    tidy(space)


def identity(space: Workspace | None, model: str) -> str:
    """What numbers of a model are kept under: its name, and the hashes of what was uploaded."""
    if space is None:
        return model
    file, data = space.models.get(model), space.samples.get(model)
    parts = [model]
    if file is not None:
        parts.append(f"{file.file[:8]}{':' if file.architecture else ''}{file.architecture}")
    if data is not None:
        fields = hashlib.sha256(repr(replace(data, title="")).encode()).hexdigest()
        parts.append(f"data {fields[:8]}")
    return " · ".join(parts)
