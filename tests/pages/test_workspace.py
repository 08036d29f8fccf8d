"""The workspace in the address: who has the link sees it, and nobody else."""

import pytest
from streamlit.testing.v1 import AppTest

from pages.common import format as fmt
from pages.common.store import store
from tests.pages.harness import ROOT, SECONDS, has_button, metrics, open_page, settle, workspace_of


def follow(address: dict[str, str], name: str = "overview") -> AppTest:
    """Opens a page in a fresh browser session at an address."""
    page = AppTest.from_file(ROOT / "pages" / f"{name}.py", default_timeout=SECONDS)
    for key, value in address.items():
        page.query_params[key] = value
    return settle(page.run())


def link(page: AppTest) -> dict[str, str]:
    """What a person who copies the bare link of a workspace has."""
    return {"w": page.query_params["w"]}


@pytest.fixture
def changed() -> AppTest:
    """A page on which every sidebar choice was made, a layer selected and changed."""
    page = open_page("layer", model="mlp", preset="int8-minmax", samples=32)
    page.selectbox(key="layer").set_value("fc2").run()
    page.select_slider(key="weight_bits").set_value("4").run()
    page.button(key="apply").click().run()
    return page


def test_the_link_brings_everything_back_in_a_fresh_browser(changed: AppTest):
    page = follow(link(changed), "layer")
    assert workspace_of(page) is workspace_of(changed)
    for key, value in (("model", "mlp"), ("preset", "int8-minmax"), ("samples", 32)):
        assert page.selectbox(key=key).value == value
    assert page.selectbox(key="layer").value == "fc2"
    assert page.select_slider(key="weight_bits").value == "4"
    page.button(key="undo").click().run()
    assert page.select_slider(key="weight_bits").value == "8"
    changed.run()
    assert changed.select_slider(key="weight_bits").value == "8"


def test_it_is_all_there_after_a_restart_of_the_server(changed: AppTest):
    before = workspace_of(changed)
    store.clear()
    page = follow(link(changed), "layer")
    assert workspace_of(page) is not before
    assert page.selectbox(key="layer").value == "fc2"
    assert page.select_slider(key="weight_bits").value == "4"
    assert page.selectbox(key="preset").value == "int8-minmax"


def test_the_rest_of_the_address_is_stronger_than_the_workspace(changed: AppTest):
    page = follow({**link(changed), "preset": "float8"})
    assert page.selectbox(key="preset").value == "float8"
    assert page.selectbox(key="model").value == "mlp"
    assert not has_button(page, "undo")


@pytest.mark.parametrize("id", ["", "0" * 32, "f" * 31, "../../x", "<b>"])
def test_an_unknown_id_gets_a_fresh_workspace_of_another_id(changed: AppTest, id: str):
    page = follow({"w": id})
    mine = workspace_of(page)
    assert mine.id not in (id, workspace_of(changed).id)
    assert page.selectbox(key="model").value == "depthwise"
    assert not mine.history or all(len(mappings) == 1 for mappings in mine.history.values())


def test_an_address_that_has_lost_its_id_gets_it_back(changed: AppTest):
    id = workspace_of(changed).id
    del changed.query_params["w"]
    changed.run()
    assert changed.query_params["w"] == id


def test_a_pages_own_widget_is_restored_too():
    page = open_page("overview", model="mlp")
    page.segmented_control(key="order").set_value("worst first").run()
    again = follow(link(page))
    assert again.segmented_control(key="order").value == "worst first"
    again.segmented_control(key="order").set_value("graph order").run()
    assert follow(link(page)).segmented_control(key="order").value == "graph order"


def test_a_setting_that_is_no_longer_offered_gives_way_to_the_default():
    page = open_page("overview", model="mlp")
    workspace_of(page).set("order", "by colour")
    assert follow(link(page)).segmented_control(key="order").value == "graph order"


def test_numbers_that_were_shown_stay_stale_in_a_fresh_browser():
    page = open_page("overview", model="depthwise", preset="int8-per-tensor")
    page.button(key="remedy_0").click().run()
    assert "Output SQNR ↑ · stale" in metrics(page)
    again = follow(link(page))
    assert metrics(again) == metrics(page)
    assert again.warning[0].value.startswith("Stale")
    settle(again.button(key="refresh").click().run())
    assert not again.warning


def test_every_measured_configuration_is_a_run_of_this_workspace_alone():
    page = open_page("overview", model="depthwise", preset="int8-per-tensor")
    before = workspace_of(page)
    (first,) = store().runs(before)
    assert metrics(page)["Output SQNR ↑"] == fmt.number(first.metrics["sqnr"], "dB")
    page.run()
    assert len(store().runs(before)) == 1
    page.button(key="remedy_0").click().run()
    assert len(store().runs(before)) == 1  # stale numbers are those of the first run
    settle(page.button(key="refresh").click().run())
    _, second = store().runs(before)
    assert second.parent == first.id
    assert second.metrics["sqnr"] > first.metrics["sqnr"]
    store.clear()
    again = workspace_of(follow(link(page)))
    assert again is not before
    assert [run.name for run in store().runs(again)] == [first.name, second.name]
    stranger = open_page("overview", model="depthwise", preset="int8-per-tensor")
    assert len(store().runs(workspace_of(stranger))) == 1


def test_a_link_to_a_workspace_that_is_not_there_says_so_until_another_page_is_opened():
    page = AppTest.from_file(ROOT / "app.py", default_timeout=SECONDS)
    page.query_params["w"] = "0" * 32
    page.switch_page("pages/norms.py")
    for _ in range(2):
        page.run()
        assert [w.value for w in page.warning if "names a workspace that is not" in w.value]
    assert page.query_params["w"] != ["0" * 32]
    page.switch_page("pages/formats.py").run()
    assert not page.warning
    assert not open_page("norms").warning
