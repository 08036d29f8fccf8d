"""Pages keep what was entered in a folder of their own, never in that of the person who tests."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("QLAB_DATA")
    os.environ["QLAB_DATA"] = str(tmp_path_factory.mktemp("data"))
    yield
    if before is None:
        del os.environ["QLAB_DATA"]
    else:
        os.environ["QLAB_DATA"] = before
