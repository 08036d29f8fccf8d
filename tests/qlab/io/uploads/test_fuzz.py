"""Altered uploads never crash the reader, hang it or fill the memory."""

from __future__ import annotations

import json
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.io.uploads import Limits
from qlab.io.uploads.models import unpack
from qlab.io.uploads.strict_json import load
from qlab.io.uploads.symbols import parse
from qlab.io.uploads.trees import read_tree

COUNT = 2000
LIMITS = Limits()
WORDS = st.sampled_from(
    ["Symbol", "Integer", "Add", "Mul", "(", ")", ",", "'s0'", "=", "True", "3", "-1", " ", "é"]
)


def test_two_thousand_altered_uploads() -> None:
    """In a process of its own, whose memory is bounded; the same command runs 100,000."""
    command = [sys.executable, "-m", "tests.fuzz_uploads", str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert sum(result["outcomes"].values()) == COUNT
    assert {"read", "FormatError", "UnsupportedError"} <= set(result["outcomes"])


@given(st.lists(WORDS, max_size=30).map("".join) | st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        symbol = parse(text)
    except QlabError:
        return
    assert symbol is None or symbol.isidentifier()


@given(st.binary(max_size=200) | st.text(alphabet='[]{},:"\\1e', max_size=60).map(str.encode))
def test_any_bytes_are_json_or_refused(content: bytes) -> None:
    try:
        json.loads(content) if load(content, "it", LIMITS) else None
    except QlabError:
        return


@given(st.text(max_size=60) | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
def test_any_text_is_a_tree_or_refused(text: str) -> None:
    try:
        read_tree(text, "it", LIMITS)
    except QlabError:
        return


@given(st.binary(max_size=300))
def test_any_bytes_are_an_archive_or_refused(content: bytes) -> None:
    try:
        unpack(b"PK\x03\x04" + content, LIMITS)
    except QlabError:
        return
    raise AssertionError("nothing of that size is a model")
