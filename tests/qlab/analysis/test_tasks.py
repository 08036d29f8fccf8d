"""Tasks on executors of any kind: stops, failures, and what is kept."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool

import pandas as pd
import pytest
import torch

import qlab
from qlab.analysis.tasks import TaskError, checked_executor, run_tasks
from qlab.errors import DTypeError, UnfinishedError, UnsupportedError
from tests.qlab.analysis.test_hooked import BATCHES, Loops, core
from tests.qlab.analysis.test_sensitivity import lab_for, make_lab, measured, measuring


class AtOnce(Executor):
    """Works where it is handed the task."""

    def __init__(self):
        self.handed = 0

    def submit(self, fn, /, *args, **kwargs):
        self.handed += 1
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Failing(AtOnce):
    """Fails at some task, in some way."""

    def __init__(self, at, how):
        super().__init__()
        self.at, self.how = at, how

    def submit(self, fn, /, *args, **kwargs):
        if self.handed < self.at:
            return super().submit(fn, *args, **kwargs)
        if self.how == "submit":
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = Future()
        if self.how == "cancel":
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(OSError("the worker was lost"))
        return future


def kill(task):
    if task == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_an_executor_that_works_on_submit_is_stopped_within_a_task():
    executor, done = AtOnce(), []
    complete = run_tasks(
        range(100),
        lambda task: task,
        lambda task, result: done.append((task, result)),
        executor=executor,
        should_stop=lambda: executor.handed >= 3,
    )
    assert not complete and executor.handed == 3
    assert done == [(0, 0), (1, 1), (2, 2)]


def test_a_stop_is_asked_before_a_full_pool_is_handed_more():
    asked, done = [], []
    with ThreadPoolExecutor(1) as executor:
        complete = run_tasks(
            range(100),
            lambda task: task,
            lambda *found: done.append(found),
            executor=executor,
            should_stop=lambda: asked.append(1) or len(asked) >= 2,
        )
    assert not complete and len(asked) == 2 and len(done) <= 2


@pytest.mark.parametrize("how", ["submit", "cancel", "worker"])
def test_an_executor_that_fails_leaves_what_others_gave(how):
    done = []
    with pytest.raises(TaskError) as caught:
        run_tasks(range(10), str, lambda *found: done.append(found), executor=Failing(3, how))
    assert caught.value.task == 3
    assert done == [(0, "0"), (1, "1"), (2, "2")]
    kinds = {"submit": RuntimeError, "cancel": CancelledError, "worker": OSError}
    assert isinstance(caught.value.__cause__, kinds[how])


def test_a_killed_worker_leaves_what_was_done_before():
    done = []
    with ProcessPoolExecutor(1) as executor, pytest.raises(TaskError) as caught:
        run_tasks(range(9), kill, lambda task, _: done.append(task), executor=executor)
    assert isinstance(caught.value.__cause__, BrokenProcessPool)
    assert set(done) <= {0, 1, 2, 3, 4}


def test_tasks_that_cannot_be_made_leave_what_was_begun():
    def tasks():
        yield from range(4)
        raise OSError("the loader broke")

    done = []
    with ThreadPoolExecutor(2) as executor, pytest.raises(OSError, match="the loader broke"):
        run_tasks(tasks(), str, lambda task, _: done.append(task), executor=executor)
    assert sorted(done) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["submit", "cancel", "worker"])
def test_sensitivity_goes_on_from_a_failed_executor(how):
    lab, seen, again = lab_for("mlp"), [], []
    lab.calibrate()
    asked = {"mappings": "int8", "ways": ("on",)}
    expected = r"broke off at batch 1, the layer 'fc\d' \(on\)\. Received .*since= to go on"
    with pytest.raises(UnfinishedError, match=expected) as caught:
        lab.sensitivity(**asked, executor=Failing(1, how), on_progress=measuring(seen))
    partial = caught.value.partial
    assert (partial.complete, partial.samples, len(seen)) == (False, 64, 1)
    assert partial.table.noise_on.notna().all()
    found = lab.sensitivity("int8", ways=("on",), since=partial, on_progress=measuring(again))
    assert len(again) == 3  # the three layers on the second batch
    whole = measured("mlp").table.xs("int8", level="config").noise_on
    pd.testing.assert_series_equal(
        found.table.xs("int8", level="config").noise_on, whole, check_exact=True
    )


class Breaks:
    """A loader that raises at a batch as often as it is told to."""

    def __init__(self, batches, at, times=1):
        self.batches, self.at, self.times = batches, at, times

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for index, batch in enumerate(self.batches):
            if index == self.at and self.times:
                self.times -= 1
                raise OSError("disk gone")
            yield batch


@pytest.mark.parametrize("threads", [0, 2])
def test_sensitivity_goes_on_from_a_broken_loader(threads):
    lab, again = make_lab("mlp"), []
    lab.calibrate()
    lab._evaluation_data._source = Breaks(lab._evaluation_data._source, 1)
    with ThreadPoolExecutor(2) as pool:
        executor = pool if threads else None
        with pytest.raises(
            UnfinishedError, match=r"Batch 1 of the evaluation data could.*OSError: disk gone"
        ) as caught:
            lab.sensitivity("int8", executor=executor)
    assert caught.value.partial.samples == 64
    assert isinstance(caught.value.__cause__, OSError)
    found = lab.sensitivity("int8", since=caught.value.partial, on_progress=measuring(again))
    assert again[0][0] > 1 and found.complete
    pd.testing.assert_frame_equal(
        found.table, measured("mlp").table.xs("int8", level="config", drop_level=False),
        check_exact=True, check_like=True,
    )  # fmt: skip


@pytest.mark.parametrize("graph", [True, False])
def test_calibration_goes_on_from_a_broken_loader(graph):
    model = core() if graph else Loops().eval()
    whole = qlab.Lab(model, BATCHES[0], BATCHES)
    lab = qlab.Lab(model, BATCHES[0], Breaks(BATCHES, 2))
    assert lab.traced == graph
    expected = r"Batch 2 of the calibration data could not be read\. Received OSError: disk gone"
    with pytest.raises(UnfinishedError, match=expected):
        lab.calibrate()
    assert (lab.calibrated.batches, lab.calibrated.complete) == (2, False)
    seen = []
    assert lab.calibrate(lambda *p: seen.append(p[0])).complete
    assert seen[0] == 3
    assert lab.calibrated.statistics == whole.calibrate().statistics


def test_a_loader_that_breaks_at_once_leaves_nothing_and_one_of_added_data_what_it_gave():
    lab = qlab.Lab(core(), BATCHES[0], Breaks(BATCHES, 0))
    with pytest.raises(UnfinishedError, match="Batch 0 of the calibration data"):
        lab.calibrate()
    assert lab.calibrated is None
    assert lab.calibrate().batches == len(BATCHES)
    with pytest.raises(UnfinishedError, match="Batch 1 of the added data"):
        lab.add_data(Breaks(BATCHES, 1))
    assert (lab.calibrated.batches, lab.calibrated.complete) == (len(BATCHES) + 1, False)
    assert lab.calibrate().batches == 2 * len(BATCHES)


def test_a_one_shot_loader_that_breaks_is_named_where_it_is_read():
    with pytest.raises(UnfinishedError, match=r"Batch 1 of the evaluation data.*disk gone"):
        qlab.Lab(core(), BATCHES[0], BATCHES, iter(Breaks(BATCHES, 1)))


class Announces(Breaks):
    """A loader that is wrong about how many batches it has."""

    def __init__(self, length):
        super().__init__(BATCHES, -1)
        self.length = length

    def __len__(self):
        return self.length


@pytest.mark.parametrize("length", [1, len(BATCHES) + 2])
@pytest.mark.parametrize("graph", [True, False])
def test_a_loader_may_be_wrong_about_its_length(length, graph):
    model = core() if graph else Loops().eval()
    lab = qlab.Lab(model, BATCHES[0], Announces(length))
    same = qlab.Lab(model, BATCHES[0], BATCHES)
    assert lab.calibrate().complete and lab.calibrate().batches == len(BATCHES)
    found, expected = lab.compare(), same.compare()
    assert found.complete and found.output == expected.output and len(lab.runs) == 1
    ways = ("on", "off")
    pd.testing.assert_frame_equal(
        lab.sensitivity(ways=ways).table, same.sensitivity(ways=ways).table
    )
    assert lab.sensitivity(ways=ways).complete
    if graph:
        assert lab.fidelity().complete


@pytest.mark.parametrize("executor", [3, "threads", ThreadPoolExecutor])
def test_what_is_no_executor_is_refused(executor):
    with pytest.raises(DTypeError, match=r"Not an executor\. Expected a concurrent\.futures"):
        lab_for("mlp").sensitivity(executor=executor)


FORKED = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import torch, qlab, sample_models

torch.set_num_threads(int(sys.argv[1]))
sample = sample_models.load("mlp")
lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), sample.evaluation(64))
lab.calibrate()
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
    for ask in (lab.sensitivity, lambda **how: lab.search(0.9, **how)):
        try:
            print(ask(executor=executor).complete)
        except qlab.errors.UnsupportedError as error:
            print(error)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_forked_processes_are_refused_beside_threads_and_only_there(threads):
    ran = subprocess.run(
        [sys.executable, "-c", FORKED, str(threads)], capture_output=True, text=True, check=True
    )
    answers = ran.stdout.splitlines()
    assert len(answers) == 2
    if threads == 1:
        assert answers == ["True", "True"]
    else:
        assert answers[0] == answers[1]
        assert re.search(r"fork hangs .* 2 threads.*get_context\(\"spawn\"\)", answers[0])


def test_spawned_processes_and_others_are_taken_whatever_the_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as spawned:
        assert checked_executor(spawned) is spawned
    with ThreadPoolExecutor(1) as threads:
        assert checked_executor(threads) is threads
    context = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, mp_context=context) as forked,
        pytest.raises(UnsupportedError, match=r"fork hangs .*2 threads"),
    ):
        checked_executor(forked)
