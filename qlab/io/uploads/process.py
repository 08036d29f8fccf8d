"""The process that uploads are read in: bounded memory and time, and data as its only result.

Parent to child: a request (JSON) and the file. Child to parent: a reply (JSON) and a safetensors
file; or an error by the name of its class and its words. Each part is preceded by its length.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save
from torch import Tensor

from qlab import errors
from qlab.errors import FormatError, QlabError
from qlab.io.uploads import strict_json
from qlab.io.uploads.arrays import read_arrays, read_safetensors
from qlab.io.uploads.images import Preprocessing
from qlab.io.uploads.limits import Limits
from qlab.io.uploads.models import unpack
from qlab.io.uploads.strict_json import shown

Parts = tuple[dict[str, Any], dict[str, Tensor]]
_LENGTH = 8
_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, QlabError)
}
Options = dict[str, Any]
Stop = Callable[[], bool]
_POLL_SECONDS = 0.05


def _read_data(content: bytes, name: str, limits: Limits, options: Options) -> Parts:
    return read_arrays(content, name, limits, Preprocessing.of(options))


_READERS: dict[str, Callable[[bytes, str, Limits, Options], Parts]] = {
    "model": lambda content, _name, limits, _options: unpack(content, limits),
    "data": _read_data,
}


class StoppedError(QlabError, RuntimeError):
    """The reading of a file was stopped because its caller asked for that."""


def read_apart(
    kind: str,
    content: bytes,
    name: str,
    limits: Limits,
    *,
    options: Options | None = None,
    should_stop: Stop | None = None,
) -> Parts:
    """Reads a file in a process of its own.

    Args:
        kind: ``"model"`` or ``"data"``.
        content: The file.
        name: What it is called, for messages.
        limits: What that process may take.
        options: Of data: the fields of `Preprocessing` for its images.
        should_stop: Asked while the process works; it is ended at once where that says so.

    Raises:
        StoppedError: It was asked to stop.
        QlabError: What the reading raised.
        FormatError: The process ran out of time or memory, or died.
    """
    asked = {"kind": kind, "name": name, "limits": asdict(limits), "options": options or {}}
    request = json.dumps(asked).encode()
    code = "from qlab.io.uploads.process import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        cwd="/",
    )
    assert child.stdin is not None and child.stdout is not None
    seconds = limits.startup_seconds + limits.seconds
    watch = _Watch(child, seconds, should_stop)
    writer = threading.Thread(target=_write_all, args=(child.stdin, request, content), daemon=True)
    watch.start()
    writer.start()
    most = 2 * limits.json_bytes + limits.unpacked_bytes + 2 * _LENGTH
    try:
        reply = child.stdout.read(most + 1)
    finally:
        watch.done.set()
        child.kill()
        child.wait()
        child.stdout.close()
        writer.join()
    if watch.stopped:
        raise StoppedError(f"Reading the file {shown(name)} was stopped, as asked")
    if watch.late:
        raise _too_long(f"more than {seconds} s", limits)
    limits.check("unpacked_bytes", len(reply) - 2 * limits.json_bytes, "The model is too large")
    return _parts(reply, child.returncode, limits)


class _Watch(threading.Thread):
    """Ends a process that takes too long, or whose result nobody wants any more."""

    def __init__(
        self, child: subprocess.Popen[bytes], seconds: float, should_stop: Stop | None
    ) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.late = self.stopped = False
        self._child, self._should_stop = child, should_stop
        self._end = time.monotonic() + seconds

    def run(self) -> None:
        while not self.done.wait(_POLL_SECONDS):
            self.late = time.monotonic() > self._end
            self.stopped = self._should_stop is not None and self._should_stop()
            if self.late or self.stopped:
                self._child.kill()
                return


def _environment() -> dict[str, str]:
    """What a Python needs to find qlab and its dependencies, and no more."""
    home = str(Path(errors.__file__).parent.parent)
    kept = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH", "HOME") if k in os.environ}
    paths = [home, *(p for p in sys.path if p)]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def _write_all(stream: IO[bytes], *parts: bytes) -> None:
    try:
        with stream:
            for part in parts:
                stream.write(len(part).to_bytes(_LENGTH, "little") + part)
    except OSError:
        return  # the process died; what it left says why


def _parts(reply: bytes, code: int, limits: Limits) -> Parts:
    size = int.from_bytes(reply[:_LENGTH], "little")
    body = reply[_LENGTH : _LENGTH + size]
    if len(reply) < _LENGTH or len(body) != size:
        raise _died(code, limits)
    data = strict_json.load(body, "The reply", _wider(limits))
    data = strict_json.of(data, dict, "the reply")
    if "error" in data:
        raise _restored(data["error"])
    rest = reply[_LENGTH + size :]
    length = int.from_bytes(rest[:_LENGTH], "little")
    if len(rest) != _LENGTH + length:
        raise _died(code, limits)
    return data, read_safetensors(rest[_LENGTH:], _wider(limits)) if length else {}


def _wider(limits: Limits) -> Limits:
    """The reply nests the program once more, and may need more characters for it."""
    return Limits(
        json_bytes=2 * limits.json_bytes,
        json_depth=limits.json_depth + 2,
        tensors=limits.tensors + 1,
    )


def _restored(data: Any) -> QlabError:
    entry = strict_json.of(data, dict, "the error")
    kind = _ERRORS.get(str(entry.get("class")), FormatError)
    words = {k: str(entry[k]) for k in ("expected", "received", "fix") if entry.get(k) is not None}
    return kind(str(entry.get("problem"))[:2000], **words)  # type: ignore[arg-type]


def _too_long(received: str, limits: Limits) -> FormatError:
    return FormatError(
        "Reading the file takes too long",
        expected=f"at most {limits.seconds} s",
        received=received,
        fix="If you trust the file, allow more with Limits(seconds=…), or QLAB_UPLOAD_SECONDS.",
    )


def _died(code: int, limits: Limits) -> FormatError:
    return FormatError(
        "Reading the file was stopped: it ran out of memory or time, or broke the reading process",
        expected=f"at most {limits.memory_bytes} bytes and {limits.seconds} s",
        received=f"exit code {code}",
        fix="If you trust the file, allow more with Limits(memory_bytes=…, seconds=…), or for the "
        "command and the app with QLAB_UPLOAD_MEMORY_BYTES and QLAB_UPLOAD_SECONDS.",
    )


# In the child


def main() -> None:
    """Reads one request from standard input and writes one reply to standard output."""
    torch.set_num_threads(1)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    source = sys.stdin.buffer
    request = json.loads(source.read(int.from_bytes(source.read(_LENGTH), "little")))
    content = source.read(int.from_bytes(source.read(_LENGTH), "little"))
    limits = Limits(**request["limits"])
    confine(limits)
    options = request["options"]
    _write_all(replies, *answer(request["kind"], content, request["name"], limits, options))


def confine(limits: Limits) -> None:
    """Bounds this process for good: memory beyond what it has, processor time, no files."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + limits.memory_bytes
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + limits.seconds + 1
    bounds = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for bound, value in bounds.items():
        hard = resource.getrlimit(bound)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(bound, (value, value))


def answer(
    kind: str, content: bytes, name: str, limits: Limits, options: Options | None = None
) -> tuple[bytes, bytes]:
    """The reply to a request: JSON and safetensors."""
    try:
        data, tensors = _READERS[kind](content, name, limits, options or {})
        return json.dumps(data).encode(), save(_contiguous(tensors)) if tensors else b""
    except QlabError as error:
        words = {k: getattr(error, k) for k in ("problem", "expected", "received", "fix")}
        described = {k: None if v is None else str(v)[:2000] for k, v in words.items()}
        return json.dumps({"error": {"class": type(error).__name__, **described}}).encode(), b""
    except MemoryError:
        problem = "Reading the file takes more memory than allowed"
        words = {"expected": f"at most {limits.memory_bytes} bytes"}
        return json.dumps({"error": {"problem": problem, **words}}).encode(), b""


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
