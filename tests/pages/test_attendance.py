"""Tabs: the last one to close starts the time of grace, and coming back ends it."""

import threading

import pytest

from pages.common.attendance import Attendance


class Gone:
    """Who was abandoned."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.happened = threading.Event()

    def __call__(self, id: str) -> None:
        self.ids.append(id)
        self.happened.set()


@pytest.fixture
def gone() -> Gone:
    return Gone()


def test_a_workspace_is_abandoned_some_time_after_its_last_tab_closed(gone: Gone):
    attendance = Attendance(gone, grace=0.05)
    for tab in "ab":
        attendance.arrive("w", tab)
    attendance.leave("w", "a")
    assert attendance.tabs("w") == 1
    assert not gone.happened.wait(0.15)
    attendance.leave("w", "b")
    attendance.leave("w", "b")
    assert attendance.tabs("w") == 0
    assert gone.happened.wait(5)
    assert gone.ids == ["w"]


def test_who_comes_back_in_time_keeps_the_workspace(gone: Gone):
    attendance = Attendance(gone, grace=0.1)
    attendance.arrive("w", "a")
    attendance.leave("w", "a")
    attendance.arrive("w", "a after a reload")
    assert not gone.happened.wait(0.3)
    attendance.leave("w", "a after a reload")
    assert gone.happened.wait(5)


def test_one_that_arrives_while_the_time_runs_out_is_not_abandoned(gone: Gone):
    attendance = Attendance(gone, grace=1000)
    attendance.arrive("w", "a")
    attendance.leave("w", "a")
    timer = attendance._timers["w"]
    attendance.arrive("w", "b")
    late = threading.Thread(target=timer.function, args=timer.args)  # it could not be stopped
    late.start()
    late.join()
    assert not gone.ids


def test_workspaces_do_not_count_each_others_tabs(gone: Gone):
    attendance = Attendance(gone, grace=0.01)
    attendance.arrive("w", "a")
    attendance.arrive("v", "b")
    attendance.leave("v", "b")
    assert gone.happened.wait(5)
    assert gone.ids == ["v"]
    assert attendance.tabs("w") == 1


def test_a_minute_of_grace():
    assert Attendance(lambda _: None).grace == 60
