"""Files are written whole or not at all, whatever fails."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import qlab
from qlab import QConfig, QConfigMapping
from qlab.errors import ArgumentError, UnknownNameError
from qlab.io.exports import WRITERS
from qlab.observers import MinMaxObserver, default_weight_observer


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    return qlab.Lab(model, torch.randn(1, 6), [torch.randn(16, 6)])


@pytest.mark.parametrize("suffix", WRITERS)
class TestWholeOrNotAtAll:
    def test_every_suffix_is_written_over_what_was_there(self, lab, suffix, tmp_path):
        path = tmp_path / f"model{suffix}"
        path.write_text("old")
        assert lab.export(path, "int8") == path
        assert path.stat().st_size > 100
        assert [*tmp_path.iterdir()] == [path]

    def test_a_disk_that_fills_up_leaves_the_old_file(self, lab, suffix, tmp_path, monkeypatch):
        path = tmp_path / f"model{suffix}"
        path.write_text("old")
        opened = os.fdopen

        class Full:
            """A file that takes half of what it is given."""

            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, content):
                self.file.write(content[: len(content) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fdopen", lambda handle, mode: Full(opened(handle, mode)))
        with pytest.raises(ArgumentError, match=r"unchanged[\s\S]*No space left"):
            lab.export(path, "int8")
        assert path.read_text() == "old"
        assert [*tmp_path.iterdir()] == [path]

    def test_a_writer_that_fails_leaves_the_old_file(self, lab, suffix, tmp_path, monkeypatch):
        path = tmp_path / f"model{suffix}"
        path.write_text("old")

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setitem(WRITERS, suffix, interrupted)
        with pytest.raises(KeyboardInterrupt):
            lab.export(path, "int8")
        assert path.read_text() == "old"
        assert [*tmp_path.iterdir()] == [path]

    def test_a_folder_that_is_missing_is_named(self, lab, suffix, tmp_path):
        with pytest.raises(ArgumentError, match="a folder that exists"):
            lab.export(tmp_path / "none" / f"model{suffix}")


def test_others_may_read_a_file_as_any_other_or_as_they_could(lab, tmp_path):
    other, path = tmp_path / "other", tmp_path / "model.json"
    other.touch()
    assert lab.export(path).stat().st_mode == other.stat().st_mode
    path.chmod(0o640)
    assert lab.export(path).stat().st_mode & 0o777 == 0o640


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.json"
    path.write_text("old")
    code = f"""
import os, signal
from pathlib import Path
from qlab.io.files import write_atomically
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path({str(path)!r}), bytes(1_000_000))
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.parametrize("suffix", [".json", ".py", ".html"])
def test_what_no_file_can_name_leaves_nothing(lab, suffix, tmp_path):
    class Mine(MinMaxObserver):
        pass

    mapping = QConfigMapping().set_global(QConfig(Mine, default_weight_observer))
    with pytest.raises(UnknownNameError, match="Mine"):
        lab.export(tmp_path / f"model{suffix}", mapping)
    assert [*tmp_path.iterdir()] == []


def test_another_suffix_is_refused_with_those_that_are_known(lab, tmp_path):
    with pytest.raises(
        ArgumentError, match=r"\.safetensors, \.onnx, \.pt2, \.json, \.py or \.html"
    ):
        lab.export(tmp_path / "model.pickle")
    assert [*tmp_path.iterdir()] == []
