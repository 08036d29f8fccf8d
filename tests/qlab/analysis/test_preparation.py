"""Quantizing the candidates of a question about sensitivity, and being stopped at it."""

import pandas as pd
import pytest
import torch

import qlab
from qlab.analysis.parts import only
from qlab.analysis.sensitivity import MEASURING
from qlab.execution import Program
from qlab.lab.arguments import resolve_mapping
from qlab.ops import compiled
from tests.qlab.analysis.test_hooked import Loops
from tests.qlab.analysis.test_hooked import lab_of as hooked_lab_of
from tests.qlab.analysis.test_sensitivity import lab_for, make_lab, measured, measuring


def calibrated(name):
    lab = make_lab(name)
    lab.calibrate()
    return lab


def test_progress_moves_while_candidates_are_prepared_and_reaches_its_end():
    lab, seen = calibrated("mlp"), []
    lab.sensitivity(["int8", "int4-weights"], on_progress=lambda *p: seen.append(p))
    preparing = [p for p in seen if p[2].startswith("preparing")]
    assert preparing == seen[: len(preparing)]
    totals = {total for _, total, _ in preparing}
    assert [done for done, *_ in preparing] == list(range(1, totals.pop() + 1))
    assert not totals
    assert {"preparing fc1", "preparing int8"} <= {label for *_, label in preparing}
    assert {label for *_, label in seen[len(preparing) :]} == {MEASURING}


@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_stop_while_candidates_are_prepared_ends_it_at_once(after, monkeypatch):
    lab, seen, runs = calibrated("mlp"), [], []
    ran = Program.run
    monkeypatch.setattr(Program, "run", lambda *given: runs.append(1) or ran(*given))
    found = lab.sensitivity(
        ["int8", "int4-weights"],
        on_progress=lambda *p: seen.append(p),
        should_stop=lambda: len(seen) >= after,
    )
    assert len(seen) == after and not runs
    assert (found.complete, found.samples, len(found.table)) == (False, 0, 6)
    assert found.table.isna().all(axis=None)
    pd.testing.assert_frame_equal(
        lab.sensitivity(["int8", "int4-weights"], since=found).table,
        measured("mlp").table,
        check_exact=True,
    )


def test_a_stop_while_it_prepares_more_keeps_what_was_known():
    lab, seen = calibrated("mlp"), []
    known = lab.sensitivity("int8", ways=("on",))
    found = lab.sensitivity({"int8": "int8", "w4": "int4-weights"}, ways=("on",), since=known,
                            should_stop=lambda: True)  # fmt: skip
    assert found.table.xs("w4", level="config").noise_on.isna().all()
    lab.sensitivity("int8", ways=("on",), since=found, on_progress=measuring(seen))
    assert not seen


def test_what_is_known_of_all_batches_is_not_prepared_again():
    lab, seen = calibrated("mlp"), []
    known = lab.sensitivity("int8", ways=("on", "estimate"))
    again = lab.sensitivity(
        "int8", ways=("on",), since=known, on_progress=lambda *p: seen.append(p)
    )
    assert not seen and again.complete
    pd.testing.assert_series_equal(again.table.noise_on, known.table.noise_on, check_exact=True)


def test_layers_of_other_candidates_are_gone_on_from_too():
    lab, seen = calibrated("mlp"), []
    known = lab.sensitivity("int8", ways=("on",))
    mapping = qlab.presets.get("int8").mapping().set_module_name("fc1", None)
    less = lab.sensitivity(
        {"less": mapping}, ways=("on",), since=known, on_progress=measuring(seen)
    )
    assert all(done > 0 for done, *_ in seen) and less.complete
    assert set(less.table.index.get_level_values("layer")) == {"fc2", "fc3"}


def test_an_answer_about_a_repaired_model_is_not_taken_for_one_about_the_original():
    lab, seen = calibrated("depthwise"), []
    known = lab.sensitivity("int8", ways=("on",))
    repaired = lab.apply(lab.repair_with("equalize"))
    total = repaired.sensitivity("int8", ways=("on",), since=known, on_progress=measuring(seen))
    assert total.complete and seen[0][0] == 1


@pytest.mark.parametrize("name", ["residual", "depthwise", "vit"])
@pytest.mark.parametrize("preset", ["int8", "int4-weights"])
def test_scales_that_were_prepared_are_those_that_converting_finds(name, preset):
    lab = lab_for(name)
    study, mapping = lab._study, qlab.presets.get(preset).mapping()
    plan = study.plan(mapping)
    assert [label for label, _ in study.scales(plan)]
    kept = study.execute(plan)
    statistics = lab.calibrate().statistics
    own = qlab.graph.convert(study.graph, plan, plan.qparams(statistics))
    assert kept.state_dict().keys() == own.state_dict().keys()
    for key, value in own.state_dict().items():
        same = kept.state_dict()[key]
        assert torch.equal(same, value) if isinstance(value, torch.Tensor) else same == value


@pytest.mark.parametrize("way", ["on", "off"])
def test_without_a_graph_a_stop_while_preparing_ends_it_too(way):
    lab, seen = hooked_lab_of(Loops), []
    lab.calibrate()
    found = lab.sensitivity(
        ways=(way,), on_progress=lambda *p: seen.append(p), should_stop=lambda: len(seen) >= 2
    )
    assert len(seen) == 2 and all("preparing" in label for *_, label in seen)
    assert not found.complete and len(found.table) and found.table.isna().all(axis=None)


def test_importing_numba_is_a_piece_of_its_own(monkeypatch):
    """It takes a second, and would stand between two questions whether to stop."""
    lab, imported, seen = calibrated("mlp"), [], []
    monkeypatch.setattr(compiled, "unavailable", lambda: imported.append(len(seen)))
    lab.sensitivity(ways=("on",), on_progress=lambda *p: seen.append(p), should_stop=lambda: seen)
    assert imported == [0] and len(seen) == 1


def test_parts_cover_what_was_seen_before_a_stop():
    lab = calibrated("mlp")
    found = lab.compare("int8", parts=True, should_stop=lambda: True)
    alone = lab.compare(only(resolve_mapping("int8"), "weight"), should_stop=lambda: True)
    assert not found.complete and alone.samples == found.samples
    pd.testing.assert_frame_equal(alone.layers, found.weight_only)
    assert len(found.activation_only) == len(found.layers)
