"""Which remedy helps against which cause, and which of them a model's causes suggest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from qlab.algorithms.base import Hooks, Subject
from qlab.algorithms.lesson import TITLE
from qlab.algorithms.table import ALGORITHMS, estimate_seconds
from qlab.analysis.causes import Cause
from qlab.analysis.diagnosis import causes_of
from qlab.errors import DTypeError, UnknownNameError
from qlab.qconfig import QConfigMapping

CauseKey = tuple[str, str]  # `Cause.kind` and `Cause.tensor`


class Stage(IntEnum):
    """What a remedy decides. One of a later stage builds on what the earlier ones made."""

    FUNCTION = 0  # how tensors look, and how they are asked to be quantized
    RANGES = 1  # which scales they get
    ROUNDING = 2  # which code each weight gets
    BIAS = 3  # what the rounded weights do to means
    LAST_RESORT = 4  # what costs speed or size


@dataclass(frozen=True)
class Remedy:
    """A row of `REMEDIES`.

    Attributes:
        name: A key of `qlab.algorithms.ALGORITHMS`, or a change of the configuration.
        title: Its name for people.
        stage: See `Stage`.
        against: The causes that it helps against, as kind and tensor.
        widens: Of a change of the configuration: whether it is one that asks for more bits.
        grows: Whether the model takes more bytes.
    """

    name: str
    title: str
    stage: Stage
    against: frozenset[CauseKey]
    widens: bool = False
    grows: bool = False

    @property
    def configures(self) -> bool:
        """Whether it is the causes' own change of the configuration, which takes no time."""
        return self.name not in ALGORITHMS and self.name != TRAIN


KEEP, MORE, TRAIN = "keep_in_float", "more_bits", "finetune"

_SPREAD: tuple[CauseKey, ...] = (("channel spread", "weight"), ("outlier channels", "weight"))
_LOUD: tuple[CauseKey, ...] = (("channel spread", "activation"), ("outlier channels", "activation"))
_INPUT: tuple[CauseKey, ...] = (("quantized input", "input"),)
_TAIL: tuple[CauseKey, ...] = (
    ("heavy tail", "weight"),
    ("heavy tail", "activation"),
    ("clipping", "weight"),
    ("clipping", "activation"),
)
_FEW: tuple[CauseKey, ...] = (("few bits", "weight"),)
_FEW_BOTH: tuple[CauseKey, ...] = (*_FEW, ("few bits", "activation"))
_UNEVEN: tuple[CauseKey, ...] = (("uneven operands", "activation"),)
_SHIFT: tuple[CauseKey, ...] = (("mean shift", "activation"),)


def _configuration(
    name: str, title: str, *against: CauseKey, stage: Stage = Stage.FUNCTION, **more: bool
) -> Remedy:
    return Remedy(name, title, stage, frozenset(against), **more)


def _algorithm(name: str, stage: Stage, *against: CauseKey, grows: bool = False) -> Remedy:
    return Remedy(name, ALGORITHMS[name].title, stage, frozenset(against), grows=grows)


#: Every remedy that `Lab.repair` knows, in the order in which equally cheap ones are tried. An
#: algorithm joins with a row here.
REMEDIES: dict[str, Remedy] = {
    remedy.name: remedy
    for remedy in (
        _configuration("per_channel", "One scale per channel", *_SPREAD),
        _configuration("affine", "Affine ranges", ("unused sign range", "activation")),
        _configuration(
            "least_error",
            "Ranges of least squared error",
            *_TAIL,
            *_LOUD,
            *_INPUT,
            ("non-stationary batches", "activation"),
        ),
        _algorithm("equalize", Stage.FUNCTION, *_SPREAD, *_LOUD),
        _algorithm("split", Stage.FUNCTION, ("outlier channels", "weight"), grows=True),
        _algorithm("smoothquant", Stage.FUNCTION, *_LOUD, *_INPUT),
        _algorithm("awq", Stage.RANGES, *_FEW),
        _algorithm("ranges", Stage.RANGES, *_FEW_BOTH, *_TAIL, *_LOUD, *_INPUT),
        _algorithm("gptq", Stage.ROUNDING, *_FEW),
        _algorithm("adaround", Stage.ROUNDING, *_FEW),
        _algorithm("bias_correction", Stage.BIAS, *_SHIFT),
        _configuration(
            "wide_activations",
            "16-bit activations",
            *_UNEVEN,
            *_INPUT,
            *_LOUD,
            stage=Stage.LAST_RESORT,
            widens=True,
        ),
        _configuration(
            MORE,
            "8 bits for the worst layers",
            *_FEW_BOTH,
            stage=Stage.LAST_RESORT,
            widens=True,
            grows=True,
        ),
        _algorithm(KEEP, Stage.LAST_RESORT, grows=True),
    )
}

