"""Where people bring a model (*Model*) and data for it (*Calibrate*)."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from pages.common import engine, messages, models, sidebar, uploads
from pages.common.brought import ModelFile, SampleFile
from pages.common.collecting import loaded_key
from pages.common.engine import wait_for
from pages.common.format import count, escape, size
from pages.common.frame import View
from pages.common.jobs import Key, Progress
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from qlab.cli.files import FileData
    from qlab.io.uploads import UploadedModel

#: Mean and std that images were often trained with, by what people call them.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0 to 1": ((0.0,), (1.0,)),
    "−1 to 1": ((0.5,), (0.5,)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
OTHER = "other numbers"
LARGEST = 4096


def model_form(view: View) -> None:
    """Draws where a model is uploaded, how far one is that is being read, and its removal."""
    space = view.workspace
    with st.expander(
        "Your own model", expanded=space.reading_model is not None or _given("model_file")
    ):
        st.markdown(
            "A `.pt2` archive, or weights in `.safetensors` for an architecture that has a name. "
            "Files are read as data, never run; pickles (`.pt`, `.pth`, `.bin`, `.ckpt`) are "
            "refused. The model stays in this workspace: nobody without its address sees it."
        )
        given = st.file_uploader("Model file", key=_fresh("model_file"))
        if given is not None:
            with messages.shown("model_file"):
                _model_given(view, given)
        if space.reading_model is not None:
            with messages.shown("reading_model"):
                _reading_model(view, space.reading_model)
        _limits()
    if (file := space.models.get(view.choice.model)) is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"Uploaded: {escape(file.title)}, {size(file.size)}")
            st.button("Remove", key="remove_model", on_click=_remove_model, args=(view,))


def _model_given(view: View, given: UploadedFile) -> None:
    """What can be told of a file at once, and the button that has it read."""
    from qlab.errors import ArgumentError
    from qlab.io.uploads.recognise import Kind, recognise

    content, title = given.getvalue(), uploads.title_of(given.name)
    uploads.limits().check("file_bytes", len(content), "The file is too large")
    kind = recognise(content, title)
    if kind is Kind.ARRAY:
        raise ArgumentError(
            f"{title} is data, not a model",
            fix="Choose the model first, then upload this file on Calibrate.",
        )
    architecture = ""
    if kind is Kind.SAFETENSORS:
        architecture = _architecture()
    ready = kind is Kind.ARCHIVE or architecture
    if st.button("Read the model", key="read_model", type="primary", disabled=not ready):
        if len(view.workspace.models) >= uploads.MOST_MODELS:
            raise ArgumentError(
                "This workspace has as many models as it may have",
                expected=f"at most {uploads.MOST_MODELS}",
                fix="Choose one that you do not need any more, and remove it.",
            )
        _stop_reading_model(view)
        with view.workspace.lock:  # another tab deletes files that nothing names
            file = uploads.keep(view.workspace, content)
            view.workspace.read_model(ModelFile(file, title, architecture, len(content)))
        _spend("model_file")
        st.rerun()


def _architecture() -> str:
    from qlab.io.uploads import architecture_names

    known = architecture_names()
    options = [name for names in known.values() for name in names]
    chosen = st.selectbox(
        "Architecture",
        options,
        index=None,
        key="architecture",
        placeholder="What the weights belong to",
        persist_state="session",
        help=f"Weights alone say no architecture. Known to: {', '.join(known)}.",
    )
    return chosen or ""


def _reading_model(view: View, chosen: ModelFile) -> None:
    space = view.workspace

    def work(progress: Progress) -> UploadedModel:
        return uploads.read_model(space, chosen, progress)

    st.button(
        f"Forget {escape(chosen.title)}",
        key="forget_model",
        on_click=_stop_reading_model,
        args=(view,),
    )
    wait_for(_model_key(chosen), f"Reading {chosen.title}", work, space, part="model_file")
    same = [name for name, file in space.models.items() if file == chosen]
    taken = tuple(models.offered(space))
    name = same[0] if same else uploads.unused_name(space, chosen.title, taken)
    uploads.add_model(space, name, chosen)
    sidebar.choose_next(name)
    st.rerun()


def _model_key(chosen: ModelFile) -> Key:
    return ("model_file", chosen.file, chosen.architecture)


def _stop_reading_model(view: View) -> None:
    chosen = view.workspace.reading_model
    if chosen is not None:
        _stop(view, _model_key(chosen))
        view.workspace.read_model(None)
        uploads.tidy(view.workspace)


def _stop(view: View, key: Key) -> None:
    engine.board().release(key, view.workspace.id)
    view.workspace.declined.discard(key)
    job = engine.board().find(key)
    if job is not None and job.state == "failed":
        engine.board().forget(key)


def _remove_model(view: View) -> None:
    uploads.remove_model(view.workspace, view.choice.model)
    sidebar.choose_model(models.greeting())


def samples_form(view: View) -> None:
    """Draws where data for the chosen model are uploaded, and how far they are read."""
    space, model = view.workspace, view.choice.model
    chosen, reading = space.samples.get(model), space.reading_samples.get(model)
    waits = reading is not None or (chosen is None and model in space.models)
    with st.expander("Your own data", expanded=waits or _given("sample_file")):
        st.markdown(
            "Arrays in `.npz`, `.npy` or `.safetensors`, named as the model's inputs, samples "
            "first; or a `.zip` of images. Whole numbers called `labels`, or folders of images, "
            "give an accuracy. Pickled arrays are refused."
        )
        given = st.file_uploader("Data file", key=_fresh("sample_file"))
        if given is not None:
            with messages.shown("sample_file"):
                _samples_given(view, given)
        if reading is not None:
            with messages.shown("reading_samples"):
                _reading_samples(view, reading)
        _limits()
    if chosen is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"Uploaded: {escape(chosen.title)}")
            st.button("Remove", key="remove_samples", on_click=_remove_samples, args=(view,))


def _samples_given(view: View, given: UploadedFile) -> None:
    from qlab.io.uploads.recognise import Kind, recognise

    content, title = given.getvalue(), uploads.title_of(given.name)
    uploads.limits().check("file_bytes", len(content), "The file is too large")
    kind = recognise(content, title)
    images: dict[str, Any] = {}
    if kind is Kind.ARCHIVE and not title.lower().endswith(".npz"):
        images = _images(view)
    if st.button("Use this data", key="use_samples", type="primary"):
        # A size or a spread that makes no sense is told at once.
        uploads.preprocessing(SampleFile("", title, **images))
        _stop_reading_samples(view)
        with view.workspace.lock:  # another tab deletes files that nothing names
            chosen = SampleFile(uploads.keep(view.workspace, content), title, **images)
            view.workspace.read_samples(view.choice.model, chosen)
        _spend("sample_file")
        st.rerun()


def _images(view: View) -> dict[str, Any]:
    """What is to be done to images, chosen by the person: what the model's training did."""
    height, width = _usual_size(view)
    st.markdown("Images are prepared as the model's training prepared its own:")
    sizes = st.columns(3)
    help_ = "Scaled to cover this, then cropped to the middle. 0 leaves images as they are."
    high = sizes[0].number_input("Height", 0, LARGEST, height, key="image_height", help=help_)
    wide = sizes[1].number_input("Width", 0, LARGEST, width, key="image_width", help=help_)
    options = [*NORMALIZATIONS, OTHER]
    scaled = sizes[2].selectbox(
        "Values", options, key="image_values", help="Pixels from 0 to 1, minus mean, over std."
    )
    if scaled == OTHER:
        left, right = st.columns(2)
        mean = _numbers(left.text_input("Mean", "0.5, 0.5, 0.5", key="image_mean"), "mean")
        std = _numbers(right.text_input("Std", "0.5, 0.5, 0.5", key="image_std"), "std")
    else:
        mean, std = NORMALIZATIONS[scaled]
    both = bool(high and wide)
    sides = {"height": int(high), "width": int(wide)} if both else {}
    return {"mean": mean, "std": std, **sides}


