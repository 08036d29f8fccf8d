"""What every repair takes and gives: its subject, its hooks, what it changed, and its report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

import pandas as pd
from torch import fx

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import Calibration, Progress, Stop
from qlab.analysis.report import Report
from qlab.analysis.study import Study
from qlab.analysis.tables import pack_table, unpack_table
from qlab.analysis.tasks import checked_hooks
from qlab.errors import ArgumentError, DTypeError, FormatError
from qlab.qconfig import QConfigMapping

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Subject:
    """What a repair needs of a Lab.

    Attributes:
        study: The float graph, its calibration data and statistics.
        evaluation: Data to measure on; no algorithm may choose anything by it.
    """

    study: Study
    evaluation: Batches


@dataclass(frozen=True)
class Settings:
    """What a person may choose; each algorithm has a frozen subclass with its own fields.

    Attributes:
        seed: Of everything drawn at random; the same seed gives the same result. 0 or more.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what has not the type of its field.

        Raises:
            ArgumentError: Names the field, and what it is.
        """
        for field_ in fields(self):
            value, (what, fits) = getattr(self, field_.name), _KINDS[str(field_.type)]
            if not fits(value):
                raise ArgumentError(f"The setting {field_.name!r} is {what}", received=repr(value))
        if not 0 <= self.seed < 2**63:
            raise ArgumentError("The setting 'seed' is 0 or more", received=self.seed)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, Sequence) and all(_is_number(v) for v in value)


#: By a setting's annotation: what its values are in words, and whether one fits.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda v: isinstance(v, Integral) and not isinstance(v, bool)),
    "float": ("a finite number", _is_number),
    "float | None": ("a finite number, or None", lambda v: v is None or _is_number(v)),
    "tuple[float, ...]": ("a sequence of finite numbers", _are_numbers),
    "bool": ("True or False", lambda v: isinstance(v, bool)),
    "str": ("a word", lambda v: isinstance(v, str)),
}


class StoppedError(Exception):
    """A repair was asked to stop. Only `qlab.algorithms.frame` catches it."""


@dataclass(frozen=True)
class Hooks:
    """How an algorithm tells how far it is, and learns that it shall stop.

    Attributes:
        on_progress: Called as ``(done, total, label)``.
        should_stop: Asked at each step.

    Raises:
        DTypeError: One of them cannot be called.
    """

    on_progress: Progress | None = None
    should_stop: Stop | None = None

    def __post_init__(self) -> None:
        checked_hooks(self.on_progress, self.should_stop)

    def step(self, done: int, total: int, label: str) -> None:
        """To be called at least every second.

        Raises:
            StoppedError: It was asked to stop; an algorithm lets this pass and leaves no trace.
        """
        if self.on_progress is not None:
            self.on_progress(done, total, label)
        if self.should_stop is not None and self.should_stop():
            raise StoppedError

    def along(self, items: Iterable[_Item], done: int, total: int, label: str) -> Iterator[_Item]:
        """The items, with a `step` before each."""
        for item in items:
            self.step(done, total, label)
            yield item


@dataclass(frozen=True)
class Outcome:
    """What an algorithm did to one layer, or why it did nothing.

    Attributes:
        layer: The layer.
        changed: Whether it was changed.
        reason: What was done, or why it was refused, in words.
        numbers: What the algorithm measured of it, by name.
    """

    layer: str
    changed: bool
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What an algorithm returns; nothing that it was given is touched.

    Attributes:
        graph: The graph that is quantized from now on, a changed copy of ``study.graph``. Its
            nodes have the same names.
        mapping: The configuration that goes with it, such as one with `Fixed` scales.
        outcomes: What became of each layer.
        samples: How many calibration samples it looked at; 0 for one that needs no data.
        reference: A float graph that computes what the original does, where inner tensors of
            ``graph`` have another scale than those of ``study.reference``; None where they are to
            be compared with those of the present one, whose statistics then stay.
        notes: What a person must know, such as a function that is not quite the same.
    """

    graph: fx.GraphModule
    mapping: QConfigMapping
    outcomes: tuple[Outcome, ...]
    samples: int = 0
    reference: fx.GraphModule | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RepairReport:
    """What a repair bought and what it cost.

    Attributes:
        algorithm: Its name in `ALGORITHMS`.
        title: Its name for people.
        paper: Where it was published.
        settings: What was chosen, the seed included.
        before: The network's metrics before, as ``Report.output``: task metric, SQNR, ….
        after: The same afterwards. Both against the original float model.
        layers: One row per layer that was asked for: ``changed``, ``reason``, the algorithm's own
            numbers, and ``sqnr_local`` and ``sqnr_accumulated`` each ``_before`` and ``_after``
            [dB; NaN for a layer that is not quantized].
        seconds: What the algorithm took, measuring not included.
        peak_bytes: How much memory the process held beyond what it held before, at most; NaN where
            the system does not say.
        samples: How many calibration samples it looked at.
        notes: What a person must know.
        complete: False where it was stopped: nothing was changed then.
        asked: The configuration that it was run for, as ``QConfigMapping.to_json`` writes it; None
            where that has no such form, or the report is older than this field.
    """

    algorithm: str
    title: str
    paper: str
    settings: dict[str, Any]
    before: dict[str, float]
    after: dict[str, float]
    layers: pd.DataFrame
    seconds: float
    peak_bytes: float
    samples: int
    notes: tuple[str, ...] = ()
    complete: bool = True
    asked: str | None = None

    @property
    def refusals(self) -> dict[str, str]:
        """The layers that were left as they were, with the reason."""
        kept = self.layers[~self.layers["changed"].astype(bool)]
        return dict(zip(kept.index, kept["reason"], strict=True))

    def gain(self, metric: str = "sqnr") -> float:
        """Change of one of the network's metrics, such as ``"accuracy"`` or ``"sqnr"``."""
        return self.after[metric] - self.before[metric]

    def describe(self) -> str:
        """The report in a sentence or two, for people."""
        if not self.complete:
            return f"{self.title} was stopped; the model is as it was."
        changed = len(self.layers) - len(self.refusals)
        parts = [f"{self.title} changed {changed} of {len(self.layers)} layers"]
        for metric, unit in (("accuracy", " %"), ("sqnr", " dB")):
            if metric in self.before and metric in self.after:
                parts.append(f"{metric} {self.before[metric]:.1f} → {self.after[metric]:.1f}{unit}")
        cost = f"{self.seconds:.1f} s, {self.samples} samples"
        return ". ".join([f"{', '.join(parts)} ({cost})", *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `from_dict`."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        numbers = {k: {n: str(float(v)) for n, v in data[k].items()} for k in ("before", "after")}
        return {
            **data,
            **numbers,
            "layers": pack_table(self.layers).hex(),
            "peak_bytes": str(float(self.peak_bytes)),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RepairReport:
        """Inverse of `to_dict`.

        Raises:
            FormatError: Not what `to_dict` writes.
        """
        try:
            read = {k: {n: float(v) for n, v in data[k].items()} for k in ("before", "after")}
            return cls(
                **{
                    **data,
                    **read,
                    "layers": unpack_table(bytes.fromhex(data["layers"])),
                    "peak_bytes": float(data["peak_bytes"]),
                    "notes": tuple(data["notes"]),
                }
            )
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise FormatError(f"Not the report of a repair: {error}") from error


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired model, ready for `Lab.apply`; a Lab stays as it is until then.

    Attributes:
        model: The repaired float graph that is quantized from now on.
        mapping: The configuration that goes with it.
        report: What it bought.
        reference: As `Change.reference`.
        base: The graph that was repaired.
        asked: The configuration that it was repaired for.
        measured: What was measured before and after, layer by layer; None where it was stopped.
        calibration: What the repaired model's calibration saw; None where it was stopped.
    """

    model: fx.GraphModule
    mapping: QConfigMapping
    report: RepairReport
    reference: fx.GraphModule | None
    base: fx.GraphModule
    asked: QConfigMapping
    measured: tuple[Report, Report] | None = None
    calibration: Calibration | None = None


Layers = tuple[str, ...]
Run = Callable[[Subject, QConfigMapping, Layers, Any, Hooks], Change]
Estimate = Callable[[Subject, QConfigMapping, Layers, Any], float]


@dataclass(frozen=True)
class Algorithm:
    """One repair, as a row of `qlab.algorithms.ALGORITHMS`.

    Attributes:
        name: What `Lab.repair_with` knows it by.
        title: Its name for people.
        about: What it helps against, in a sentence.
        paper: Authors, title, year and arXiv number.
        run: Called as ``(subject, mapping, layers, settings, hooks)``.
        estimate: Seconds that ``run`` will take on this machine, roughly: on a busy one, or for
            small models, it may take several times as long. Called as ``(subject, mapping, layers,
            settings)``.
        settings: The class of its settings.
    """

    name: str
    title: str
    about: str
    paper: str
    run: Run
    estimate: Estimate
    settings: type[Settings] = Settings

    def settings_from(self, chosen: Mapping[str, Any]) -> Any:
        """Its settings with some of them chosen.

        Raises:
            ArgumentError: It has no such setting; lists those that it has.
        """
        known = self.settings.__dataclass_fields__
        if unknown := [name for name in chosen if name not in known]:
            raise ArgumentError(
                f"{self.title} has no such setting",
                expected=", ".join(known),
                received=", ".join(unknown),
            )
        return self.settings(**chosen)


def settings_dict(settings: Settings) -> dict[str, Any]:
    """Settings as plain values."""
    return asdict(settings)


def names_given(what: str, names: Any) -> tuple[str, ...]:
    """Names from any iterable, a generator too.

    Raises:
        DTypeError: It is none, or holds something else.
    """
    found = tuple(names) if isinstance(names, Iterable) else (names,)
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in found):
        raise DTypeError(f"{what} is a list of names", received=repr(names))
    return found


def check_positive(what: str, settings: Settings, names: Sequence[str]) -> None:
    """Refuses settings that must be whole and positive.

    Raises:
        ArgumentError: One is not; names it.
    """
    for name in names:
        given = getattr(settings, name)
        if given < 1:
            raise ArgumentError(f"{what}: {name} is a whole number of 1 or more", received=given)
