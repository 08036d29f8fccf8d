"""The integer model as files, read back and run before anyone downloads it."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pages.common.engine import wait_for
from pages.common.format import escape
from pages.common.jobs import CancelledError, Progress
from pages.common.loaded import Loaded
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    import pandas as pd

    from qlab.analysis.fidelity import Fidelity
    from qlab.analysis.latency import Latency
    from qlab.io.onnx_check import OnnxCheck
    from qlab.io.replay import Origin
    from qlab.qconfig import QConfigMapping

STEPS = 3
RUNS = 20


@dataclass(frozen=True)
class Conversion:
    """An exported integer model and the proof that it loads.

    Attributes:
        checkpoint: The safetensors file.
        recipe: The configuration as JSON.
        code: The integer model's forward, as Python.
        identical: Whether the file, read back, gave the very same outputs.
        images: On how many images that was tried.
        sizes: Bytes of every layer, ``float_bytes`` and ``quantized_bytes``.
    """

    checkpoint: bytes
    recipe: str
    code: str
    identical: bool
    images: int
    sizes: pd.DataFrame


@dataclass(frozen=True)
class Written:
    """One more file of the converted model, or why there is none.

    Attributes:
        content: The file; empty where it cannot say what the model does.
        refusal: Why, and what to do instead.
        check: What onnxruntime made of it, of an ONNX file.
    """

    content: bytes = b""
    refusal: str = ""
    check: OnnxCheck | None = None


def file_name(choice: Choice, workspace: Workspace, loaded: Loaded) -> str:
    """Name of the files, without suffix: model, preset, whether it was changed or repaired."""
    model = re.sub(r"[^\w.()+-]+", ".", choice.model).strip(".")
    changed = "-changed" if workspace.changes(choice) else ""
    ending = "-repaired" if loaded.chain else changed
    return f"{model}-{choice.preset}{ending}"


def convert(loaded: Loaded, mapping: QConfigMapping, workspace: Workspace) -> Conversion:
    """Makes and checks the files; ends the page's run while that takes."""

    def work(progress: Progress) -> Conversion:
        from torch import fx

        import qlab
        from qlab.cli.batches import length

        progress.report(0, STEPS, "converting")
        converted = loaded.lab.convert(mapping)
        progress.report(1, STEPS, "writing")
        with tempfile.TemporaryDirectory() as folder:
            path = loaded.lab.export(Path(folder) / "model.safetensors", mapping)
            recipe = loaded.lab.export(Path(folder) / "recipe.json", mapping)
            checkpoint, text = path.read_bytes(), recipe.read_text(encoding="utf-8")
        progress.report(2, STEPS, "reading it back")
        batch = loaded.batch()
        identical = loaded.lab.identical(converted, qlab.load_quantized(checkpoint), batch)
        code = converted.code if isinstance(converted, fx.GraphModule) else repr(converted)
        sizes = loaded.lab.layer_sizes(converted)
        return Conversion(checkpoint, text, code, identical, length(batch), sizes)

    key = ("conversion", *loaded.key, mapping)
    return wait_for(key, "Making the integer model", work, workspace)


def write(
    loaded: Loaded, mapping: QConfigMapping, workspace: Workspace, suffix: str, origin: Origin
) -> Written:
    """One more file; an ONNX file is run, too. Ends the page's part while that takes."""

    def work(progress: Progress) -> Written:
        from qlab.errors import UnsupportedError

        lab, stop = loaded.lab, progress.should_stop
        progress.report(0, 0, "writing the file")
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = lab.export(Path(folder) / f"model{suffix}", mapping, origin=origin)
                content = path.read_bytes()
        except UnsupportedError as error:
            facts = (f"{error.problem}.", error.received, error.fix)
            return Written(refusal="\n\n".join(escape(str(fact)) for fact in facts if fact))
        check = None
        if suffix == ".onnx" and not stop():
            report = progress.report
            check = lab.check_onnx(content, mapping, on_progress=report, should_stop=stop)
        if stop():
            raise CancelledError
        return Written(content, check=check)

    key = ("file", suffix, *loaded.key, mapping, repr(origin))
    title = "Exporting and checking ONNX" if suffix == ".onnx" else f"Writing {suffix}"
    return wait_for(key, title, work, workspace, part=suffix[1:])


def fidelity(loaded: Loaded, mapping: QConfigMapping, workspace: Workspace) -> Fidelity:
    """Float, simulated and integer network compared; ends the page's run while that takes."""

    def work(progress: Progress) -> Fidelity:
        found = loaded.lab.fidelity(
            mapping, on_progress=progress.report, should_stop=progress.should_stop
        )
        if progress.should_stop():
            raise CancelledError
        return found

    key = ("fidelity", *loaded.key, mapping)
    return wait_for(key, "Comparing simulation and integers", work, workspace)


def latency(loaded: Loaded, mapping: QConfigMapping, workspace: Workspace) -> Latency:
    """Float and quantized network timed on one image; ends the page's run while that takes."""

    def work(progress: Progress) -> Latency:
        measured = loaded.lab.latency(
            mapping,
            loaded.batch(1),
            RUNS,
            on_progress=progress.report,
            should_stop=progress.should_stop,
        )
        if progress.should_stop():
            raise CancelledError
        return measured

    key = ("latency", *loaded.key, mapping)
    return wait_for(key, "Timing both networks", work, workspace)