def _numbers(text: str, name: str) -> tuple[float, ...]:
    from qlab.errors import ArgumentError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ArgumentError(
            f"This is no {name} of images",
            expected="one number, or three with commas between them, such as 0.5, 0.5, 0.5",
            received=repr(text[:60]),
        ) from error


def _usual_size(view: View) -> tuple[int, int]:
    """Height and width of the model's example, where it takes images and was read."""
    job = engine.board().find(loaded_key(view.choice, view.workspace))
    if job is None or job.state != "done":
        return 0, 0
    examples = job.result.sample.example_inputs
    first = examples[0] if isinstance(examples, tuple) and examples else None
    if getattr(first, "ndim", 0) != 4:
        return 0, 0
    return int(first.shape[2]), int(first.shape[3])  # type: ignore[union-attr]


def _reading_samples(view: View, chosen: SampleFile) -> None:
    space, model = view.workspace, view.choice.model

    def work(progress: Progress) -> FileData:
        return uploads.read_samples(
            space, chosen, models.without_data(model, space, progress), progress
        )

    st.button(
        f"Forget {escape(chosen.title)}",
        key="forget_samples",
        on_click=_stop_reading_samples,
        args=(view,),
    )
    wait_for(_samples_key(view, chosen), f"Reading {chosen.title}", work, space, part="sample_file")
    space.set_samples(model, chosen)
    uploads.tidy(space)
    st.rerun()


