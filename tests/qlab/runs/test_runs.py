import gc
import math
import os
import random
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlab import QConfigMapping, presets
from qlab.errors import ArgumentError, DTypeError, FormatError, QlabError, UnknownNameError
from qlab.observers import MinMaxObserver
from qlab.qconfig import QConfig
from qlab.runs import Runs

ROOT = Path(__file__).parents[3]
INT8, INT4 = (presets.get(name).mapping() for name in ("int8", "int4-weights"))


def table(**columns: list) -> pd.DataFrame:
    rows = [f"layer{i}" for i in range(len(next(iter(columns.values()))))]
    return pd.DataFrame(columns, index=pd.Index(rows, name="layer"))


def test_a_run_is_read_back_as_it_was_added(tmp_path):
    layers = table(
        type=["Conv2d", "Linear"], sqnr=[31.5, math.inf], bytes=[10, 20], on=[True, False]
    )
    before = datetime.now(UTC)
    added = Runs(tmp_path / "runs.sqlite").add(
        INT8, {"accuracy": 97.5, "sqnr": math.inf, "odd": math.nan, "low": -math.inf},
        name="first", layers=layers, seconds=1.5, subject="mlp",
    )  # fmt: skip
    run = Runs(tmp_path / "runs.sqlite").get(added.id)
    assert run == added
    assert (run.id, run.name, run.parent, run.seconds, run.subject) == (
        1,
        "first",
        None,
        1.5,
        "mlp",
    )
    assert run.mapping == INT8
    assert run.metrics.pop("odd") != run.metrics
    assert run.metrics == {"accuracy": 97.5, "sqnr": math.inf, "low": -math.inf}
    assert run.created.tzinfo == UTC and before - timedelta(seconds=1) < run.created
    pd.testing.assert_frame_equal(run.layers, layers)


def test_runs_come_oldest_first_and_know_their_parents():
    runs = Runs()
    assert len(runs) == 0 and runs.latest() is None and bool(runs)
    first = runs.add(INT8, {})
    second = runs.add(INT4, {}, parent=first.id)
    assert [run.name for run in runs] == ["run 1", "run 2"]
    assert second.parent == first.id and runs.latest() == second
    assert runs.get(1).layers is None


def test_undo_goes_back_to_the_parent_and_what_follows_branches_there():
    runs = Runs()
    ids = [runs.record(m, {}, subject="net").id for m in (INT8, INT4)]
    runs.record(INT8, {}, subject="another net")
    assert runs.get(ids[1]).parent == ids[0]
    assert runs.undo("net").id == ids[0]
    branch = runs.record(presets.get("float8").mapping(), {}, subject="net")
    assert branch.parent == ids[0]
    assert len(runs.of("net")) == 3
    assert runs.go_to(ids[1]).id == runs.latest("net").id == ids[1]


def test_undo_without_a_parent_says_so():
    runs = Runs()
    with pytest.raises(
        ArgumentError, match=r"nothing to undo.*a latest run with a parent.*no runs"
    ):
        runs.undo()
    runs.add(INT8, {}, name="one")
    with pytest.raises(ArgumentError, match="'one', a first run"):
        runs.undo()


def test_an_equal_mapping_measured_again_updates_its_run():
    runs = Runs()
    one = QConfigMapping().set_module_name("a", None).set_module_name("b", None)
    same = QConfigMapping().set_module_name("b", None).set_module_name("a", None)
    first = runs.record(one, {"accuracy": 1.0}, subject="net", name="kept")
    runs.record(INT8, {}, subject="net")
    again = runs.record(same, {"accuracy": 2.0}, subject="net", name="ignored")
    assert (again.id, again.name, again.created) == (first.id, "kept", first.created)
    assert again.metrics == {"accuracy": 2.0} and len(runs) == 2
    assert runs.latest().id == first.id
    assert runs.record(same, {}, subject="other data").id != first.id


