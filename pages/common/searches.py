"""Mixed precision: the jobs that search and verify, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pages.common import engine
from pages.common.engine import wait_for
from pages.common.format import size
from pages.common.jobs import CancelledError, Key, Parts, Progress, Work
from pages.common.loaded import Loaded
from pages.common.recipes import Chain
from pages.common.store import store
from pages.common.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from qlab.analysis.search import Search, Verified
    from qlab.qconfig import QConfigMapping

#: How what is reported in each part of a search begins; between the two sensitivities are measured.
PARTS = (("preparing",), (), ("searching", "writing"))
#: Budgets on offer, in percent of what the configuration takes that the search begins with.
BUDGETS = tuple(range(25, 105, 5))
#: How many points nearest the budget are verified together.
NEAREST = 5


@dataclass(frozen=True)
class Question:
    """What is searched for.

    Attributes:
        model: Name of the model.
        samples: Calibration images.
        base: The configuration that the search begins with.
        by: ``"size"`` or ``"bit_ops"``.
        percent: The budget, as a share of what the base takes.
        chain: How the model was repaired.
    """

    model: str
    samples: int
    base: QConfigMapping
    by: Any
    percent: int
    chain: Chain = ()

    def key(self, kind: str, percent: int | None = None) -> Key:
        """Names a job about it on the board."""
        share = self.percent if percent is None else percent
        return (kind, self.model, self.samples, self.chain, self.base, self.by, share)


@dataclass(frozen=True, eq=False)
class Searched:
    """A front and the configurations of its points."""

    search: Search

    @cached_property
    def mappings(self) -> tuple[QConfigMapping, ...]:
        """The configuration of each point."""
        return tuple(self.search.mapping(point) for point in range(len(self.search)))

    def point_of(self, mapping: QConfigMapping) -> int | None:
        """The point whose configuration this is."""
        return next((i for i, own in enumerate(self.mappings) if own == mapping), None)


def search(loaded: Loaded, asked: Question, workspace: Workspace) -> Searched:
    """The front; ends this part of the page while it is being searched for."""
    return wait_for(*search_job(loaded, asked), workspace)


def search_job(loaded: Loaded, asked: Question) -> tuple[Key, str, Work]:
    """The job that finds the front; another budget's measurements serve this one too."""

    def work(progress: Progress) -> Searched:
        parts = Parts(progress, PARTS, (0.2, 0.6, 0.2))
        found = loaded.lab.search(
            asked.percent / 100,
            by=asked.by,
            mapping=asked.base,
            sensitivity=progress.partial or _measured(asked),
            on_progress=parts.report,
            should_stop=progress.should_stop,
        )
        if not found.complete:
            progress.partial = found.sensitivity
            raise CancelledError
        made = Searched(found)
        parts.report(len(found), len(found), "writing configurations")
        _ = made.mappings
        return made

    return asked.key("search"), "Searching for mixed precision", work


def _measured(asked: Question) -> Any:
    """The sensitivities of a search that differs in the budget alone."""
    jobs = (engine.board().find(asked.key("search", percent)) for percent in BUDGETS)
    done = (job.result for job in jobs if job is not None and job.state == "done")
    return next((found.search.sensitivity for found in done), None)


def verify(loaded: Loaded, asked: Question, found: Searched, workspace: Workspace) -> Verified:
    """The points nearest the budget, measured; ends this part of the page while that takes."""
    key = asked.key("verified")

    def work(progress: Progress) -> Verified:
        points = list(range(len(found.search)))[-NEAREST:][::-1]
        verified = found.search.verify(
            points,
            known=progress.partial,
            on_progress=progress.report,
            should_stop=progress.should_stop,
        )
        if not verified.complete:
            progress.partial = verified
            raise CancelledError
        return verified

    verified = wait_for(key, "Verifying the points nearest the budget", work, workspace)
    _record(loaded, key, found, verified, workspace)
    return verified


def verified_so_far(asked: Question) -> Verified | None:
    """What is known of the verification: all of it, or what a cancelled one left."""
    key = asked.key("verified")
    job = engine.board().find(key)
    return job.result if job is not None and job.state == "done" else engine.left_behind(key)


def _record(
    loaded: Loaded, key: Key, found: Searched, verified: Verified, workspace: Workspace
) -> None:
    """Keeps what was verified among the workspace's runs, once."""
    if key in workspace.recorded:
        return
    workspace.recorded.add(key)
    subject, runs = loaded.lab.subject, store().runs(workspace)
    before = runs.latest(subject)
    measured = {run.mapping: run for run in loaded.lab.runs.of(subject)}
    for point in verified.table.index:
        run = measured.get(found.mappings[point])
        if run is not None:
            runs.record(
                run.mapping,
                run.metrics,
                subject=subject,
                name=f"mixed precision, {size(run.metrics['quantized_bytes'])}",
                parent=before and before.id,
                layers=run.layers,
                seconds=run.seconds,
            )


def per_candidate(search: Search, point: int) -> pd.DataFrame:
    """What each layer gets at a point: one row per layer, in graph order of the groups."""
    import pandas as pd

    chosen = search.choices(point)
    names = [name for group in search.groups for name in group.layers]
    return pd.DataFrame(
        {
            "gets": [chosen[name].name for name in names],
            "weight bits": [_bits(chosen[name].weight) for name in names],
            "activation bits": [_bits(chosen[name].activation) for name in names],
        },
        index=pd.Index(names, name="layer"),
    )


def _bits(spec: Any) -> int:
    return 32 if spec is None else spec.dtype.bits
