import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.analysis.report import graph_bytes
from qlab.analysis.search import FLOAT, Candidate, Search, default_candidates
from qlab.analysis.sensitivity import Sensitivity
from qlab.dtypes import integer, qint8, quint8
from qlab.errors import ArgumentError, DTypeError, UnknownNameError
from qlab.ranges import MSE, TensorSpec
from tests.qlab.analysis.test_sensitivity import measuring

W8 = TensorSpec(qint8, symmetric=True, granularity=qlab.PerAxis(0))
A8 = TensorSpec(quint8, policy=MSE())
W4 = dataclasses.replace(W8, dtype=integer(4, signed=True), policy=MSE())
A4 = dataclasses.replace(A8, dtype=integer(4, signed=False))


def lab_of(name: str) -> qlab.Lab:
    sample = sample_models.load(name)
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64))


@pytest.fixture(scope="module")
def residual() -> tuple[qlab.Lab, Search]:
    lab = lab_of("residual")
    return lab, lab.search(0.9)


def operations(lab: qlab.Lab, mapping) -> int:
    """MACs × weight bits × activation bits, counted by running the float model once."""
    plan, counted = lab.plan(mapping), {}

    def count(name):
        def hook(module, args, output):
            core = module[0] if isinstance(module, nn.Sequential) else module
            each = core.weight.numel() // core.weight.shape[0]
            counted[name] = counted.get(name, 0) + output.numel() * each

        return hook

    handles = [
        lab.graph.get_submodule(layer.name).register_forward_hook(count(layer.name))
        for layer in lab.layers
        if layer.type in ("Conv2d", "Linear", "ConvReLU2d", "LinearReLU")
    ]
    lab.graph(*lab._study.example_inputs)
    for handle in handles:
        handle.remove()
    total = 0
    for name, macs in counted.items():
        step = plan.step(name)
        bits = [32 if spec is None else spec.dtype.bits for spec in (step.weight, step.output)]
        total += macs * bits[0] * bits[1]
    return total


def test_the_default_candidates_are_fewer_bits_and_float():
    base = Candidate("w8a8", W8, A8)
    names = [c.name for c in default_candidates("size", base)]
    assert names == ["w8a8", "w6a8", "w4a8", "w3a8", "w2a8", "float"]
    by_operations = {c.name: c for c in default_candidates("bit_ops", base)}
    assert {"w8a8", "w6a6", "w4a4", "w2a4", "float"} <= set(by_operations)
    assert "w8a6" not in by_operations
    assert by_operations["w4a4"].bits == 16 and by_operations["float"].bits == 1024
    four = [c.name for c in default_candidates("size", Candidate("w4a8", W4, A8))]
    assert sorted(four) == sorted({*names})
    deep = TensorSpec(integer(16, signed=True), symmetric=True)
    wide = [c.name for c in default_candidates("bit_ops", Candidate("w8a16", W8, deep))]
    assert {"w8a16", "w8a8", "w4a8", "w4a4", "float"} <= set(wide)
    weights_only = default_candidates("bit_ops", Candidate("w8a32", W8, None))
    assert [c.name for c in weights_only][:2] == ["w8a32", "w6a32"]


def test_no_point_beats_its_own_size_or_its_budget(residual):
    lab, search = residual
    assert len(search) > 10
    assert (search.front["size"] <= search.budget).all()
    for point in (*range(0, len(search), 6), len(search) - 1):
        converted = lab.convert(search.mapping(point))
        assert graph_bytes(converted) == search.front.loc[point, "size"]
    assert search.front["size"].min() == search.smallest
    assert search.complete


def test_every_point_is_non_dominated_and_the_nearest_have_no_gap(residual):
    _, search = residual
    assert search.front["size"].is_monotonic_increasing and search.front["size"].is_unique
    assert search.front["noise"].is_monotonic_decreasing and search.front["noise"].is_unique
    assert search.bound == pytest.approx(search.front["noise"].iloc[-1], rel=1e-9)
    counts = search.front[["w8a8", "w6a8", "w4a8", "w3a8", "w2a8", "float"]]
    assert (counts.sum(axis=1) == sum(len(g.layers) for g in search.groups)).all()


