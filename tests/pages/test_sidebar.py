"""The sidebar's choices: what the app has chosen outlives a click that came too early."""

from streamlit.testing.v1 import AppTest

from pages.common import sidebar
from tests.pages.harness import ROOT, SECONDS, settle


def configure() -> AppTest:
    page = AppTest.from_file(ROOT / "app.py", default_timeout=SECONDS)
    page.session_state["model"] = "mlp"
    settle(page.run())
    return settle(page.switch_page("pages/configure.py").run())


def leave(page: AppTest, **address: str) -> AppTest:
    """Goes to another page as a browser does that has not seen the last answer."""
    for key, value in address.items():
        page.query_params[key] = value
    return settle(page.switch_page("pages/norms.py").run())


def test_a_preset_chosen_by_a_button_outlives_an_early_change_of_page():
    page = configure()
    page.pills(key="configure_preset").set_value("int4-weights").run()
    assert page.selectbox(key="preset").value == "int4-weights"
    leave(page, preset="int8")
    assert page.selectbox(key="preset").value == "int4-weights"


def unheard(page: AppTest, **values: str) -> AppTest:
    """A message that the browser sent before it heard of the app's last choice."""
    page.session_state[sidebar.ARRIVED] = ""
    for key, value in values.items():
        page.session_state[key] = value
    return page.run()


def test_a_former_value_that_comes_with_the_click_does_not_come_back():
    page = configure()
    page.pills(key="configure_preset").set_value("int4-weights").run()
    page.session_state["preset"] = "int8"
    leave(page)
    assert page.selectbox(key="preset").value == "int4-weights"
    leave(page)
    page.selectbox(key="preset").set_value("int8").run()
    settle(page.switch_page("pages/formats.py").run())
    assert page.selectbox(key="preset").value == "int8"


def test_a_former_model_that_comes_with_a_drawing_of_progress_does_not_come_back():
    page = configure()
    page.session_state["choices_to_come"] = {"model": "residual"}
    page.run()
    for _ in range(3):  # however many such messages were on their way
        unheard(page, model="mlp")
        assert page.selectbox(key="model").value == "residual"
    assert settle(page).selectbox(key="model").value == "residual"


def test_a_former_preset_that_comes_with_a_drawing_of_progress_does_not_come_back():
    page = configure()
    page.pills(key="configure_preset").set_value("int4-weights").run()
    unheard(page, preset="int8")
    assert page.selectbox(key="preset").value == "int4-weights"


def test_the_former_model_can_be_chosen_again_as_soon_as_the_other_one_is_seen():
    page = configure()
    page.session_state["choices_to_come"] = {"model": "residual"}
    settle(page.run())
    settle(page.selectbox(key="model").set_value("mlp").run())
    assert page.selectbox(key="model").value == "mlp"
    settle(page.selectbox(key="model").set_value("residual").run())
    settle(page.selectbox(key="model").set_value("mlp").run())
    assert page.selectbox(key="model").value == "mlp"


def test_what_arrived_is_a_number_or_nothing():
    page = configure()
    page.session_state[sidebar.ARRIVED] = "never"
    assert not settle(page.run()).error


def test_what_the_person_chooses_later_counts():
    page = configure()
    page.pills(key="configure_preset").set_value("int4-weights").run()
    page.selectbox(key="preset").set_value("int8").run()
    leave(page, preset="int8")
    assert page.selectbox(key="preset").value == "int8"
