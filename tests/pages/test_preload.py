"""The first page is prepared while the server starts, by the jobs that the page asks for."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from pages.common import preload
from pages.common.collecting import loaded_key
from pages.common.engine import board
from pages.common.loaded import Loaded, outcome_key
from qlab import Lab, presets
from qlab.errors import NonFiniteError
from tests.pages.harness import open_page, workspace_of


def keys(loaded: Loaded | None = None) -> list:
    """What the first page asks of the board."""
    found = [loaded_key(preload.greeting())]
    if loaded is not None:
        found.append(outcome_key(loaded, presets.get(preload.greeting().preset).mapping()))
    return found


@pytest.fixture
def fresh() -> None:
    """Nobody has been here."""
    for kind in ("loaded", "outcome"):
        for key in [key for key in board()._jobs if key[:2] == (kind, preload.greeting().model)]:
            board().forget(key)


def test_the_first_visitor_finds_everything_computed(fresh: None):
    preload.greet()
    first = board().find(keys()[0])
    assert first is not None and first.state == "done"
    page = open_page("overview")
    jobs = [board().find(key) for key in keys(first.result)]
    assert jobs[0] is first
    assert all(job is not None and preload.OWNER in job.owners for job in jobs)
    board().abandon(workspace_of(page).id)
    assert [board().find(key) for key in keys(first.result)] == jobs


def test_a_failure_is_left_to_the_page(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object, **__: object) -> None:
        raise NonFiniteError("NaN in the float model")

    with monkeypatch.context() as patched:
        patched.setattr(Lab, "calibrate", fail)
        preload.greet()
        page = open_page("overview")
        assert "NaN in the float model" in page.error[0].value
    board().forget(keys()[0])


def test_an_error_that_no_job_catches_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(preload, "loading", fail)
    preload.greet()
    assert "the first page could not be prepared" in caplog.text


def enter() -> None:
    """Starts the server's work and ends it."""

    async def start() -> None:
        async with preload.lifespan(None):
            pass

    asyncio.run(start())


def test_a_server_answers_with_the_engine_imported_and_the_first_page_computed(
    monkeypatch: pytest.MonkeyPatch,
):
    done: list[str] = []
    monkeypatch.setattr(preload, "import_engine", lambda: done.append("imported"))
    monkeypatch.setattr(preload, "greet", lambda: done.append("greeted"))
    enter()
    assert done == ["imported", "greeted"]


def test_a_server_does_not_wait_for_a_large_model(monkeypatch: pytest.MonkeyPatch):
    computed = threading.Event()
    monkeypatch.setattr(preload, "WAIT", 0.01)
    monkeypatch.setattr(preload, "import_engine", lambda: None)
    monkeypatch.setattr(preload, "greet", computed.wait)
    enter()
    assert not computed.is_set()
    computed.set()


def test_what_is_slow_to_import_and_rarely_needed_is_not_imported_at_first():
    code = (
        "import sys; from pages.common.preload import import_engine; import_engine(); "
        "slow = ('scipy.stats', 'scipy.optimize', 'torch._dynamo'); "
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("entrance", ["import app", "from pages.common import frame"])
def test_torch_is_loaded_only_once_its_idle_threads_are_told_to_sleep(entrance: str):
    """The app imports it on demand, and what a page shares with others comes before any page."""
    code = f"""
import os, sys
class Watch:
    def find_spec(name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
sys.meta_path.insert(0, Watch)
{entrance}
print("torch" in sys.modules)
from pages.common.preload import import_engine
import_engine()
"""
    environment = {name: text for name, text in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == ["False", "PASSIVE"], done.stdout