def test_a_point_is_a_mapping_that_the_plan_obeys(residual):
    lab, search = residual
    for point in (0, len(search) // 2, -1):
        plan = lab.plan(search.mapping(point))
        assert plan.unmatched == ()
        for name, candidate in search.choices(point).items():
            assert plan.step(name).weight == candidate.weight


def test_the_prediction_is_the_sum_of_what_was_measured_alone(residual):
    _, search = residual
    table, chosen = search.sensitivity.table, search.choices(-1)
    decided = [table.loc[(n, c.name), "noise_on"] for n, c in chosen.items() if not c.is_float]
    others = [n for n in table.index.unique("layer") if n not in chosen]
    rest = [table.loc[(name, "w8a8"), "noise_on"] for name in others]
    assert search.front["noise"].iloc[-1] == pytest.approx(math.fsum([*decided, *rest]))


def test_layers_in_float_are_counted_with_the_borders_around_them():
    lab = lab_of("residual")
    candidates = (Candidate("w8a8", W8, A8), FLOAT)
    search = lab.search(4.0, candidates=candidates)
    assert search.front["float"].max() == len(search.choices())
    for point, row in search.front.iterrows():
        converted = lab.convert(search.mapping(point))
        assert graph_bytes(converted) == row["size"] <= search.budget
    for size in search.front["size"].iloc[1::3]:
        tight = lab.search(int(size) - 1, candidates=candidates, sensitivity=search.sensitivity,
                           points=1)  # fmt: skip
        assert tight.front["size"].max() < size


def test_points_are_verified_end_to_end_and_become_runs(residual):
    lab, search = residual
    lab.compare("int8")
    beside = lab.search(0.9, sensitivity=search.sensitivity, points=2)
    beside.verify()
    assert {run.parent for run in list(lab.runs)[-2:]} == {lab.runs.of(lab.subject)[0].id}
    before, seen = len(lab.runs), []
    verified = search.verify([0, 5, -1], on_progress=lambda *step: seen.append(step))
    assert list(verified.table.index) == [0, 5, len(search) - 1]
    assert seen[-1] == (3, 3, "verifying") and verified.complete
    assert len(lab.runs) == before + 2  # the last point was measured before
    last = verified.table.iloc[-1]
    report = lab.compare(search.mapping())
    assert last["measured_sqnr"] == report.output["sqnr"]
    assert last["size"] == report.size.quantized_bytes
    predicted = last["measured_sqnr"] + 10 * math.log10(last["noise_ratio"])
    assert predicted == pytest.approx(search.front["sqnr"].iloc[-1])
    assert verified.rank_correlation == pytest.approx(1.0)
    assert search.verify([3]).rank_correlation is None


def test_verifying_stops_when_asked(residual):
    _, search = residual
    asked = iter([False, True])
    verified = search.verify([0, 1], should_stop=lambda: next(asked))
    assert list(verified.table.index) == [0] and not verified.complete


def test_what_was_verified_is_not_measured_again(residual):
    lab, search = residual
    known, seen = search.verify([0, 1]), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lab, "compare", None)
        again = search.verify([1, 0], known=known)
    pd.testing.assert_frame_equal(again.table, known.table)
    both = search.verify([1, 2], known=known, on_progress=lambda *step: seen.append(step))
    assert list(both.table.index) == [0, 1, 2] and both.complete
    assert seen == [(2, 2, "verifying")]
    stopped = search.verify([1, 3], known=known, should_stop=lambda: True)
    assert list(stopped.table.index) == [0, 1] and not stopped.complete


