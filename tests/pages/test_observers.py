"""Observers: the numbers are the engine's, and every knob changes them."""

import pytest
import torch
from streamlit.testing.v1 import AppTest

from pages.common import contest
from pages.common.contest import DISTRIBUTIONS, Outliers
from qlab.dtypes import integer
from qlab.ranges import MSE, MinMax, TensorSpec, clipped_at
from qlab.stats import TensorStats
from tests.pages.harness import ROOT, SECONDS, chart, open_page, settle, workspace_of

SQNR = "SQNR [dB] ↑"


@pytest.fixture
def page() -> AppTest:
    return open_page("observers")


def table(page: AppTest) -> dict[str, float]:
    frame = page.dataframe[0].value
    return dict(zip(frame["observer"], frame[SQNR], strict=True))


def clips_at(page: AppTest, observer: str) -> float:
    return {trace.name: trace for trace in chart(page, "contest_curve").data}[observer].x[0]


def test_the_table_holds_what_the_engine_says(page: AppTest):
    stats = contest.made_up("normal", Outliers(0, 20.0))
    spec = TensorSpec(integer(4, signed=False))
    for policy in (MinMax(), MSE()):
        own = TensorSpec(integer(4, signed=False), policy=policy).qparams(stats)
        assert own.scale_value > 0
        assert policy.label in table(page)
    most = contest.largest(stats)
    assert table(page)["▸ yours"] == pytest.approx(clipped_at(stats, spec, most).error.sqnr_db)
    assert table(page)["▸ yours"] == pytest.approx(table(page)["min-max"])


def test_the_threshold_moves_the_persons_own_row_and_nothing_else(page: AppTest):
    before = table(page)
    page.slider(key="contest_share").set_value(60).run()
    after = table(page)
    assert after.pop("▸ yours") > before.pop("▸ yours") + 1
    assert after == before


def test_outliers_drag_min_max_away_and_leave_the_least_squared_error_near(page: AppTest):
    before = table(page)
    page.slider(key="contest_outliers").set_value(3).run()
    page.slider(key="contest_strength").set_value(30).run()
    after = table(page)
    assert after["min-max"] < before["min-max"] - 3
    assert after["least squared error"] > after["min-max"] + 1


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_distribution_is_drawn_with_its_marks(page: AppTest, distribution: str):
    page.selectbox(key="contest_source").set_value(distribution).run()
    curve = {trace.name: trace for trace in chart(page, "contest_curve").data}
    together = [value for value in curve["together"].y if value is not None]
    assert max(together) <= curve["least squared error"].y[0] + 0.3
    assert len(curve) == 3 + 5


def test_more_bits_and_a_symmetric_scheme_change_the_answer(page: AppTest):
    before = table(page)
    page.select_slider(key="contest_bits").set_value(8).run()
    assert table(page)["min-max"] > before["min-max"] + 15
    page.selectbox(key="contest_source").set_value("after a ReLU").run()
    affine = table(page)
    page.segmented_control(key="contest_scheme").set_value("symmetric").run()
    assert table(page)["min-max"] < affine["min-max"] - 3  # half the codes lie below zero


@pytest.mark.parametrize("kind", ["output", "weight"])
def test_a_layer_of_the_model_takes_the_made_up_tensors_place(page: AppTest, kind: str):
    settle(page.selectbox(key="contest_source").set_value("a layer of the model").run())
    page.selectbox(key="contest_layer").set_value("block2.dw.conv")
    page.segmented_control(key="contest_kind").set_value(kind).run()
    before = clips_at(page, "min-max")
    page.slider(key="contest_outliers").set_value(50).run()
    page.slider(key="contest_strength").set_value(100).run()
    assert not page.exception
    assert not page.error
    assert clips_at(page, "min-max") > 2 * before


@pytest.mark.parametrize(
    ("axis", "shape"), [(None, (4, 6)), (0, (6, 4)), (1, (2, 6, 3)), (-1, (4, 6))]
)
def test_outliers_are_added_to_statistics_of_any_layout(axis: int | None, shape: tuple[int, ...]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stats = TensorStats.of(x, channel_axis=axis)
    count, top = stats.count, float(stats.max_val)
    mixed = contest.with_outliers(stats, Outliers(12, 50.0))
    assert mixed.count == count + 12
    assert float(mixed.max_val) > 10 * top
    assert (stats.count, float(stats.max_val)) == (count, top)
    assert contest.with_outliers(stats, Outliers(0, 50.0)) is stats


def test_the_knobs_stand_in_a_fresh_browser_as_they_were_left(page: AppTest):
    values = {"contest_share": 40, "contest_bits": 6, "contest_outliers": 7, "contest_strength": 55}
    for key, value in values.items():
        widget = page.select_slider if key == "contest_bits" else page.slider
        widget(key=key).set_value(value).run()
    page.segmented_control(key="contest_scheme").set_value("symmetric").run()
    fresh = AppTest.from_file(ROOT / "pages" / "observers.py", default_timeout=SECONDS)
    fresh.query_params["w"] = workspace_of(page).id
    settle(fresh.run())
    for key, value in values.items():
        assert fresh.session_state[key] == value
    assert fresh.segmented_control(key="contest_scheme").value == "symmetric"
    assert table(fresh) == table(page)
