"""What the first visitor would wait for, begun while the server starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

from pages.common import engine, models
from pages.common.jobs import log_error
from pages.common.loaded import comparison, loading
from pages.common.sidebar import DEFAULT_PRESET
from pages.common.workspace import Choice

log = logging.getLogger(__name__)
OWNER = "server"
GREETING = Choice(models.greeting(), DEFAULT_PRESET, models.offered()[models.greeting()].size)


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Prepares the first page while the server starts.

    A server answers when it has what every page imports; before that it could only show an empty
    frame. The first page's numbers are computed while the browser reads the app.
    """
    await asyncio.to_thread(import_engine)
    Thread(target=greet, name="preload", daemon=True).start()
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

        board = engine.board()
        job = board.submit(*loading(GREETING), OWNER)
        job.wait()
        if job.state == "done":
            mapping = presets.get(GREETING.preset).mapping()
            board.submit(*comparison(job.result, mapping), OWNER).wait()
    except Exception as error:
        log_error(log, "the first page could not be prepared", error)
