"""The sidebar, drawn by every page: which model, which preset, calibration data, device."""

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.common import models
from pages.common.format import escape
from pages.common.workspace import Choice, Workspace

DEFAULT_PRESET = "int8"
_NEXT = "choices_to_come"
_UNSEEN = "choices_unseen"
_NUMBER = "choices_made"
_SAID = "choices_said_to_have_arrived"
_PAGE = "page_of_last_run"
#: A hidden field that the app fills whenever it makes a choice. What the browser sends back of it
#: says which of these choices had arrived when it spoke.
ARRIVED = "choices_arrived"

NOISE = "Random noise, no real images: ranges and errors say nothing about real data."


def draw(workspace: Workspace, page: str) -> Choice:
    """Draws the sidebar and returns what it says; the address carries the same.

    Args:
        workspace: Whose choices.
        page: Which page draws it.
    """
    from qlab.presets import PRESETS

    _come_back()
    arrived = _arrived()
    offered = models.offered(workspace)
    moved = st.session_state.get(_PAGE, page) != page
    st.session_state[_PAGE] = page
    _restore(workspace, moved)
    for key, value in st.session_state.pop(_NEXT, {}).items():
        _set(key, value)
    _accept_plain_name()
    with st.sidebar:
        model = st.selectbox(
            "Model",
            list(offered),
            index=_keep_valid("model", tuple(offered), models.greeting()),
            format_func=lambda name: label(name, offered[name].trained),
            key="model",
            bind="query-params",
            help="Sample models with their data. The trained ones read 8×8 digits.",
        )
        _keep_unseen("model", model, moved, arrived)
        offer = offered[model]
        st.caption(f"{escape(offer.title)}. {escape(offer.teaches)}")
        preset = st.selectbox(
            "Preset",
            list(PRESETS),
            index=_keep_valid("preset", tuple(PRESETS), DEFAULT_PRESET),
            key="preset",
            bind="query-params",
            help="A named configuration: how weights and activations are quantized everywhere.",
        )
        _keep_unseen("preset", preset, moved, arrived)
        st.caption(escape(PRESETS[preset].description))
        samples = st.selectbox(
            "Calibration images",
            offer.sizes,
            index=_keep_valid("samples", offer.sizes, offer.size),
            key="samples",
            bind="query-params",
            help="How many images the float model sees, once, to learn the range of every tensor.",
        )
        _keep_unseen("samples", samples, moved, arrived)
        if offer.noise:
            st.caption(f":orange[**{NOISE}**]")
        choice = Choice(model, preset, samples, _device())
        _changes(workspace, choice)
        st.session_state.pop(_SAID, None)
        st.text_input("Arrived", key=ARRIVED, label_visibility="collapsed", persist_state="session")
    return choice


def _arrived() -> int:
    """The last choice of the app's that the browser had heard of when it spoke."""
    said = st.session_state.pop(_SAID, st.session_state.get(ARRIVED))
    told = str(said or "")
    return int(told) if told.isascii() and told.isdigit() else 0


def _device() -> str:
    """Draws the choice among the devices that are there, and says why CUDA is not."""
    from qlab.execution import device_names, no_cuda

    named, missing = device_names(), no_cuda()
    device = st.selectbox(
        "Device",
        list(named),
        index=_keep_valid("device", tuple(named), "cpu"),
        key="device",
        bind="query-params",
        disabled=len(named) == 1,
        help="Where the networks run and calibration counts. Linear layers and convolutions give "
        "the same integers on every device.",
    )
    if missing is not None:
        st.caption(f"No CUDA: {missing}.")
    elif device != "cpu":
        st.caption(escape(named[device]))
    return device or "cpu"


def _come_back() -> None:
    """Has the browser's Back and Forward lead to a page as the sidebar's links do.

    Streamlit would give every choice that the former address does not name its default, whatever
    the workspace says. Run once more, the page takes from the address what that names, and the rest
    from the workspace.
    """
    context = get_script_run_ctx()
    if context is not None and context.is_history_navigation:
        st.rerun()


