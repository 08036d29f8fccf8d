"""What candidates take, told without searching for their ranges."""

import pytest

import qlab
from qlab.analysis.report import graph_bytes
from qlab.analysis.search.candidates import Space
from qlab.ranges import MSE
from tests.qlab.analysis.test_sensitivity import make_lab


@pytest.mark.parametrize("name", ["residual", "depthwise", "vit"])
@pytest.mark.parametrize("by", ["size", "bit_ops"])
def test_sizes_are_those_of_the_converted_models_and_need_no_search(name, by, monkeypatch):
    lab, seen, searched = make_lab(name), [], []
    lab.calibrate()
    found = MSE.row_range
    monkeypatch.setattr(MSE, "row_range", lambda *given: searched.append(1) or found(*given))
    space = Space(
        lab._study,
        qlab.presets.get("int8").mapping(),
        None,
        by,
        on_progress=lambda *p: seen.append(p),
    )
    assert not searched
    assert [done for done, *_ in seen] == list(range(1, len(space.candidates) + 1))
    assert seen[1][2] == "preparing " + space.candidates[1].name
    for candidate in space.candidates:
        chosen = dict.fromkeys(space.layers, candidate)
        assert space.exact_bytes(chosen) == graph_bytes(lab.convert(space.uniform(candidate)))
    assert searched
