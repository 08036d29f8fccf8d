"""Background work: shared by key, cancelled when nobody wants it, failures kept."""

import threading
import time

import pytest

from pages.common.engine import progress_text
from pages.common.jobs import Board, CancelledError, Job, Parts, Progress
from qlab.errors import UnfinishedError


def finished(job: Job) -> Job:
    assert job.wait(5), f"{job.title} did not end"
    return job


def board() -> Board:
    return Board({"square": 2})


def test_a_job_reports_progress_and_ends_with_its_result():
    seen, go_on = threading.Event(), threading.Event()

    def work(progress: Progress) -> int:
        progress.report(3, 4, "conv1")
        seen.set()
        assert go_on.wait(5)
        return 16

    job = Job("square of 4", work)
    job.start()
    assert seen.wait(5)
    assert (job.state, job.fraction, job.label) == ("running", 0.75, "conv1")
    go_on.set()
    assert (finished(job).state, job.result) == ("done", 16)


def test_time_left_is_estimated_from_the_pace(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    job = Job("slow", lambda progress: None)
    assert job.seconds_left is None
    now[0], job.done, job.total = 110.0, 1, 4
    assert job.seconds_left == pytest.approx(30)


def test_work_of_several_parts_counts_as_one(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    job = Job("repair", lambda progress: None)
    parts = Parts(job, (("comparing",), (), ("comparing", "calibrating")), (0.2, 0.6, 0.2))
    parts.report(4, 4, "comparing")
    now[0] = 110.0
    assert job.fraction == pytest.approx(0.2)
    assert job.seconds_left == pytest.approx(40)
    assert progress_text(job) == "repair: comparing · part 1 of 3, 4 of 4 · 40 s left"
    parts.report(1, 2, "equalizing")
    assert (job.part[0], job.fraction) == (1, pytest.approx(0.5))
    parts.report(0, 1, "equalizing again")  # it reports anew within its part: never backwards
    assert job.fraction == pytest.approx(0.5)
    parts.report(4, 8, "calibrating")
    assert (job.part[0], job.fraction) == (2, pytest.approx(0.9))
    parts.report(1, 4, "comparing")
    assert (job.part[0], job.fraction) == (2, pytest.approx(0.9))
    parts.report(4, 4, "comparing")
    assert job.fraction == pytest.approx(1)


def test_the_same_question_is_answered_once():
    jobs, calls = board(), []
    first = jobs.submit(("square", 4), "", lambda _: calls.append(4) or 16, owner="a")
    second = jobs.submit(("square", 4), "", lambda _: calls.append(4) or 16, owner="b")
    assert first is second
    assert finished(first).result == 16
    assert calls == [4]


def test_a_failure_is_kept_until_it_is_forgotten():
    jobs, answers = board(), [ValueError("no"), 16]

    def work(_: Progress) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    failed = finished(jobs.submit(("square", 4), "", work, owner="a"))
    assert (failed.state, str(failed.error)) == ("failed", "no")
    assert jobs.submit(("square", 4), "", work, owner="a") is failed
    jobs.forget(("square", 4))
    assert finished(jobs.submit(("square", 4), "", work, owner="a")).result == 16


def until_stopped(progress: Progress) -> None:
    while not progress.should_stop():
        time.sleep(0.005)
    raise CancelledError


def test_the_last_owner_who_leaves_cancels():
    jobs = board()
    job = jobs.submit(("square", 4), "", until_stopped, owner="a")
    jobs.submit(("square", 4), "", until_stopped, owner="b")
    jobs.release(("square", 4), "a")
    jobs.release(("square", 4), "a")
    jobs.release(("square", 4), "nobody")
    assert job.state == "running" and not job.should_stop()
    assert jobs.running("b") == [(("square", 4), job)] and not jobs.running("a")
    jobs.release(("square", 4), "b")
    assert finished(job).state == "cancelled"
    assert jobs.find(("square", 4)) is None


def test_a_cancelled_job_starts_anew_when_asked_again():
    jobs = board()
    job = jobs.submit(("square", 4), "", until_stopped, owner="a")
    job.cancel()
    finished(job)
    assert finished(jobs.submit(("square", 4), "", lambda _: 16, owner="a")).result == 16


def test_only_the_newest_results_of_a_kind_stay():
    jobs = board()
    for x in (1, 2):
        finished(jobs.submit(("square", x), "", lambda _, x=x: x * x, owner="a"))
    jobs.submit(("square", 1), "", lambda _: 0, owner="a")
    finished(jobs.submit(("square", 3), "", lambda _: 9, owner="a"))
    jobs.submit(("square", 3), "", lambda _: 9, owner="a")
    kept = [x for x in (1, 2, 3) if jobs.find(("square", x))]
    assert kept == [1, 3]


def test_what_a_cancelled_job_left_behind_is_where_the_next_one_goes_on():
    jobs, started = board(), threading.Event()

    def work(progress: Progress) -> int:
        progress.partial = (progress.partial or 0) + 1
        started.set()
        if progress.partial < 2:
            until_stopped(progress)
        return progress.partial

    jobs.submit(("square", 4), "", work, owner="a")
    assert started.wait(5)
    jobs.release(("square", 4), "a")
    assert finished(jobs.submit(("square", 4), "", work, owner="a")).result == 2


def test_work_that_is_resumed_before_it_has_stopped_waits_for_what_it_leaves():
    jobs, release = board(), threading.Event()

    def work(progress: Progress) -> int:
        if progress.partial is None:
            assert release.wait(5)
            progress.partial = 1  # after it was cancelled
            raise CancelledError
        return progress.partial + 1

    jobs.submit(("square", 4), "", work, owner="a")
    jobs.release(("square", 4), "a")
    assert jobs.stopped(("square", 4)) is not None and jobs.find(("square", 4)) is None
    resumed = jobs.submit(("square", 4), "", work, owner="a")
    assert jobs.stopped(("square", 4)) is None and resumed.state == "running"
    release.set()
    assert finished(resumed).result == 2


def test_who_is_gone_leaves_nothing_of_what_was_cancelled():
    jobs = board()
    jobs.submit(("square", 1), "", until_stopped, owner="a")
    jobs.submit(("square", 2), "", until_stopped, owner="b")
    for number, owner in ((1, "a"), (2, "b")):
        jobs.release(("square", number), owner)
    jobs.abandon("a")
    assert jobs.stopped(("square", 1)) is None
    assert jobs.stopped(("square", 2)) is not None


def test_who_is_gone_leaves_no_job_and_no_result_that_another_does_not_want():
    jobs = board()
    own = jobs.submit(("square", 1), "", until_stopped, owner="a")
    finished(jobs.submit(("square", 2), "", lambda _: 4, owner="a"))
    finished(jobs.submit(("square", 3), "", lambda _: 9, owner="a"))
    jobs.submit(("square", 3), "", lambda _: 9, owner="b")
    jobs.abandon("a")
    assert finished(own).state == "cancelled"
    assert [x for x in (1, 2, 3) if jobs.find(("square", x))] == [3]


def test_what_a_failed_job_had_measured_is_there_when_it_is_tried_again():
    def work(progress: Progress) -> str:
        if progress.partial is None:
            raise UnfinishedError.of("broke off", OSError("no disk"), "Try again.", "half")
        return f"{progress.partial} and the rest"

    jobs, key = board(), ("square", 4)
    assert finished(jobs.submit(key, "", work, owner="a")).state == "failed"
    jobs.forget(key)
    assert finished(jobs.submit(key, "", work, owner="a")).result == "half and the rest"