def test_a_stopped_search_goes_on_from_its_measurement(residual):
    lab, whole = residual
    seen, again = [], []
    stopped = lab.search(0.9, on_progress=measuring(seen), should_stop=lambda: len(seen) >= 3)
    assert not stopped.complete and not len(stopped) and not stopped.sensitivity.complete
    found = lab.search(0.9, sensitivity=stopped.sensitivity, on_progress=measuring(again))
    assert again[0][0] == 4
    pd.testing.assert_frame_equal(found.front, whole.front)


def test_it_says_what_the_base_and_float_take(residual):
    lab, search = residual
    sizes = lab.compare("int8").size
    assert search.base_cost == sizes.quantized_bytes
    borders = search.float_cost - sizes.float_bytes
    assert 0 <= borders < 1000  # each layer's own borders between codes and real numbers


def test_the_best_is_chosen_by_measurement(residual):
    _, search = residual
    point, verified = search.best(4)
    assert list(verified.table.index) == list(range(len(search) - 1, len(search) - 5, -1))
    assert verified.table["measured_sqnr"].idxmax() == point
    with pytest.raises(ArgumentError, match="No point was measured"):
        search.best(4, should_stop=lambda: True)


def test_another_budget_needs_no_other_measurement(residual, monkeypatch):
    lab, search = residual
    monkeypatch.setattr(lab, "sensitivity", None)
    half = lab.search(0.6, sensitivity=search.sensitivity)
    assert half.budget == math.floor(0.6 * graph_bytes(lab.convert()))
    assert half.front["size"].max() <= half.budget < search.front["size"].max()
    inside = search.front[search.front["size"] <= half.budget]
    assert half.front["noise"].min() <= inside["noise"].min() * (1 + 1e-9)


def test_bit_operations_are_macs_times_bits():
    lab = lab_of("conv_bn_relu")
    search = lab.search(0.4, by="bit_ops", points=12)
    assert operations(lab, "int8") * 0.4 == pytest.approx(search.budget, abs=1)
    for point, row in search.front.iterrows():
        counted = operations(lab, search.mapping(point))
        assert counted == row["bit_ops"] <= search.budget
        converted = lab.convert(search.mapping(point))
        assert graph_bytes(converted) == row["size"]
    assert any(c.activation is not None and c.activation.dtype.bits < 8
               for c in search.choices(0).values())  # fmt: skip
    assert search.front["bit_ops"].is_monotonic_increasing


