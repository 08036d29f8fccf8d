"""Latency is measured in turn, after a warm-up, and says on what."""

import time

import pytest
import torch
from torch import nn

import qlab
from qlab.analysis.latency import WARM_UP, Spread, measure_latency
from qlab.errors import ArgumentError


class Sleeper:
    """Takes so long, and notes that it was called."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(self.name)
        time.sleep(self.seconds)
        return x


def test_two_models_take_turns_and_the_slower_one_is_told():
    log: list[str] = []
    slow, fast = Sleeper("float", 0.02, log), Sleeper("quantized", 0.002, log)
    latency = measure_latency((slow, fast), (torch.zeros(5, 3),), 6)
    assert log == ["float", "quantized"] * (WARM_UP + 6)
    assert latency.floating.median >= 20.0
    assert latency.floating.low <= latency.floating.median <= latency.floating.high
    assert latency.ratio > 1
    assert (latency.batch, latency.shape, latency.device) == (5, (5, 3), "cpu")
    assert latency.threads == torch.get_num_threads()
    assert "6 runs of each network in turn, batch 5, input 5 × 3, 1 thread" in latency.describe()


def test_spread_is_in_milliseconds_with_quartiles():
    spread = Spread.of([0.001, 0.002, 0.003, 0.004, 0.005])
    assert (spread.low, spread.median, spread.high) == pytest.approx((2.0, 3.0, 4.0))
    assert spread.runs == 5


def test_stopping_keeps_what_was_measured():
    log, seen = [], []
    models = (Sleeper("a", 0, log), Sleeper("b", 0, log))
    latency = measure_latency(
        models, (torch.zeros(1),), 50,
        on_progress=lambda *step: seen.append(step), should_stop=lambda: True,
    )  # fmt: skip
    assert not latency.complete
    assert latency.quantized.runs == 4
    assert seen[-1] == (4, 50, "timing")


@pytest.mark.parametrize("repeats", [3, 0, 2.5])
def test_too_few_runs_are_refused(repeats):
    lab = qlab.Lab(nn.Linear(4, 4), torch.randn(1, 4), torch.randn(8, 4))
    with pytest.raises(ArgumentError, match="quartiles need some runs"):
        lab.latency(repeats=repeats)


def test_a_lab_times_the_networks_of_a_configuration_on_the_batch_given():
    lab = qlab.Lab(nn.Linear(4, 4), torch.randn(1, 4), torch.randn(8, 4))
    assert lab.latency(repeats=4).shape == (8, 4)
    latency = lab.latency("int8-minmax", torch.randn(3, 4), repeats=5)
    assert (latency.shape, latency.floating.runs, latency.complete) == ((3, 4), 5, True)


@pytest.mark.parametrize("shape", [(2, 5), (2, 2, 2)])
def test_a_batch_that_the_model_does_not_take_is_named(shape):
    lab = qlab.Lab(nn.Linear(3, 2).eval(), torch.zeros(1, 3), [torch.randn(4, 3)])
    with pytest.raises(ArgumentError, match=r"does not take this batch.*Received \(2, "):
        lab.latency(batch=torch.zeros(shape))
