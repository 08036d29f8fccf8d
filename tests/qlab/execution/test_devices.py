"""Which devices there are, and why CUDA is not."""

from collections.abc import Iterator

import pytest
import torch

from qlab.errors import ArgumentError
from qlab.execution import device_names, no_cuda, usable_device


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """What was found in one test is forgotten before and after it."""
    for function in (device_names, no_cuda):
        function.cache_clear()
    yield
    for function in (device_names, no_cuda):
        function.cache_clear()


def test_every_device_that_is_told_can_be_used():
    assert next(iter(device_names())) == "cpu"
    for name in device_names():
        assert usable_device(name) == torch.device(name)


def test_cuda_is_told_or_why_it_is_not():
    assert (no_cuda() is None) == torch.cuda.is_available()
    assert any(name.startswith("cuda") for name in device_names()) == torch.cuda.is_available()


def test_each_cuda_device_has_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Chip {index}")
    assert device_names() == {"cpu": "CPU", "cuda:0": "Chip 0", "cuda:1": "Chip 1"}


@pytest.mark.parametrize(
    ("version", "reason"), [(None, "built without CUDA"), ("13.0", "finds no CUDA device")]
)
def test_a_build_without_cuda_differs_from_a_machine_without(
    monkeypatch: pytest.MonkeyPatch, version: str | None, reason: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    assert reason in str(no_cuda())
    assert list(device_names()) == ["cpu"]


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ArgumentError, match="no such device"):
        usable_device("cuda:99")
    with pytest.raises(ArgumentError, match="holds no numbers"):
        usable_device("meta")
