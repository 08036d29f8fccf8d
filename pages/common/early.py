"""What the app adds to the head of its one HTML file: a script read early, and Back that works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(st.__file__).parent / "static"
#: Streamlit's part of plotly: 5 MB that it asks for only when it has a chart to draw.
CHART_SCRIPTS = "static/js/PlotlyChart.*.js"
#: While Streamlit draws one page it notes its address several times: with what the app adds to it.
#: The browser's Back would lead from one of these notes to the next, and show the same page.
ONE_ENTRY = b"""<script>{
const push = history.pushState.bind(history);
history.pushState = (state, title, url) =>
  new URL(url ?? "", location.href).pathname === location.pathname
    ? history.replaceState(state, title, url)
    : push(state, title, url);
}</script>"""
HEAD = b"</head>"


def chart_tags(folder: Path = STATIC) -> bytes:
    """HTML that loads the script which draws charts; empty where Streamlit has none of that name.

    Args:
        folder: What Streamlit serves at `/`.
    """
    found = sorted(path.relative_to(folder) for path in folder.glob(CHART_SCRIPTS))
    return "".join(
        f'<script type="module" async src="./{path}"></script>' for path in found
    ).encode()


class OwnHead:
    """Adds to the head of the app's one HTML file what Streamlit has no setting for.

    It names the script that draws charts, which the browser then reads while the page is being
    computed: half a second is won. And it makes one page one entry of the browser's history.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tags = ONE_ENTRY + chart_tags()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and the answer back."""
        held: list[Message] = []

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_plain_html(message):
                held.append(message)  # its length is known with its body
                return
            if held:
                start = held.pop()
                body = message.get("body", b"")
                if HEAD in body:
                    message = {**message, "body": body.replace(HEAD, self._tags + HEAD, 1)}
                    start = _longer(start, len(self._tags))
                await send(start)
            await send(message)

        if scope["type"] == "http":
            await self._app(_unpacked(scope), receive, tagged)
        else:
            await self._app(scope, receive, send)


def _unpacked(scope: Scope) -> Scope:
    """A request for HTML without the browser's leave to pack it; 6 KB, read once per visit."""
    headers = scope.get("headers", [])
    if not any(key == b"accept" and b"text/html" in value for key, value in headers):
        return scope
    return {**scope, "headers": [pair for pair in headers if pair[0] != b"accept-encoding"]}


def _is_plain_html(start: Message) -> bool:
    headers = dict(start["headers"])
    kind = headers.get(b"content-type", b"")
    return kind.startswith(b"text/html") and b"content-encoding" not in headers


def _longer(start: Message, added: int) -> Message:
    """An answer's start with so many bytes more; the tag of the shorter body is dropped."""
    headers = [(key, value) for key, value in start["headers"] if key != b"etag"]
    longer = [
        (key, str(int(value) + added).encode() if key == b"content-length" else value)
        for key, value in headers
    ]
    return {**start, "headers": longer}
