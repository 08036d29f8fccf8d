"""One run, and its row in the store."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import pandas as pd

from qlab.analysis.tables import pack_table, unpack_table
from qlab.errors import ArgumentError, DTypeError, FormatError, QlabError
from qlab.qconfig import QConfigMapping

DIGEST = "calibration_digest"
"""The metric that tells which statistics a run rests on: 48 bits, whole in a float."""
COLUMNS = "id, name, created, seconds, subject, parent, mapping, metrics, layers"


@dataclass(frozen=True)
class Run:
    """One measured configuration.

    Attributes:
        id: Its number in the store, from 1.
        name: What people call it.
        created: When it was first measured, UTC.
        seconds: How long measuring took; None where it is not known.
        subject: What was measured: a fingerprint of model and data; ``""`` where none was given.
        parent: The run that it was made from; None for a first one.
        metrics: Named numbers, such as ``Report.output``; `calibration` reads some of them.
    """

    id: int
    name: str
    created: datetime
    seconds: float | None
    subject: str
    parent: int | None
    metrics: dict[str, float] = field(compare=False)
    _mapping: str = field(repr=False)
    _layers: bytes | None = field(repr=False, compare=False)

    @property
    def calibration(self) -> str:
        """What its ranges come from, in words; empty where that was not kept."""
        if DIGEST not in self.metrics:
            return ""
        samples, batches = (
            self.metrics.get(f"calibration_{n}", math.nan) for n in ("samples", "batches")
        )
        early = "" if self.metrics.get("calibration_complete") else ", stopped early"
        digest = f"{int(self.metrics[DIGEST]):012x}"
        several = "batch" if batches == 1 else "batches"
        return f"{samples:.0f} samples in {batches:.0f} {several}{early} ({digest})"

    @cached_property
    def mapping(self) -> QConfigMapping:
        """The configuration.

        Raises:
            UnknownNameError: It names an observer or a class that is not registered any more.
            FormatError: What is stored of it is damaged; names the run.
        """
        try:
            return QConfigMapping.from_json(self._mapping)
        except FormatError as error:
            raise FormatError(
                f"The mapping of run {self.id} ({self.name!r}) is damaged: {error}"
            ) from error

    @cached_property
    def layers(self) -> pd.DataFrame | None:
        """One row per layer, such as ``Report.layers``; None where none were kept.

        Raises:
            FormatError: The stored table is damaged.
        """
        return None if self._layers is None else unpack_table(self._layers)


def run_of(row: tuple[Any, ...]) -> Run:
    id, name, created, seconds, subject, parent, mapping, metrics, layers = row
    try:
        numbers = {key: float(value) for key, value in json.loads(metrics).items()}
        when = datetime.fromisoformat(created)
    except (ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"What is stored of run {id} ({name!r}) is damaged: {error}") from error
    return Run(id, name, when, seconds, subject, parent, numbers, mapping, layers)


def encoded(
    mapping: QConfigMapping, metrics: Mapping[str, float], layers: pd.DataFrame | None
) -> dict[str, Any]:
    if not isinstance(mapping, QConfigMapping):
        raise DTypeError(
            "A run keeps a configuration",
            expected="a QConfigMapping",
            received=type(mapping).__name__,
        )
    text = mapping.to_json()
    return {
        "mapping": text,
        "identity": _identity(text, metrics),
        "metrics": json.dumps({str(k): _number(k, v) for k, v in metrics.items()}),
        "layers": None if layers is None else pack_table(layers),
    }


def _identity(mapping: str, metrics: Mapping[str, Any]) -> str:
    """Equal for equal mappings, whose order counts for patterns only, on equal statistics."""
    rules = json.loads(mapping)["rules"]
    ordered = [json.dumps(r) for r in rules if r["style"] == "module_name_regex"]
    others = sorted(json.dumps(r) for r in rules if r["style"] != "module_name_regex")
    seen = [int(metrics[DIGEST])] if DIGEST in metrics else []
    return hashlib.sha256(json.dumps([ordered, others, *seen]).encode()).hexdigest()


def _number(name: object, value: object) -> float | str:
    """A metric as JSON has it: a number, or ``"inf"``, ``"-inf"``, ``"nan"``."""
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"The metric {name!r} is not a number", received=repr(value)[:80]
        ) from error
    return number if math.isfinite(number) else str(number)


def checked_name(name: object) -> str:
    if isinstance(name, str) and name.strip():
        return name
    raise ArgumentError("A run needs a name", expected="some text", received=repr(name))


_TYPES: dict[str, tuple[type, ...]] = {
    "id": (int,),
    "turn": (int,),
    "subject": (str,),
    "name": (str,),
    "created": (str,),
    "seconds": (int, float, type(None)),
    "mapping": (str,),
    "identity": (str,),
    "metrics": (str,),
    "parent": (int, type(None)),
    "layers": (str, type(None)),
}


def checked_row(row: object) -> dict[str, Any]:
    try:
        if not isinstance(row, dict) or row.keys() != _TYPES.keys():
            raise ValueError("other columns")
        for name, types in _TYPES.items():
            if not isinstance(row[name], types) or isinstance(row[name], bool):
                raise ValueError(f"{name} is {row[name]!r}"[:80])
        layers = None if row["layers"] is None else bytes.fromhex(row["layers"])
        if layers is not None:
            unpack_table(layers)
        identity = _identity(row["mapping"], json.loads(row["metrics"]))
        checked: dict[str, Any] = row | {"layers": layers, "identity": identity}
        run_of(tuple(checked[name] for name in COLUMNS.split(", ")))
    except (ValueError, TypeError, AttributeError, LookupError, QlabError) as error:
        raise FormatError(f"Not a stored run: {error}") from error
    return checked
