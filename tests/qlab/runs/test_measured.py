"""A report becomes a run that tells what its ranges come from."""

import torch
from torch import nn

import qlab
from qlab import presets
from qlab.runs import Runs, record_report


def _lab() -> qlab.Lab:
    torch.manual_seed(0)
    batches = [torch.randn(4, 3) for _ in range(3)]
    return qlab.Lab(nn.Sequential(nn.Linear(3, 2)).eval(), torch.zeros(1, 3), batches)


def test_a_run_keeps_how_much_it_was_calibrated_on():
    lab = _lab()
    lab.compare()
    run = next(iter(lab.runs))
    assert run.metrics["calibration_samples"] == 12
    assert run.metrics["calibration_complete"] == 1


def test_a_run_tells_that_calibration_was_stopped_early():
    lab = _lab()
    part = lab.calibrate(should_stop=lambda: True)
    assert (part.samples, part.complete) == (4, False)
    runs, mapping = Runs(), presets.get("int8").mapping()
    told = {"subject": "x", "seconds": 1.0}
    run = record_report(runs, mapping, lab.compare(), calibration=part, **told)
    assert run.metrics["calibration_samples"] == 4
    assert run.metrics["calibration_complete"] == 0


def test_a_run_of_before_says_nothing_of_it():
    runs, mapping = Runs(), presets.get("int8").mapping()
    run = record_report(runs, mapping, _lab().compare(), subject="x", seconds=1.0)
    assert not {name for name in run.metrics if name.startswith("calibration")}