class Tied(nn.Module):
    """A layer called twice, and another with its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.other, self.own = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.twice.weight

    def forward(self, x):
        x = self.twice(torch.sigmoid(self.twice(x)))
        return self.own(torch.sigmoid(self.other(torch.sigmoid(x))))


def test_layers_that_share_a_weight_are_one_decision():
    lab = qlab.Lab(Tied(), torch.randn(2, 8), [torch.randn(32, 8) for _ in range(2)])
    search = lab.search(0.95)
    assert len(search) > 3
    assert [group.layers for group in search.groups] == [("twice", "twice_1", "other"), ("own",)]
    for point in search.front.index:
        chosen = search.choices(point)
        assert chosen["twice"] == chosen["twice_1"] == chosen["other"]
        converted = lab.convert(search.mapping(point))
        assert graph_bytes(converted) == search.front.loc[point, "size"]
        for name in ("twice", "twice_1", "other"):
            assert lab.plan(search.mapping(point)).step(name).weight == chosen[name].weight


def test_what_a_stronger_rule_fixes_is_not_searched():
    lab = lab_of("mlp")
    first, *others = [layer.name for layer in lab.layers if layer.type.startswith("Linear")]
    kept = qlab.presets.get("int8").mapping().set_module_name(first, None)
    search = lab.search(1.0, mapping=kept, points=5)
    assert first not in search.choices() and set(search.choices()) == set(others)
    assert lab.plan(search.mapping(0)).step(first).weight is None


def test_an_impossible_budget_names_the_smallest(residual):
    lab, search = residual
    with pytest.raises(ArgumentError, match=rf"fits the budget.*at least {search.smallest} bytes"):
        lab.search(search.smallest - 1, sensitivity=search.sensitivity)
    exact = lab.search(search.smallest, sensitivity=search.sensitivity)
    assert list(exact.front["size"]) == [search.smallest]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": "half"}, DTypeError, "A budget is a number"),
        ({"budget": True}, DTypeError, "A budget is a number"),
        ({"budget": 0}, ArgumentError, "Not a budget"),
        ({"budget": -0.5}, ArgumentError, "Not a budget"),
        ({"budget": math.nan}, ArgumentError, "Not a budget"),
        ({"budget": 20000.0}, ArgumentError, "Not a budget.*a fraction of the base's"),
        ({"budget": 0.5, "by": "time"}, UnknownNameError, "Unknown measure of a budget 'time'"),
        ({"budget": 0.5, "candidates": []}, ArgumentError, "candidates with names of their own"),
        ({"budget": 0.5, "candidates": [FLOAT, FLOAT]}, ArgumentError, "names of their own"),
        ({"budget": 0.5, "mapping": qlab.QConfigMapping()}, ArgumentError, "nothing to decide"),
    ],
)
def test_silly_searches_are_refused(residual, arguments, error, message):
    lab, search = residual
    with pytest.raises(error, match=message):
        lab.search(sensitivity=search.sensitivity, **arguments)


def test_sensitivities_that_do_not_fit_are_refused(residual):
    lab, search = residual
    off = search.sensitivity.table.rename(columns=lambda c: c.replace("_on", "_off"))
    with pytest.raises(ArgumentError, match="say nothing of single layers"):
        lab.search(0.5, sensitivity=dataclasses.replace(search.sensitivity, table=off))
    part = search.sensitivity.table.iloc[5:]
    with pytest.raises(ArgumentError, match=r"sensitivity of .* as 'w8a8' is not known"):
        lab.search(0.5, sensitivity=dataclasses.replace(search.sensitivity, table=part))
    with pytest.raises(UnknownNameError, match="Unknown point of the front 1000"):
        search.mapping(1000)


def test_an_estimate_does_where_nothing_was_measured(residual):
    lab, search = residual
    table = search.sensitivity.table.rename(columns=lambda c: c.replace("_on", "_estimate"))
    estimated = dataclasses.replace(search.sensitivity, table=table)
    again = lab.search(0.9, sensitivity=estimated)
    pd.testing.assert_frame_equal(again.front, search.front)
    assert isinstance(again.sensitivity, Sensitivity)


def test_stopping_keeps_the_points_that_were_found(residual):
    lab, search = residual
    seen = []

    def searching(*step):
        if step[2] == "searching":
            seen.append(step)

    hooks = {"on_progress": searching, "should_stop": lambda: len(seen) >= 3}
    few = lab.search(0.9, sensitivity=search.sensitivity, **hooks)
    assert len(few) == 3 and not few.complete
    assert seen[-1] == (3, 64, "searching")
    pd.testing.assert_frame_equal(
        few.front.reset_index(drop=True), search.front.tail(3).reset_index(drop=True)
    )
    none = lab.search(0.9, should_stop=lambda: True)
    assert len(none) == 0 and not none.complete and np.isnan(none.bound)


@pytest.mark.slow
def test_the_transformer_at_half_the_size_of_int8_stays_within_two_points_of_float():
    sample = sample_models.load("vit")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(), sample.evaluation())
    search = lab.search(0.5, points=5)
    best, verified = search.best(3)
    measured = verified.table.loc[best]
    assert measured["size"] <= 0.5 * graph_bytes(lab.convert("int8"))
    assert measured["float_accuracy"] - measured["accuracy"] <= 2.0
    assert verified.table["noise_ratio"].between(0.5, 2.0).all()
