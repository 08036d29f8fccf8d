"""Limits have defaults, and variables of the environment that change them."""

import pytest

from qlab.errors import ArgumentError, FormatError
from qlab.io.uploads import Limits


def test_variables_set_limits_and_others_stay() -> None:
    variables = {"QLAB_UPLOAD_SECONDS": "7", "PATH": "x", "QLAB_DATA": "y"}
    assert Limits.from_environment(variables, file_bytes=5) == Limits(seconds=7, file_bytes=5)
    assert Limits.from_environment({"QLAB_UPLOAD_SECONDS": "7"}, seconds=9).seconds == 7


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLAB_UPLOAD_NODES", "12")
    assert Limits.from_environment().nodes == 12


@pytest.mark.parametrize(
    ("name", "text"), [("SECONDS", "0"), ("SECONDS", "-1"), ("SECONDS", "1e3"), ("SECOND", "1")]
)
def test_other_variables_are_named(name: str, text: str) -> None:
    with pytest.raises(ArgumentError, match=rf"QLAB_UPLOAD_{name} sets no limit.*JSON_DEPTH"):
        Limits.from_environment({f"QLAB_UPLOAD_{name}": text})


def test_what_is_refused_names_both_ways_to_allow_it() -> None:
    with pytest.raises(FormatError, match=r"at most 3 bytes.*Limits\(file_bytes.*LOAD_FILE_BYTES"):
        Limits(file_bytes=3).check("file_bytes", 4, "The file is too large")
