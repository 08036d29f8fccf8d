"""What the first visitor would wait for, begun while the server starts."""

from __future__ import annotations

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
    """Starts to prepare the first page as soon as the server does."""
    Thread(target=greet, name="preload", daemon=True).start()
    yield


def greet() -> None:
    """Calibrates the model that greets and compares it with its quantized self.

    These are the page's own jobs: a visitor who comes early waits for them and starts no others.
    They belong to the server, so that nobody's leaving ends them.
    """
    try:
        import pandas  # noqa: F401, the pages need it at once
        import plotly.graph_objects  # noqa: F401

        from qlab import presets

        board = engine.board()
        job = board.submit(*loading(GREETING), OWNER)
        job.wait()
        if job.state == "done":
            mapping = presets.get(GREETING.preset).mapping()
            board.submit(*comparison(job.result, mapping), OWNER).wait()
    except Exception as error:
        log_error(log, "the first page could not be prepared", error)