def test_the_order_of_patterns_makes_another_run():
    runs = Runs()
    one = QConfigMapping().set_module_name_regex("a", None).set_module_name_regex(".", None)
    other = QConfigMapping().set_module_name_regex(".", None).set_module_name_regex("a", None)
    assert one != other
    assert runs.record(one, {}, subject="").id != runs.record(other, {}, subject="").id


def test_rename():
    runs = Runs()
    runs.add(INT8, {}, name="old")
    assert runs.rename(1, "new").name == runs.get(1).name == "new"
    with pytest.raises(ArgumentError, match="A run needs a name"):
        runs.rename(1, " ")
    with pytest.raises(UnknownNameError, match=r"Unknown run 2.*one of: 1"):
        runs.rename(2, "x")


def test_a_mapping_with_an_unregistered_callable_is_refused_before_anything_is_written():
    runs = Runs()
    mapping = QConfigMapping().set_global(QConfig(lambda: MinMaxObserver(), MinMaxObserver))
    with pytest.raises(QlabError, match="lambda"):
        runs.add(mapping, {})
    assert len(runs) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("int8", {}), DTypeError, "A run keeps a configuration"),
        ((INT8, {"accuracy": "high"}), ArgumentError, "metric 'accuracy' is not a number"),
        ((INT8, {"accuracy": None}), ArgumentError, "metric 'accuracy' is not a number"),
    ],
)
def test_silly_runs_are_refused(arguments, error, message):
    runs = Runs()
    with pytest.raises(error, match=message):
        runs.add(*arguments)
    with pytest.raises(UnknownNameError, match="Unknown run 7"):
        runs.add(INT8, {}, parent=7)
    with pytest.raises(UnknownNameError, match="Unknown run '1'"):
        runs.get("1")
    assert len(runs) == 0


def test_layer_tables_that_cannot_be_kept_are_refused():
    runs = Runs()
    with pytest.raises(ArgumentError, match="The column 'what' cannot be kept"):
        runs.add(INT8, {}, layers=table(what=[object()]))
    with pytest.raises(ArgumentError, match="Not a table of layers"):
        runs.add(INT8, {}, layers=[1, 2])
    assert len(runs) == 0


def test_two_runs_layer_by_layer():
    runs = Runs()
    runs.add(INT8, {}, layers=table(type=["A", "B"], sqnr=[30.0, math.inf]))
    runs.add(INT4, {}, layers=table(type=["A", "B", "C"], sqnr=[20.5, math.inf, 9.0]))
    compared = runs.compare(1, 2)
    assert list(compared.columns) == ["type_a", "type_b", "sqnr_a", "sqnr_b", "sqnr_change"]
    assert list(compared.index) == ["layer0", "layer1", "layer2"]
    assert compared["sqnr_change"].tolist()[:2] == [-9.5, 0.0]
    assert math.isnan(compared.loc["layer2", "sqnr_change"])
    runs.add(INT4, {}, name="bare")
    with pytest.raises(ArgumentError, match=r"Run 3 \('bare'\) was kept without its layers"):
        runs.compare(1, 3)


def test_one_column_that_only_one_table_has_stands_alone():
    runs = Runs()
    runs.add(INT8, {}, layers=table(sqnr=[1.0]))
    runs.add(INT8, {}, layers=table(nmse=[2.0]))
    assert list(runs.compare(1, 2).columns) == ["sqnr_a", "nmse_b"]


@given(
    st.lists(
        st.tuples(st.floats(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.text()),
        max_size=5,
    )
)
def test_any_table_of_numbers_and_text_survives(rows):
    names = ("float", "int", "bool", "text")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)} if rows else {}
    layers = pd.DataFrame(
        columns, index=pd.Index(map(str, range(len(rows))), dtype="str", name="layer")
    )
    runs = Runs()
    kept = runs.add(INT8, {}, layers=layers).layers
    pd.testing.assert_frame_equal(kept, layers)
    runs.close()


