"""Errors read as words with a way out, and never as a traceback."""

import pytest
from streamlit.testing.v1 import AppTest

from pages.common.messages import explain
from qlab import errors
from qlab.dtypes import integer
from qlab.errors import QlabError


def test_an_error_of_the_engine_says_what_it_means_and_what_to_do():
    with pytest.raises(QlabError) as caught:
        integer(9, signed=True)
    message = explain(caught.value)
    assert message.what == "No signed quantized integer has 9 bits."
    assert "Expected 2, 3, 4, 5, 6, 7, 8 or 16 bits, or 32. Received 9." in message.meaning
    assert "Everything you entered is kept" in message.remedy


def test_the_engines_own_advice_comes_first():
    error = errors.UncalibratedError("No range", fix="Run calibration data.")
    assert explain(error).remedy == "Run calibration data."


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, QlabError) and kind is not QlabError
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_has_all_three_parts(kind: type[QlabError]):
    message = explain(kind("It broke"))
    assert message.what == "It broke."
    assert message.remedy
    assert message.meaning


def test_an_unforeseen_error_is_named_and_nothing_is_lost():
    message = explain(KeyError("x" * 1000))
    assert "did not foresee" in message.what
    assert message.meaning.startswith("KeyError: ")
    assert len(message.meaning) <= 300
    assert "kept" in message.remedy


def failing_page() -> None:
    import streamlit as st

    from pages.common import messages
    from qlab.errors import ShapeError

    with messages.shown():
        if st.button("fail", key="fail"):
            raise ShapeError("The layer `a__b` [x](https://e)", received="shape (2,)")
        if st.button("stop", key="stop"):
            st.stop()
        st.text("all is well")


def test_a_page_shows_the_message_and_goes_on_after_try_again():
    page = AppTest.from_function(failing_page).run()
    page.button(key="fail").click().run()
    assert not page.exception
    assert r"The layer \`a\_\_b\` \[x\]\(https\://e\)\." in page.error[0].value
    assert r"shape \(2,\)" in page.error[0].value
    page.button(key="again-page").click().run()
    assert not page.error
    assert page.text[0].value == "all is well"


def test_streamlits_own_signals_pass():
    page = AppTest.from_function(failing_page).run()
    page.button(key="stop").click().run()
    assert not page.error
    assert not page.text
