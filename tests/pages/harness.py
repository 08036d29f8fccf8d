"""Runs pages without a browser, waits for the work that they start, reads what they show."""

import base64
import html
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.io
from streamlit.testing.v1 import AppTest

from pages.common.store import store
from pages.common.workspace import Workspace

ROOT = Path(__file__).parents[2]
SECONDS = 60
Open = Callable[..., AppTest]


def open_page(name: str, **state: Any) -> AppTest:
    """Opens a page on its own, as Streamlit may run it.

    Args:
        name: Such as `"layer"`.
        state: Session state to begin with, such as `model="mlp"`.
    """
    page = AppTest.from_file(ROOT / "pages" / f"{name}.py", default_timeout=SECONDS)
    for key, value in state.items():
        page.session_state[key] = value
    return settle(page.run())


def settle(page: AppTest) -> AppTest:
    """Runs a page until no work is in progress on it; it must not show an exception."""
    deadline = time.monotonic() + SECONDS
    while any(_waits(str(button.key)) for button in page.button):
        assert time.monotonic() < deadline, "the page's work did not end"
        time.sleep(0.05)
        page.run()
    assert not page.exception
    return page


def _waits(key: str) -> bool:
    """Whether a button with this key cancels work that a part of the page waits for."""
    return key.startswith("cancel") and not key.startswith("cancel_other")


def workspace_of(page: AppTest) -> Workspace:
    """The workspace that the page's address names."""
    space = store().find(page.query_params["w"])
    assert space is not None
    return space


def metrics(page: AppTest) -> dict[str, str]:
    """What the page's metrics say, by label; of equal labels the first."""
    return {metric.label: metric.value for metric in reversed(page.metric)}


def chart(page: AppTest, key: str) -> Any:
    """The figure of the chart with this key."""
    specs = {c.proto.id.rpartition("-")[2]: c.proto.spec for c in page.get("plotly_chart")}
    return plotly.io.from_json(json.dumps(_decoded(json.loads(specs[key]))))


def _decoded(value: Any) -> Any:
    """A figure's JSON with its packed arrays as lists."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "bdata" in value:
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
    return {key: _decoded(item) for key, item in value.items()}


def texts(page: AppTest) -> str:
    """All HTML on the page as plain text, one element per line."""
    bodies = (element.proto.body for element in page.get("html"))
    return "\n".join(html.unescape(re.sub(r"<[^>]+>", "", body)) for body in bodies)


def has_button(page: AppTest, key: str) -> bool:
    """Whether the page shows a button."""
    return any(button.key == key for button in page.button)
