"""Errors as people read them: what happened, what it means, what to do. Never a traceback."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import streamlit as st

from pages.common.format import escape
from pages.common.jobs import log_error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Message:
    """One error in words.

    Attributes:
        what: What happened.
        meaning: What it means for the person.
        remedy: What to do.
    """

    what: str
    meaning: str
    remedy: str


_MEANINGS = {
    "DTypeError": ("The numbers are of another type than this step takes.", ""),
    "ShapeError": ("The tensor's shape does not fit this setting.", ""),
    "ArgumentError": ("A setting has a value that makes no sense here.", ""),
    "OperandError": ("A shape, an index or a number does not fit this operation.", ""),
    "NonFiniteError": (
        "The model or its data hold NaN or infinity, for which no range exists.",
        "Choose other calibration data, or look at the layer named above.",
    ),
    "UnfinishedError": ("Something broke off in the middle; what was measured is kept.", ""),
    "UncalibratedError": (
        "qlab has not seen data for this tensor yet, so it cannot choose a range.",
        "Choose a calibration size in the sidebar; the ranges are then collected.",
    ),
    "MissingDataError": (
        "Measuring needs data, and this model came without any.",
        "Bring data on *Calibrate*.",
    ),
    "StateError": ("The weights are of another model; nothing was changed.", ""),
    "UnsupportedError": (
        "This layer has no quantized form under this setting.",
        "Choose another granularity or observer, or keep the layer in float.",
    ),
    "TraceError": ("qlab could not follow the model's code.", ""),
    "FormatError": ("The file is not what it should be; nothing was changed.", ""),
    "UnknownNameError": ("Nothing has that name in this model or in qlab.", ""),
}
_DEFAULT_REMEDY = "Change the setting you changed last. Everything you entered is kept."


def explain(error: Exception) -> Message:
    """Turns any exception into words; those of qlab already know what to say."""
    from qlab.errors import QlabError

    if not isinstance(error, QlabError):
        return Message(
            "Something failed that qlab did not foresee.",
            f"{type(error).__name__}: {error}"[:300],
            "Everything you entered is kept. Try again; if it stays, the server's log has the "
            "details for a bug report.",
        )
    meaning, remedy = _MEANINGS.get(type(error).__name__, ("", _DEFAULT_REMEDY))
    facts = [f"Expected {error.expected}." if error.expected is not None else ""]
    facts.append(f"Received {error.received}." if error.received is not None else "")
    return Message(
        error.problem.rstrip(".") + ".",
        " ".join(part for part in (meaning, *facts) if part),
        error.fix or remedy or _DEFAULT_REMEDY,
    )


def show(error: Exception, *, retry: Callable[[], None] | None = None, key: str = "retry") -> None:
    """Draws an error.

    Args:
        error: What was raised.
        retry: What the button "Try again" does before the page is drawn anew; None for no button.
        key: The button's key, unique on the page.
    """
    message = explain(error)
    with st.container(key=f"error-{key}"):
        st.error(
            f"**{escape(message.what)}**\n\n{escape(message.meaning)}\n\n{escape(message.remedy)}"
        )
        if retry is not None:
            st.button("Try again", key=key, on_click=retry)


class WaitingError(Exception):
    """Ends a part of a page whose numbers are still being computed, after it has said so."""


@contextmanager
def shown(key: str = "page") -> Iterator[None]:
    """Draws whatever the block raises instead of raising it; Streamlit's own signals pass."""
    try:
        yield
    except WaitingError:
        return
    except Exception as error:
        log_error(log, "shown on the page as a message", error)
        show(error, retry=_again, key=f"again-{key}")


def _again() -> None:
    """Nothing to undo: the click alone draws the page anew."""