def _samples_key(view: View, chosen: SampleFile) -> Key:
    own = view.workspace.models.get(view.choice.model)
    return ("sample_file", view.choice.model, own and own.file, chosen)


def _stop_reading_samples(view: View) -> None:
    chosen = view.workspace.reading_samples.get(view.choice.model)
    if chosen is not None:
        _stop(view, _samples_key(view, chosen))
        view.workspace.read_samples(view.choice.model, None)
        uploads.tidy(view.workspace)


def _remove_samples(view: View) -> None:
    view.workspace.set_samples(view.choice.model, None)
    uploads.tidy(view.workspace)


def found(loaded: Loaded) -> None:
    """What each input of the model takes and is given, where data were uploaded."""
    data = getattr(loaded.sample, "found", None)
    if data is None:
        return
    until = " They stand in until you upload data." if data.made_up else ""
    st.caption(f"{escape(data.about)}{until}")
    rows = [{"Input": name, "Takes": takes, "Is given": given} for name, takes, given in data.rows]
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="found")
    if data.batch is not None:
        st.caption(
            f"The model was exported for {count(data.batch)} samples at a time, so it is given "
            "whole batches; what is left over is not used."
        )


def _limits() -> None:
    """What a file may take, and where that is set."""
    allowed = uploads.limits()
    with st.popover("Limits", width="content"):
        st.markdown(
            f"One file: {size(allowed.file_bytes)}, unpacked {size(allowed.unpacked_bytes)}; read "
            f"in a process of its own with {size(allowed.memory_bytes)} and {allowed.seconds} s of "
            f"processor time. Files of one workspace: {size(uploads.IN_WORKSPACE)} and "
            f"{uploads.MOST_MODELS} models."
        )
        st.caption(
            "Whoever runs the server sets them: server.maxUploadSize in .streamlit/config.toml, "
            "QLAB_WORKSPACE_BYTES, QLAB_DISK_BYTES, and QLAB_UPLOAD_ followed by "
            + ", ".join(each.name.upper() for each in fields(allowed))
            + "."
        )


def _given(name: str) -> bool:
    """Whether a file was just given: a section must not close over it when the page is redrawn."""
    return st.session_state.get(_fresh(name)) is not None


def _fresh(key: str) -> str:
    """The key of an uploader that is empty again once its file was taken."""
    return f"{key}_{st.session_state.get(f'{key}_spent', 0)}"


def _spend(key: str) -> None:
    st.session_state[f"{key}_spent"] = st.session_state.get(f"{key}_spent", 0) + 1
