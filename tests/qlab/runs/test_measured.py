"""A report becomes a run that tells what its ranges come from."""

import pytest
import torch
from torch import nn

import qlab
from qlab import presets
from qlab.errors import ArgumentError, UnknownNameError
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


def test_a_run_from_other_statistics_is_another_run_of_the_same_mapping():
    lab = _lab()
    lab.compare("int8")
    first = lab.runs.latest()
    lab.compare("int8")
    assert [run.id for run in lab.runs] == [first.id]
    before = lab.calibrated.digest
    lab.add_data([torch.randn(4, 3) * 5])
    lab.compare("int8")
    one, two = lab.runs
    assert (one.metrics, one.calibration) == (first.metrics, first.calibration)
    assert one.mapping == two.mapping and two.parent == one.id
    assert one.calibration == f"12 samples in 3 batches ({before})"
    assert two.calibration == f"16 samples in 4 batches ({lab.calibrated.digest})"
    assert one.metrics["sqnr"] != two.metrics["sqnr"]


def test_the_digest_is_of_what_was_seen():
    one, two = _lab(), _lab()
    assert one.calibrate().digest == two.calibrate().digest
    stopped = _lab()
    assert stopped.calibrate(should_stop=lambda: True).digest != one.calibrated.digest
    assert stopped.calibrate().digest == one.calibrated.digest


def test_runs_that_were_saved_and_loaded_are_still_updated(tmp_path):
    lab = _lab()
    lab.compare("int8")
    lab.save(tmp_path / "lab")
    batches = list(lab._evaluation_data)
    loaded = qlab.load_lab(tmp_path / "lab", calibration=[batch.inputs[0] for batch in batches])
    loaded.compare("int8")
    loaded.runs.restore(lab.runs.dump())
    (run,) = loaded.runs
    assert run.calibration == next(iter(lab.runs)).calibration
    part = _lab()
    part.calibrate(should_stop=lambda: True)
    told = {"subject": "x", "seconds": 1.0, "calibration": part.calibrated}
    kept = record_report(Runs(), presets.get("int8").mapping(), lab.compare(), **told)
    assert kept.calibration.startswith("4 samples in 1 batch, stopped early (")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"parent": 999}, UnknownNameError, "run 999"),
        ({"name": 3}, ArgumentError, "A run needs a name.*3"),
        ({"name": " "}, ArgumentError, "A run needs a name"),
    ],
    ids=["parent", "number", "blank"],
)
def test_a_run_that_could_not_be_kept_is_refused_before_anything_is_measured(given, error, message):
    lab, told = _lab(), []
    with pytest.raises(error, match=message):
        lab.compare(**given, on_progress=lambda *p: told.append(p))
    assert not told and not len(lab.runs)
