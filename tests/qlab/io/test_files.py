"""Who may read what is written, and what is said where nothing can be."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlab.errors import ArgumentError, DTypeError
from qlab.io.files import path_of, path_with_suffix, write_atomically


@pytest.fixture
def umask() -> Iterator[None]:
    """Whatever umask a test sets, only that test has it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
class TestWhoMayRead:
    @pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
    def test_a_new_file_as_the_process_has_it_now(self, mask, tmp_path):
        os.umask(mask)
        write_atomically(tmp_path / "new", b"x")
        assert _mode(tmp_path / "new") == 0o666 & ~mask
        assert os.umask(0o022) == mask

    @pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o444])
    def test_a_file_that_was_there_as_before(self, before, tmp_path):
        path = tmp_path / "old"
        path.touch()
        path.chmod(before)
        write_atomically(path, b"x")
        assert _mode(path) == before and path.read_bytes() == b"x"

    @pytest.mark.parametrize("before", [None, 0o644])
    def test_a_private_file_by_its_owner_alone(self, before, tmp_path):
        path = tmp_path / "private"
        if before is not None:
            path.touch()
            path.chmod(before)
        os.umask(0)
        write_atomically(path, b"x", private=True)
        assert _mode(path) == 0o600

    def test_no_content_by_more_than_the_file_that_was_there(self, tmp_path, monkeypatch):
        path, modes, opened = tmp_path / "old", [], os.fdopen
        path.touch()
        path.chmod(0o600)

        def watched(handle, mode):
            modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
            return opened(handle, mode)

        monkeypatch.setattr(os, "fdopen", watched)
        write_atomically(path, b"x")
        assert modes == [0o600]


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127], ids=["ASCII", "two bytes a letter"])
def test_a_name_as_long_as_a_folder_takes_is_written(name, tmp_path):
    write_atomically(tmp_path / name, b"x")
    assert [*tmp_path.iterdir()] == [tmp_path / name]


@pytest.mark.parametrize("name", ["n" * 256, "ä" * 128], ids=["ASCII", "two bytes a letter"])
def test_a_name_that_is_too_long_is_said_to_be(name, tmp_path):
    with pytest.raises(ArgumentError, match=rf"under that name.*a shorter name.*{name}"):
        write_atomically(tmp_path / name, b"x")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ArgumentError, match=r"a file's path.*a folder"):
        write_atomically(tmp_path, b"x")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"a folder that exists.*Not a directory"):
        write_atomically(tmp_path / "file" / "inside", b"x")


def test_what_is_no_path_is_refused():
    with pytest.raises(DTypeError, match=r"save_it writes a file.*its path.*int"):
        path_of(3, "save_it")
    with pytest.raises(ArgumentError, match=r"a path that ends in \.json.*x\.txt"):
        path_with_suffix("x.txt", ".json", "save_it")
