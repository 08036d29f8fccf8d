"""Float passes use full float32, and leave PyTorch's settings as they found them."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab.execution import full_precision

BACKENDS: Any = torch.backends
PARTS = (
    BACKENDS.cuda.matmul,
    BACKENDS.cudnn.conv,
    BACKENDS.cudnn.rnn,
    BACKENDS.mkldnn.matmul,
    BACKENDS.mkldnn.conv,
    BACKENDS.mkldnn.rnn,
)


def settings() -> list[object]:
    found: list[object] = [part.fp32_precision for part in PARTS]
    for read in (torch.get_float32_matmul_precision, lambda: BACKENDS.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:  # the newer interface was used alone
            found.append("refused")
    return found


FULL = [*["ieee"] * len(PARTS), "highest", False]


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    precisions = [part.fp32_precision for part in PARTS]
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    for part, precision in zip(PARTS, precisions, strict=True):
        part.fp32_precision = precision


class Hooked(nn.Module):
    """No graph can be made of it: what it does depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else self.fc(x).relu()


@pytest.mark.parametrize("build", [lambda: nn.Sequential(nn.Linear(3, 2)), Hooked])
def test_a_labs_passes_are_in_full_float32(build, monkeypatch):
    seen: list[list[object]] = []
    forward = nn.Linear.forward

    def asking(layer: nn.Linear, x: Tensor) -> Tensor:
        seen.append(settings())
        return forward(layer, x)

    x = torch.rand(8, 3)
    lab = qlab.Lab(build().eval(), x, [x])
    monkeypatch.setattr(nn.Linear, "forward", asking)
    torch.set_float32_matmul_precision("medium")
    before = settings()
    assert before != FULL
    for ask in (lab.calibrate, lab.compare, lab.sensitivity):
        seen.clear()
        ask()
        assert seen and all(found == FULL for found in seen)
        assert settings() == before


def test_settings_come_back_after_an_error_too():
    x = torch.rand(8, 3)
    model = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False)
    model[0].weight[0, 0] = torch.nan
    lab, before = qlab.Lab(model.eval(), x, [x]), settings()
    with pytest.raises(qlab.errors.NonFiniteError, match="NaN"):
        lab.calibrate()
    assert settings() == before


def older() -> None:
    torch.set_float32_matmul_precision("high")


def newer() -> None:
    BACKENDS.cuda.matmul.fp32_precision, BACKENDS.cudnn.conv.fp32_precision = "tf32", "ieee"


@pytest.mark.parametrize("change", [older, newer, lambda: None])
def test_either_interface_of_pytorch_finds_its_settings_again(change):
    change()
    before = settings()
    with full_precision():
        assert settings()[: len(PARTS)] == FULL[: len(PARTS)]
        with full_precision():
            pass
        assert settings()[: len(PARTS)] == FULL[: len(PARTS)]
    assert settings() == before


def test_overlapping_passes_of_threads_restore_once():
    before, entered, leave = settings(), threading.Event(), threading.Event()

    def other() -> None:
        with full_precision():
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=other)
    with full_precision():
        thread.start()
        assert entered.wait(60)
    assert settings() == FULL  # the other thread is still inside
    leave.set()
    thread.join()
    assert settings() == before


def test_repairs_learn_in_full_float32():
    torch.manual_seed(0)
    x, model = torch.randn(16, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    labels = torch.arange(16) % 2
    lab = qlab.Lab(model.eval(), x, [x])
    newer()
    seen, before = [], settings()

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        seen.append(settings())
        return nn.functional.cross_entropy(output, labels)

    lab.finetune("int8", [(x, labels)] * 4, loss, steps=3)
    n = len(PARTS)
    assert len(seen) > 3 and all(found[:n] == FULL[:n] for found in seen)
    assert settings() == before
