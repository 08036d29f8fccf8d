"""A configuration as a table, one row per layer: read from a mapping, and written back into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from pages.common import words
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab.graph.plan import Plan, Step
    from qlab.observers import Factory
    from qlab.qconfig import QConfig, QConfigMapping
    from qlab.ranges import TensorSpec

Row = dict[str, Any]
IN_FLOAT = "float"
KINDS = ("weight", "activation")
PARTS = ("bits", "scheme", "granularity", "observer")
#: Columns of the table in order, and the width that keeps one side of a layer in float.
COLUMNS = (IN_FLOAT, *(f"{kind} {part}" for kind in KINDS for part in PARTS))
FLOAT = "float"
PERCENTS = (99.0, 99.9, 99.99, 99.999)


@dataclass(frozen=True)
class Written:
    """A configuration after rows of the table were written into it.

    Attributes:
        mapping: The configuration.
        problems: What is wrong, in words, by layer; these rows are not in the mapping.
        changed: The layers whose rows are in it and were not before.
    """

    mapping: QConfigMapping
    problems: dict[str, str]
    changed: tuple[str, ...]


def names(loaded: Loaded) -> list[str]:
    """The layers that the table has rows for: all that can be quantized."""
    return [layer.name for layer in loaded.lab.layers if layer.quantizable]


def read(loaded: Loaded, plan: Plan) -> dict[str, Row]:
    """The rows of a configuration: what it asks of each layer, resolved or not."""
    return {name: _row(loaded, plan.step(name)) for name in names(loaded)}


def frame(rows: dict[str, Row]) -> pd.DataFrame:
    """Rows as people edit them."""
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    texts = [column for column in COLUMNS if column != IN_FLOAT]
    return table.astype({IN_FLOAT: bool, **dict.fromkeys(texts, "object")}).rename_axis("layer")


def options(loaded: Loaded, rows: Iterable[Row]) -> dict[str, list[str]]:
    """What each column offers: what any layer may have, and what the rows hold."""
    weights = [_shape(loaded, name) for name in names(loaded)]
    granular = dict.fromkeys(g for shape in weights if shape for g in words.granularities(shape))
    known = {
        "bits": [*words.WIDTHS, FLOAT],
        "scheme": list(words.SCHEMES),
        "observer": list(words.policies(PERCENTS)),
    }
    offered = {f"{kind} {part}": known[part] for kind in KINDS for part in known}
    offered |= {"weight granularity": [*granular], "activation granularity": ["per tensor"]}
    held: list[Row] = list(rows)
    return {
        column: list(dict.fromkeys([*offered[column], *(r[column] for r in held if r[column])]))
        for column in COLUMNS
        if column != IN_FLOAT
    }


def write(loaded: Loaded, mapping: QConfigMapping, rows: Mapping[str, Row]) -> Written:
    """Writes rows into a configuration, one rule for each layer that changes.

    Args:
        loaded: The model.
        mapping: The configuration; it stays as it is.
        rows: By layer; a row that says what the mapping says already needs no rule.
    """
    from qlab.errors import QlabError

    plan, wanted, problems = loaded.lab.plan(mapping), {}, {}
    for name, row in rows.items():
        step = plan.step(name)
        if row == _row(loaded, step) or (row[IN_FLOAT] and step.requested is None):
            continue
        try:
            wanted[name] = _qconfig(loaded, step, row)
        except QlabError as error:
            problems[name] = str(error)
    after = loaded.lab.plan(_with(mapping, wanted))
    for name in [name for name in wanted if after.step(name).requested != wanted[name]]:
        rule = after.step(name).rule
        problems[name] = f"A stronger rule decides here: {rule}. Remove that one first."
        del wanted[name]
    return Written(_with(mapping, wanted), problems, tuple(wanted))


def _with(mapping: QConfigMapping, qconfigs: Mapping[str, QConfig | None]) -> QConfigMapping:
    made = mapping.copy()
    for name, qconfig in qconfigs.items():
        made.set_module_name(name, qconfig)
    return made


def _shape(loaded: Loaded, name: str) -> tuple[int, ...] | None:
    return tuple(loaded.lab.weight(name).shape) if loaded.has_weight(name) else None


def _row(loaded: Loaded, step: Step) -> Row:
    row: Row = {IN_FLOAT: step.requested is None}
    for kind in KINDS:
        if kind == "weight" and not loaded.has_weight(step.name):
            cells: tuple[str | None, ...] = (None,) * len(PARTS)
        elif step.requested is None:
            cells = words.words_of(_usual(kind))
        else:
            spec = _asked(getattr(step.requested, kind))
            cells = (FLOAT, None, None, None) if spec is None else words.words_of(spec)
        row |= {f"{kind} {part}": cell for part, cell in zip(PARTS, cells, strict=True)}
    return row


def _usual(kind: str) -> TensorSpec:
    from qlab.ranges import TensorSpec

    return TensorSpec.int8_weight() if kind == "weight" else TensorSpec.uint8_activation()


def _asked(factory: Factory | None) -> TensorSpec | None:
    from qlab.registry.asked import asked_by

    return asked_by(factory).spec


def _qconfig(loaded: Loaded, step: Step, row: Row) -> QConfig | None:
    """What a row asks for; what it does not change stays as the configuration has it."""
    from qlab.qconfig import QConfig

    if row[IN_FLOAT]:
        return None
    now = _row(loaded, step)
    factories = {}
    for kind in KINDS:
        cells = {part: row[f"{kind} {part}"] for part in PARTS}
        same = all(now[f"{kind} {part}"] == cell for part, cell in cells.items())
        if same and step.requested is not None:
            factories[kind] = getattr(step.requested, kind)
        else:
            factories[kind] = _factory(loaded, step, kind, cells)
    return QConfig(**factories)


def _factory(loaded: Loaded, step: Step, kind: str, cells: dict[str, Any]) -> Factory:
    from qlab.errors import ArgumentError
    from qlab.observers import PlaceholderObserver, observer_for

    has_tensor = kind == "activation" or loaded.has_weight(step.name)
    if not has_tensor and any(cells.values()):
        raise ArgumentError(f"{step.name!r} has no weight", fix="Clear the cells of its weight.")
    if not has_tensor or cells["bits"] in (None, FLOAT):
        return PlaceholderObserver
    spec = step.requested and _asked(getattr(step.requested, kind))
    spec = spec or _usual(kind)
    granular = words.granularities(
        _shape(loaded, step.name) if kind == "weight" else (), [spec.granularity]
    )
    per = cells["granularity"] or words.granularity_words(spec.granularity)
    if per not in granular:
        raise ArgumentError(
            f"The {kind} of {step.name!r} cannot have one scale {per}",
            expected=", ".join(granular),
            fix="Choose one of these.",
        )
    policies = words.policies(PERCENTS, [spec.policy])
    scheme = cells["scheme"] or words.words_of(spec).scheme
    made = words.altered(
        spec,
        kind,
        cells["bits"],
        scheme == "symmetric" or cells["bits"] in words.FLOAT8,
        granularity=granular[per],
        policy=policies[cells["observer"] or spec.policy.label],
    )
    loaded.lab.qparams(step.name, made, kind)  # says in words what the tensor does not take
    return observer_for(made)