def _restore(workspace: Workspace, moved: bool) -> None:
    """In a fresh browser the choices are the workspace's, where the address names no others.

    On another page than before they are those of the page before: its widgets' values are still
    there, but one that only ever came from the address would not become the new widget's.
    """
    if workspace.choice is None:
        return
    for key, value in workspace.choice._asdict().items():
        if key not in st.query_params and (moved or key not in st.session_state):
            _set(key, st.session_state.get(key, value))


def _accept_plain_name() -> None:
    """Lets an address name an untrained model without its label, which Streamlit would drop."""
    from sample_models.catalog import MODELS

    asked = st.query_params.get("model")
    if asked in MODELS and MODELS[asked].recipe is None:
        del st.query_params["model"]
        choose_model(asked)


def choose_model(name: str) -> None:
    """Chooses a model from elsewhere; to be called before the sidebar is drawn."""
    if st.session_state.get("model") != name:
        _set("model", name)


def choose_next(name: str) -> None:
    """Chooses a model from within a page, as of its next run."""
    st.session_state[_NEXT] = {"model": name}


def choose(key: str, value: object) -> None:
    """Makes one of the sidebar's choices by another widget; for its callback."""
    _note(key, value)
    st.session_state[key] = value


def _set(key: str, value: object) -> None:
    _note(key, value)
    st.session_state[key] = value


def _note(key: str, value: object) -> None:
    """Numbers a choice of the app's, for `_keep_unseen`."""
    if key in st.session_state and st.session_state[key] != value:
        number = st.session_state[_NUMBER] = st.session_state.get(_NUMBER, 0) + 1
        unseen = st.session_state.get(_UNSEEN, {})
        st.session_state[_UNSEEN] = {**unseen, key: (st.session_state[key], value, number)}
        st.session_state.setdefault(_SAID, st.session_state.get(ARRIVED))
        st.session_state[ARRIVED] = str(number)


def _keep_unseen(key: str, value: object, moved: bool, arrived: int) -> None:
    """Keeps a choice that the app has made and the browser has not seen.

    With every click, and every time that progress is drawn anew, the browser sends its widgets and
    its address along. If what the app chose just before was still on its way, the former choice
    would come back. Once it has arrived, the former choice is one that the person makes.
    """
    unseen = st.session_state.get(_UNSEEN, {})
    former, chosen, number = unseen.get(key, (value, value, 0))
    if former == chosen:
        return
    came_back = value == former and (moved or arrived < number)
    if moved or value != chosen or arrived >= number:
        st.session_state[_UNSEEN] = {k: v for k, v in unseen.items() if k != key}
    if came_back:
        st.session_state[_NEXT] = {**st.session_state.get(_NEXT, {}), key: chosen}
        st.rerun()


def label(name: str, trained: bool) -> str:
    """A model's name wherever it is shown: random weights are called what they are."""
    return name if trained else f"{name} (untrained)"


def _keep_valid(key: str, options: tuple, default: object) -> int:
    """Drops a choice that this model does not offer.

    Returns:
        The widget's `index`, which is that of the default at every run: what the browser leaves out
        of the address is what the widget said last of its default.
    """
    if st.session_state.get(key, default) not in options:
        st.session_state[key] = default
    return options.index(default)


def _changes(workspace: Workspace, choice: Choice) -> None:
    count = workspace.changes(choice)
    if not count:
        return
    changes = "1 change" if count == 1 else f"{count} changes"
    st.caption(f"Preset with {changes} of yours")
    undo, reset = st.columns(2)
    undo.button("Undo", key="undo", on_click=workspace.undo, args=(choice,), width="stretch")
    reset.button("Reset", key="reset", on_click=workspace.reset, args=(choice,), width="stretch")
