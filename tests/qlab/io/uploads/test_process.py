"""Uploads are read in a process with limits, and only data comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import qlab
from qlab.errors import ArgumentError, FormatError, UnsupportedError
from qlab.io import uploads
from qlab.io.uploads import Limits, StoppedError, process
from tests.upload_files import nested_archive, nested_model, npz, small_archive


def test_a_model_comes_back_from_the_other_process(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(nested_archive())
    model = qlab.load_model(path)
    ids, mask = torch.ones(3, 4, dtype=torch.long), torch.ones(3, 4, dtype=torch.bool)
    with torch.no_grad():
        expected, received = nested_model()(ids, mask=mask), model(ids, mask)
    torch.testing.assert_close(received, expected, rtol=0, atol=1e-6)
    with pytest.raises(ArgumentError, match="which holds its own architecture"):
        qlab.load_model(path, "mlp")


def test_the_process_ends_as_soon_as_nobody_wants_its_result() -> None:
    asked = []

    def stop() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    began = time.monotonic()
    with pytest.raises(StoppedError, match=r"'small\.pt2' was stopped, as asked"):
        uploads.read(small_archive(), "small.pt2", should_stop=stop)
    assert len(asked) == 3 and time.monotonic() - began < 1  # starting it alone takes longer


def test_errors_and_calibration_data_come_back_too() -> None:
    data = uploads.read_data(npz(x=torch.ones(3, 2).numpy(), labels=[0, 1, 2]), "data.npz")
    assert data.inputs["x"].tolist() == [[1, 1]] * 3 and data.labels is not None
    with pytest.raises(FormatError, match=r"truncated or damaged.*Save or upload it again"):
        uploads.read(small_archive()[:100], "model.pt2")


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ("bytearray(10**12)", "more memory than allowed"),
        ("torch.zeros(10**12)", "out of memory or time, or broke"),
        ("sum(1 for _ in iter(int, 1))", "out of memory or time, or broke"),
        ("os.kill(os.getpid(), 11)", "exit code -11"),
        ("time.sleep(1000)", "takes too long"),
        ("print('noise') or os.write(1, b'noise') and ({}, {})", None),
        ("open('/tmp/qlab-upload-test', 'wb').write(bytes(100))", "out of memory or time, or"),
    ],
)
def test_the_process_is_bounded(
    reading: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = (
        "import os, sys, time, torch; from qlab.io.uploads import process;"
        f"process._READERS['data'] = lambda *_: {reading}; process.main()"
    )
    popen = subprocess.Popen

    def start(_: object, **options: object) -> object:
        return popen([sys.executable, "-c", hostile], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(process.subprocess, "Popen", start)
    seconds = 1 if "sleep" in reading else 300
    limits = Limits(seconds=1, startup_seconds=20 if seconds == 1 else seconds)
    if message is None:
        assert process.read_apart("data", b"x", "x", limits) == ({}, {})
        return
    with pytest.raises(FormatError, match=message):
        process.read_apart("data", b"x", "x", limits)


def test_a_reply_that_is_no_data_is_refused() -> None:
    limits = Limits()
    for reply in (b"", b"\1", (5).to_bytes(8, "little") + b"{}", bytes(8)):
        with pytest.raises(FormatError):
            process._parts(reply, 0, limits)
    error = b'{"error": {"class": "OSError", "problem": "x"}}'
    with pytest.raises(FormatError, match="x"):
        process._parts(len(error).to_bytes(8, "little") + error + bytes(8), 0, limits)
    known = b'{"error": {"class": "UnsupportedError", "problem": "x"}}'
    with pytest.raises(UnsupportedError, match="x"):
        process._parts(len(known).to_bytes(8, "little") + known + bytes(8), 0, limits)
