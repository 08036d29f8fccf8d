"""What sensitivity keeps in memory: all stores together within the stated budget."""

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from torch import nn

import qlab
from qlab.execution import Program, RunStore
from tests.qlab.analysis.test_sensitivity import CONFIGS, make_lab, measured


class Meter:
    """The most bytes of values that all stores held together."""

    def __init__(self, monkeypatch):
        self.stores, self.most, self.bases = [], 0, 0
        meter, made, get = self, RunStore.__init__, RunStore.get

        def init(store, *given):
            made(store, *given)
            meter.stores.append(store)

        def measured_get(store, *given):
            found = get(store, *given)
            held = [sum(run.bytes for run in list(s._runs.values())) for s in meter.stores]
            meter.most = max(meter.most, sum(held))
            meter.bases = max(meter.bases, sum(held) - held[0])
            return found

        monkeypatch.setattr(RunStore, "__init__", init)
        monkeypatch.setattr(RunStore, "get", measured_get)


def float_bytes():
    """Of the residual model's two batches."""
    lab = make_lab("residual")
    lab.compare()
    return lab._study.floats.bytes


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 1.1, 1.3, 10])
@pytest.mark.parametrize("threads", [0, 2])
def test_all_stores_together_keep_the_budget(share, threads, monkeypatch):
    budget = int(share * float_bytes())
    meter = Meter(monkeypatch)
    lab = make_lab("residual", memory_budget=budget)
    with ThreadPoolExecutor(2) as pool:
        found = lab.sensitivity(CONFIGS, ways=("off",), executor=pool if threads else None)
    assert 0 < meter.most <= budget
    assert len(meter.stores) == 1 + len(CONFIGS)
    if share > 0.5:  # one batch of the float network's values fits
        assert meter.bases > 100_000
    pd.testing.assert_series_equal(
        found.table.noise_off, measured("residual").table.noise_off, check_exact=True
    )


def test_batches_that_grow_keep_the_budget_too(monkeypatch):
    meter = Meter(monkeypatch)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    data = [torch.randn(size, 8) for size in (4, 8, 32, 16)]
    lab = qlab.Lab(net, data[0], data, memory_budget=20_000)
    lab.sensitivity(ways=("off",))
    assert 0 < meter.most <= 20_000


def test_the_budget_is_given_back(monkeypatch):
    lab = make_lab("mlp")
    for _ in range(2):
        lab.sensitivity(ways=("off",))
        gc.collect()
        assert lab._study.floats._lent == 0
    floats = lab._study.floats
    lent = floats.lend(2)
    assert lent == floats.budget - floats.bytes
    assert floats.lend(2) == 0
    floats.take_back(lent)
    assert floats.lend(2) == lent
    fresh = RunStore(Program.of(lab.graph), 10**6)
    assert fresh.lend(2) == 0  # what its own runs need is not known yet


def test_a_worker_keeps_one_work_of_a_float_network():
    lab, captured = make_lab("mlp"), []

    class Recording(ThreadPoolExecutor):
        def submit(self, fn, task):
            captured.append(task.work)
            return super().submit(fn, task)

    with Recording(1) as executor:
        for config in CONFIGS:
            lab.sensitivity(config, ways=("on",), executor=executor)
    first, second = pickle.dumps(captured[0]), pickle.dumps(captured[-1])
    one = pickle.loads(first)
    assert pickle.loads(first) is one
    two = pickle.loads(second)
    assert pickle.loads(second) is two
    assert pickle.loads(first) is not one  # it had to go when the second came
    other = make_lab("mlp")
    with Recording(1) as executor:
        other.sensitivity(ways=("on",), executor=executor)
    again = pickle.loads(first)
    pickle.loads(pickle.dumps(captured[-1]))
    assert pickle.loads(first) is again  # that of another Lab