#: Fine-tuning, which `Lab.repair` tries last, and only where it was given data to train on. It
#: decides anew which code each weight gets, so it takes the place of what rounded them before.
TRAINING = Remedy(TRAIN, TITLE, Stage.ROUNDING, frozenset())


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A remedy that causes suggest.

    Attributes:
        remedy: The row.
        causes: The causes that it is to help against, in graph order of their layers.
        layers: The layers that an algorithm is given; None for all that have a quantized weight.
        mapping: The configuration with all its changes, of one that changes only that.
        seconds: What it will take, about, measuring not included.
    """

    remedy: Remedy
    causes: tuple[Cause, ...]
    layers: tuple[str, ...] | None
    mapping: QConfigMapping | None
    seconds: float

    @property
    def why(self) -> str:
        """The worst of its causes in a sentence, and how many more layers have one."""
        if not self.causes:
            return "Data to train on was given." if self.remedy is TRAINING else ""
        worst = max(self.causes, key=lambda cause: cause.value / cause.threshold)
        others = {cause.layer for cause in self.causes} - {worst.layer}
        more = f" (and {len(others)} more layers)" if len(others) > 1 else ""
        more = " (and one more layer)" if len(others) == 1 else more
        return f"{worst.layer}{more}: {worst.sentence}"


def algorithms_against(cause: Cause) -> tuple[str, ...]:
    """Names of the algorithms that help against a cause, earlier stages first."""
    fits = [r for r in REMEDIES.values() if (cause.kind, cause.tensor) in r.against]
    return tuple(r.name for r in sorted(fits, key=lambda r: r.stage) if not r.configures)


def with_algorithms(causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
    """Causes that name the algorithms which help against them."""
    return tuple(replace(cause, algorithms=algorithms_against(cause)) for cause in causes)


def chosen_remedies(allowed: Collection[str] | None, keep_size: bool) -> dict[str, Remedy]:
    """The rows that a person allows.

    Raises:
        DTypeError: No collection of names.
        UnknownNameError: No such remedy; lists those that exist.
    """
    if isinstance(allowed, str):
        allowed = (allowed,)
    named = isinstance(allowed, Collection) and all(isinstance(name, str) for name in allowed)
    if allowed is not None and not named:
        raise DTypeError(
            "The allowed remedies are names",
            expected="a list of " + ", ".join([*REMEDIES, TRAIN]),
            received=repr(allowed),
        )
    for name in allowed or ():
        if name not in REMEDIES and name != TRAIN:
            raise UnknownNameError.of("remedy", name, [*REMEDIES, TRAIN])
    return {
        name: remedy
        for name, remedy in REMEDIES.items()
        if (allowed is None or name in allowed) and not (keep_size and remedy.grows)
    }


def diagnosed(subject: Subject, mapping: QConfigMapping, hooks: Hooks) -> tuple[Cause, ...]:
    """The causes of all layers, in graph order."""
    study, found = subject.study, list[Cause]()
    steps = [step for step in study.plan(mapping).steps if step.quantized]
    for done, step in enumerate(steps):
        hooks.step(done, len(steps), f"looking for causes in {step.name}")
        found += causes_of(study, mapping, step.name)
    return tuple(found)


def suggestions(
    subject: Subject,
    mapping: QConfigMapping,
    causes: tuple[Cause, ...],
    remedies: Mapping[str, Remedy],
) -> list[Suggestion]:
    """What causes suggest, the cheapest first and last resorts last."""
    found = []
    for remedy in remedies.values():
        fitting = tuple(c for c in causes if (c.kind, c.tensor) in remedy.against)
        if remedy.configures:
            made = _configured(subject, mapping, fitting, remedy.widens)
            if made is not None:
                found.append(Suggestion(remedy, made[0], None, made[1], 0.0))
        elif fitting:
            layers = _layers(fitting)
            seconds = estimate_seconds(remedy.name, subject, mapping, layers)
            found.append(Suggestion(remedy, fitting, layers, None, seconds))
    return sorted(found, key=lambda s: (s.remedy.stage == Stage.LAST_RESORT, s.seconds))


def _layers(causes: tuple[Cause, ...]) -> tuple[str, ...] | None:
    """The layers themselves where only their own weight is to blame; else a whole neighbourhood."""
    if {(cause.kind, cause.tensor) for cause in causes} != set(_FEW):
        return None
    return tuple(dict.fromkeys(cause.layer for cause in causes))


def with_more_bits(
    subject: Subject, mapping: QConfigMapping, hooks: Hooks
) -> dict[str, tuple[Cause, ...]]:
    """By layer the causes that its bits are few, of those that more bits were measured to help."""
    found = dict[str, tuple[Cause, ...]]()
    for cause in diagnosed(subject, mapping, hooks):
        if (cause.kind, cause.tensor) in REMEDIES[MORE].against and _helps(cause):
            found[cause.layer] = (*found.get(cause.layer, ()), cause)
    return found


def _helps(cause: Cause) -> bool:
    """Whether its own change of the configuration was measured to help."""
    return cause.remedy is not None and cause.gain is not None and cause.gain > 0


def _configured(
    subject: Subject, mapping: QConfigMapping, causes: tuple[Cause, ...], widens: bool
) -> tuple[tuple[Cause, ...], QConfigMapping] | None:
    """The causes whose own change of the configuration was measured to help, and all of these."""
    made, used = mapping, list[Cause]()
    for cause in causes:
        if _helps(cause) and _asks_more_bits(subject, mapping, cause) == widens:
            made = cause.apply(made)
            used.append(cause)
    return (tuple(used), made) if used else None


def _asks_more_bits(subject: Subject, mapping: QConfigMapping, cause: Cause) -> bool:
    before, after = (subject.study.plan(m) for m in (mapping, cause.apply(mapping)))
    bits = {step.name: _bits(step.weight) + _bits(step.output) for step in before.steps}
    return any(_bits(s.weight) + _bits(s.output) > bits[s.name] for s in after.steps)


def _bits(spec: object) -> int:
    dtype = getattr(spec, "dtype", None)
    return 0 if dtype is None else int(dtype.bits)
