"""What the first visitor would wait for, begun while the server starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

from pages.common import engine, models
from pages.common.collecting import loading
from pages.common.jobs import log_error
from pages.common.loaded import comparison
from pages.common.sidebar import DEFAULT_PRESET
from pages.common.workspace import Choice

log = logging.getLogger(__name__)
OWNER = "server"
#: Seconds that a starting server waits at most for the first page's numbers.
WAIT = 2.0


def greeting() -> Choice:
    """What a first visitor finds chosen."""
    name = models.greeting()
    return Choice(name, DEFAULT_PRESET, models.offered()[name].size)


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Prepares the first page while the server starts.

    A server answers when it has what every page imports, and most often the first page's numbers:
    before that it could only show an empty frame, and two things at once take longer than one
    after the other. What takes more than `WAIT` goes on while the browser reads the app.
    """
    await asyncio.to_thread(import_engine)
    first = Thread(target=greet, name="preload", daemon=True)
    first.start()
    await asyncio.to_thread(first.join, WAIT)
    yield


def import_engine() -> None:
    """Imports what every page draws and computes with."""
    import pandas  # noqa: F401
    import plotly.graph_objects  # noqa: F401

    import qlab  # noqa: F401


def greet() -> None:
    """Calibrates the model that greets and compares it with its quantized self.

    These are the page's own jobs: a visitor who comes early waits for them and starts no others.
    They belong to the server, so that nobody's leaving ends them.
    """
    try:
        from qlab import presets

        board, choice = engine.board(), greeting()
        job = board.submit(*loading(choice), OWNER)
        job.wait()
        if job.state == "done":
            mapping = presets.get(choice.preset).mapping()
            board.submit(*comparison(job.result, mapping), OWNER).wait()
    except Exception as error:
        log_error(log, "the first page could not be prepared", error)