def test_layers_are_kept_compactly(tmp_path):
    layers = table(type=["Conv2d"] * 1000, **{f"m{i}": [0.1 * i] * 1000 for i in range(20)})
    Runs(tmp_path / "runs.sqlite").add(INT8, {}, layers=layers)
    assert (tmp_path / "runs.sqlite").stat().st_size < 0.1 * layers.memory_usage().sum() + 50_000


# Whose file it is


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "x.sqlite").write_bytes(b"hello, this is no database at all" * 100)
    with pytest.raises(FormatError, match="The store of runs is not readable"):
        Runs(tmp_path / "x.sqlite")


def test_a_database_of_somebody_else_stays_as_it_is(tmp_path):
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(FormatError, match="An SQLite file, but not a store of runs"):
        Runs(path)
    assert path.read_bytes() == before


def test_a_store_of_another_version(tmp_path):
    path = tmp_path / "x.sqlite"
    Runs(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 9")
    other.close()
    with pytest.raises(FormatError, match=r"another version.*version 1.*version 9.*the qlab that"):
        Runs(path)


def test_a_damaged_store(tmp_path):
    path = tmp_path / "x.sqlite"
    runs = Runs(path)
    for _ in range(20):
        runs.add(INT8, {}, layers=table(sqnr=[random.random() for _ in range(500)]))
    runs.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(FormatError, match="The store of runs is not readable"):
        list(Runs(path))


def test_places_where_no_file_can_be(tmp_path):
    with pytest.raises(ArgumentError, match="cannot be opened there"):
        Runs(tmp_path / "nowhere" / "runs.sqlite")
    with pytest.raises(ArgumentError, match="cannot be opened there"):
        Runs(tmp_path)
    with pytest.raises(DTypeError, match="a path, or None for a private file"):
        Runs(3)


def test_a_store_that_somebody_holds_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("qlab.runs.database._PATIENCE", 0.05)
    runs = Runs(tmp_path / "runs.sqlite")
    holder = sqlite3.connect(tmp_path / "runs.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(QlabError, match=r"out of order: database is locked.*another program"):
        runs.add(INT8, {})
    holder.close()
    assert runs.add(INT8, {}).id == 1


def test_a_private_store_goes_with_its_object():
    runs = Runs()
    runs.add(INT8, {})
    folder = runs.path.parent
    assert runs.path.exists()
    del runs
    gc.collect()
    assert not folder.exists()


# Many writers, and the end of one


def test_threads_write_at_once_each_with_its_own_connection(tmp_path):
    runs, errors = Runs(tmp_path / "runs.sqlite"), []

    def write(thread: int) -> None:
        try:
            for i in range(10):
                runs.add(INT8, {"i": i}, name=f"{thread}/{i}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    names = [run.name for run in runs]
    assert sorted(names) == sorted(f"{t}/{i}" for t in range(8) for i in range(10))
    for t in range(8):
        mine = [name for name in names if name.startswith(f"{t}/")]
        assert mine == [f"{t}/{i}" for i in range(10)]
    gc.collect()
    assert len(runs._open) == 1  # those of ended threads are closed


def test_threads_that_start_a_store_at_once_and_record_the_same_make_one_run():
    for _ in range(10):
        runs, ready = Runs(), threading.Barrier(8)

        def record(runs: Runs = runs, ready: threading.Barrier = ready) -> int:
            ready.wait()
            return runs.record(INT8, {}, subject="net").id

        with ThreadPoolExecutor(8) as pool:
            assert {future.result() for future in [pool.submit(record) for _ in range(8)]} == {1}
        assert len(runs) == 1


WRITER = """
import sys
from qlab import presets
from qlab.runs import Runs
import pandas as pd
runs, mapping = Runs(sys.argv[1]), presets.get("int8").mapping()
layers = pd.DataFrame({"sqnr": [1.0] * 2000}, index=[str(i) for i in range(2000)])
for i in range(int(sys.argv[3])):
    runs.add(mapping, {"i": i}, name=f"{sys.argv[2]}/{i}", layers=layers)
    print(i, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )


def test_processes_write_at_once_and_may_make_the_file_at_once(tmp_path):
    path = tmp_path / "runs.sqlite"
    processes = [writer(path, name, 20) for name in "ab"]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all(len(output.split()) == 20 for output in outputs)
    names = {run.name for run in Runs(path)}
    assert names == {f"{name}/{i}" for name in "ab" for i in range(20)}


KILLER = """
import os, random, signal, sys, time
from qlab import presets
from qlab.runs import Runs
import pandas as pd
path, mapping, confirmed = sys.argv[1], presets.get("int8").mapping(), 0
layers = pd.DataFrame({"sqnr": [1.0] * 2000}, index=[str(i) for i in range(2000)])
for attempt in range(8):
    reader, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        runs = Runs(path)
        while True:
            runs.add(mapping, {}, layers=layers)
            os.write(pipe, b".")
    os.close(pipe)
    os.read(reader, 1)
    time.sleep(random.uniform(0.0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    confirmed += 1
    while added := os.read(reader, 1000):
        confirmed += len(added)
    print(confirmed, len(runs := Runs(path)), flush=True)
    confirmed = len(runs)
    runs.close()
"""


def test_what_was_added_survives_a_kill_at_any_moment(tmp_path):
    path = tmp_path / "runs.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    counts = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(counts) == 8
    for confirmed, found in counts:
        assert confirmed <= found <= confirmed + 1
    runs = Runs(path)
    assert runs.add(INT8, {}, layers=table(sqnr=[1.0] * 2000)).id == counts[-1][1] + 1
    for run in runs:
        assert run.mapping == INT8 and len(run.layers) == 2000


# Rows as data


def test_dump_and_restore_keep_numbers_parents_and_dates(tmp_path):
    runs = Runs()
    first = runs.add(INT8, {"sqnr": math.inf}, layers=table(sqnr=[1.0]), subject="net")
    runs.add(INT4, {}, parent=first.id, name="second", subject="net")
    copy = Runs(tmp_path / "copy.sqlite")
    copy.restore(runs.dump())
    assert list(copy) == list(runs)
    assert copy.dump() == runs.dump()
    copy.restore(runs.dump())
    assert len(copy) == 2
    other = Runs()
    other.add(INT4, {}, name="there before")
    other.restore(runs.dump())
    assert [(run.name, run.parent) for run in other] == [
        ("there before", None), ("run 1", None), ("second", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        {"id": "1"},
        {"mapping": "{}"},
        {"metrics": "[]"},
        {"created": "yesterday"},
        {"layers": "zz"},
        {"layers": "00"},
        {"extra": 1},
    ],
)
def test_rows_that_are_none_are_refused_whole(damage):
    runs = Runs()
    runs.add(INT8, {})
    rows = [*runs.dump(), runs.dump()[0] | damage]
    target = Runs()
    with pytest.raises(FormatError, match="Not a stored run"):
        target.restore(rows)
    assert len(target) == 0


@pytest.mark.parametrize("column", ["mapping", "metrics", "created"])
def test_what_is_damaged_of_a_run_names_the_run(tmp_path: Path, column: str):
    runs = Runs(tmp_path / "runs.sqlite")
    runs.add(INT8, {}, name="whole")
    damaged = runs.add(INT4, {}, name="torn").id
    runs.close()
    with sqlite3.connect(tmp_path / "runs.sqlite") as database:
        database.execute(f"UPDATE runs SET {column} = '[{{' WHERE id = ?", (damaged,))
    database.close()
    with pytest.raises(FormatError, match=r"run 2 \('torn'\) is damaged"):
        _ = runs.get(damaged).mapping
    assert runs.get(1).mapping == INT8
