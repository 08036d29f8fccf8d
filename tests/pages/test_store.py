"""Workspaces: found by their id alone, kept over a restart, bounded, saved whole."""

import re
import stat
import threading
from pathlib import Path

import pytest

from pages.common import saved
from pages.common.store import Store, data_folder
from pages.common.workspace import Choice, Draft, Workspace
from qlab import QConfigMapping
from qlab.errors import FormatError
from qlab.observers import ObserverBase
from qlab.qconfig import QConfig
from qlab.ranges import Percentile, TensorSpec

CHOICE = Choice("mlp", "int8", 64)
FOUR_BITS = Draft(TensorSpec.int8_weight().with_bits(4), TensorSpec.uint8_activation())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workspaces"


def used(store: Store) -> Workspace:
    """A workspace in which a bit of everything was done."""
    space = store.new()
    space.choose(CHOICE)
    space.select("mlp", "fc2")
    space.set("order", "worst first")
    space.refresh(CHOICE)
    space.apply(CHOICE, "fc2", FOUR_BITS)
    activation = TensorSpec.uint8_activation(policy=Percentile(99.5))
    space.set_draft(CHOICE, "fc1", Draft(None, activation, in_float=True))
    space.refuse(CHOICE, {"fc3": {"weight bits": "float8 e4m3", "weight observer": "entropy"}})
    return space


def state(space: Workspace) -> dict[str, object]:
    """What of a workspace is saved."""
    names = ("id", "choice", "selected", "settings", "history", "shown", "drafts", "refused")
    return {name: getattr(space, name) for name in names}


def test_an_id_has_128_random_bits(folder: Path):
    ids = {Store(folder).new().id for _ in range(64)}
    assert len(ids) == 64
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)
    # Every bit takes both values: nothing of the id is fixed. Fails once in 2^57 runs.
    assert all({int(id, 16) >> bit & 1 for id in ids} == {0, 1} for bit in range(128))


@pytest.mark.parametrize(
    "id",
    [None, "", "0" * 32, "../" + "0" * 29, "0" * 31, "0" * 33, "G" * 32, "٠" * 32, 7],
    ids=repr,
)
def test_what_is_no_known_id_finds_nothing(folder: Path, id: object):
    store = Store(folder)
    used(store)
    assert store.find(id) is None


def test_the_id_finds_the_very_workspace(folder: Path):
    store = Store(folder)
    first, second = used(store), used(store)
    assert store.find(first.id) is first
    assert store.find(second.id) is second


def test_a_workspace_survives_a_restart(folder: Path):
    store = Store(folder)
    space = used(store)
    store.save(space)
    again = Store(folder).find(space.id)
    assert again is not None and again is not space
    assert state(again) == state(space)
    assert again.changes(CHOICE) == 1
    again.undo(CHOICE)
    assert again.mapping(CHOICE) == again.shown["outcome", CHOICE]


def test_only_its_owner_may_read_the_folder(folder: Path):
    store = Store(folder)
    store.save(used(store))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_was_never_changed_is_not_written_and_what_was_not_changed_again_not_twice(
    folder: Path,
):
    store = Store(folder)
    store.save(store.new())
    assert not folder.exists()
    space = used(store)
    store.save(space)
    (path,) = folder.glob("*.json")
    path.unlink()
    store.save(space)
    assert not list(folder.iterdir())
    space.undo(CHOICE)
    store.save(space)
    assert [p.name for p in folder.iterdir()] == [f"{space.id}.json"]


def test_memory_is_bounded_and_what_leaves_it_comes_back_from_disk(folder: Path):
    store = Store(folder, in_memory=2)
    spaces = [used(store) for _ in range(4)]
    assert len(store._spaces) == 2
    back = store.find(spaces[0].id)
    assert back is not None and back is not spaces[0]
    assert state(back) == state(spaces[0])


def test_the_oldest_files_make_room(folder: Path):
    import os

    store = Store(folder)
    spaces = [used(store) for _ in range(3)]
    for age, space in enumerate(spaces):
        store.save(space)
        (folder / f"{space.id}.sqlite").touch()
        os.utime(folder / f"{space.id}.json", (1e9 - age, 1e9 - age))
    left = {path.name for path in Store(folder, on_disk=2).folder.iterdir()}
    assert left == {f"{s.id}{suffix}" for s in spaces[:2] for suffix in (".json", ".sqlite")}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 2}'], ids=repr
)
def test_a_file_that_is_no_workspace_is_none(
    folder: Path, text: str, caplog: pytest.LogCaptureFixture
):
    folder.mkdir()
    (folder / f"{'0' * 32}.json").write_text(text)
    assert Store(folder).find("0" * 32) is None
    assert "a saved workspace cannot be read" in caplog.text


def test_another_version_says_so():
    with pytest.raises(FormatError, match="saved by another version of qlab"):
        saved.from_json('{"version": 99}', "0" * 32)


def test_a_configuration_without_json_form_is_left_out_and_the_rest_saved(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    class Own(ObserverBase):
        pass

    store = Store(folder)
    space = used(store)
    own = QConfigMapping().set_global(QConfig(Own, Own))
    space.configure(CHOICE, own)
    store.save(space)
    assert "a configuration is not saved" in caplog.text
    again = Store(folder).find(space.id)
    assert again is not None
    assert again.history["mlp", "int8"] == space.history["mlp", "int8"][:-1]
    assert again.selected == space.selected


def test_a_folder_that_cannot_be_written_is_logged_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "workspaces")
    space = used(store)
    store.save(space)
    assert "workspaces cannot be saved" in caplog.text
    assert store.find(space.id) is space


def test_many_threads_change_and_save_one_workspace(folder: Path):
    store = Store(folder)
    space = used(store)
    changes = 40

    def work(thread: int) -> None:
        for step in range(changes):
            space.select(f"model {thread}.{step}", "fc1")
            space.set_draft(CHOICE, f"{thread}.{step}", FOUR_BITS)
            store.save(space)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Store(folder).find(space.id)
    assert again is not None
    assert len(again.selected) == 4 * changes + 1
    assert state(again) == state(space)


def test_the_data_folder_is_qlab_data_or_that_of_the_user(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QLAB_DATA", "/somewhere/else")
    assert data_folder() == Path("/somewhere/else")
    monkeypatch.delenv("QLAB_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert data_folder().name == "qlab"


def test_where_runs_cannot_be_saved_they_are_kept_until_the_server_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "workspaces")
    space = used(store)
    runs = store.runs(space)
    assert "runs cannot be saved" in caplog.text
    runs.add(space.mapping(CHOICE), {"sqnr": 20.0})
    assert len(store.runs(space)) == 1
