"""Collecting ranges: the job that shows the float model its calibration data, once each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pages.common import engine, uploads
from pages.common.jobs import CancelledError, Key, Progress, Work
from pages.common.loaded import Loaded
from pages.common.workspace import Choice, Workspace

if TYPE_CHECKING:
    from pages.common.models import OwnModel
    from qlab import Lab
    from sample_models import SampleModel

#: Seconds after which a pass pauses to say how the ranges stand; what a pause costs, a fraction of
#: one batch, must be little beside it.
PACE = 2.0


@dataclass(frozen=True)
class Begun:
    """Ranges that are being collected; a cancelled job leaves it, and the next one goes on.

    Attributes:
        sample: The model and its data.
        lab: What is being shown them.
    """

    sample: SampleModel | OwnModel
    lab: Lab


def loaded_key(choice: Choice, space: Workspace | None = None) -> Key:
    """Names the calibrated lab of a choice on the board; presets share it."""
    return _key(choice, space, parts(choice, space))


def _key(choice: Choice, space: Workspace | None, seen: tuple[int, ...]) -> Key:
    amount = seen if seen[1:] else seen[0]
    return ("loaded", uploads.identity(space, choice.model), amount, choice.device)


def parts(choice: Choice, space: Workspace | None) -> tuple[int, ...]:
    """How many samples had been seen each time that more were added, up to those of the choice."""
    noted = "" if space is None else space.settings.get(_setting(choice.model), "")
    seen = tuple(map(int, str(noted or "").split())) or (0,)
    return seen if seen[-1] == choice.samples else (choice.samples,)


def add(choice: Choice, samples: int, space: Workspace) -> None:
    """Notes that more data is to be seen on top of those of a choice, up to so many samples."""
    seen = (*parts(choice, space), samples)
    space.set(_setting(choice.model), " ".join(map(str, seen)))


def _setting(model: str) -> str:
    return f"parts of {model}"


def loading(choice: Choice, space: Workspace | None = None) -> tuple[Key, str, Work]:
    """The job that makes the calibrated lab of a choice, be it of a workspace's uploads.

    Where data was added, it goes on from the lab before that, if the server still has it. What
    comes out does not depend on whether it has.
    """
    seen = parts(choice, space)

    def work(progress: Progress) -> Loaded:
        pause = _pauses(progress)
        begun = progress.partial = progress.partial or _begin(choice, space, seen, progress)
        while not begun.lab.calibrate(progress.report, pause).complete:
            if progress.should_stop():
                raise CancelledError
        if progress.should_stop():
            raise CancelledError
        grown = seen if len(seen) > 1 else ()
        return Loaded(begun.sample, choice.samples, begun.lab, parts=grown)

    return _key(choice, space, seen), "Collecting the model's ranges", work


def _pauses(progress: Progress) -> Any:
    """Whether to pause now: every so many seconds, and when the job is to stop."""
    last = time.monotonic()

    def pause() -> bool:
        nonlocal last
        if time.monotonic() - last < PACE and not progress.should_stop():
            return False
        last = time.monotonic()
        return True

    return pause


def _begin(
    choice: Choice, space: Workspace | None, seen: tuple[int, ...], progress: Progress
) -> Begun:
    from pages.common import models
    from qlab import Lab

    before = engine.board().find(_key(choice, space, seen[:-1])) if len(seen) > 1 else None
    if before is not None and before.state == "done":
        loaded: Loaded = before.result
        *_, added = _pieces(loaded.sample, seen)
        # A first pause at once: the loop of the job goes on from there.
        lab = loaded.lab.with_data(added, should_stop=lambda: True) if added else loaded.lab
        return Begun(loaded.sample, lab)
    progress.report(0, 0, "reading the model")
    sample = models.load(choice.model, space, progress)
    pieces = _pieces(sample, seen)
    lab = Lab(
        sample.model,
        sample.example_inputs,
        [batch for piece in pieces for batch in piece],
        sample.evaluation() or (pieces[0] if len(pieces) > 1 else None),
        choice.device,
    )
    return Begun(sample, lab)


def _pieces(sample: SampleModel | OwnModel, seen: tuple[int, ...]) -> list[list[Any]]:
    """The batches of each part, none of them twice."""
    from qlab.cli.batches import beyond, length

    whole = [sample.calibration(samples) for samples in seen]
    counts = [sum(map(length, batches)) for batches in whole]
    added = [list(beyond(now, had)) for had, (_, now) in zip(counts, pairwise(whole), strict=False)]
    return [whole[0], *added]
