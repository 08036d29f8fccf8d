"""The script that draws charts is named in the app's HTML, and nowhere else."""

import asyncio
from pathlib import Path

import pytest
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import Message

from pages.common.early import ONE_ENTRY, STATIC, OwnHead, chart_tags

PAGE = "<html><head><title>x</title></head><body></head></body></html>"


ANSWERS = {
    "html": HTMLResponse(PAGE, headers={"etag": "old"}),
    "packed": HTMLResponse(PAGE, headers={"content-encoding": "identity"}),
    "headless": HTMLResponse("<p>none</p>"),
    "text": PlainTextResponse(PAGE),
}


def ask(kind: str) -> tuple[dict[str, str], str]:
    """The headers and the body of an answer behind the middleware."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(OwnHead(ANSWERS[kind])({"type": "http"}, receive, send))
    start, *parts = sent
    headers = {key.decode(): value.decode() for key, value in start["headers"]}
    return headers, b"".join(part["body"] for part in parts).decode()


def test_streamlit_has_one_script_for_charts_and_it_is_there():
    tag = chart_tags().decode()
    assert tag.count("<script") == 1
    path = tag.partition('src="./')[2].partition('"')[0]
    assert (STATIC / path).is_file()


def test_a_streamlit_that_names_it_otherwise_gets_no_tag(tmp_path: Path):
    assert chart_tags(tmp_path) == b""


def test_html_gets_the_tag_at_the_end_of_its_head():
    headers, body = ask("html")
    tag = (ONE_ENTRY + chart_tags()).decode()
    assert body == PAGE.replace("</head>", f"{tag}</head>", 1)
    assert int(headers["content-length"]) == len(body)
    assert "etag" not in headers


@pytest.mark.parametrize("kind", ["packed", "text"])
def test_anything_else_is_passed_on_as_it_is(kind: str):
    headers, body = ask(kind)
    assert body == PAGE
    assert int(headers["content-length"]) == len(PAGE)


@pytest.mark.parametrize(("accept", "packed"), [(b"text/html,*/*", False), (b"*/*", True)])
def test_a_browser_that_would_take_packed_html_gets_the_tag_too(accept: bytes, packed: bool):
    """Streamlit packs what is large enough, deeper inside than this can see."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    answer = HTMLResponse(PAGE + " " * 5000)
    headers = [(b"accept", accept), (b"accept-encoding", b"gzip, br")]
    inside = GZipMiddleware(answer, minimum_size=1000)
    asyncio.run(OwnHead(inside)({"type": "http", "headers": headers}, receive, send))
    assert ((b"content-encoding", b"gzip") in sent[0]["headers"]) == packed
    assert (ONE_ENTRY in sent[1]["body"]) == (not packed)


def test_html_without_a_head_is_passed_on_as_it_is():
    assert ask("headless")[1] == "<p>none</p>"
