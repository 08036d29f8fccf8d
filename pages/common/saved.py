"""A workspace as JSON: what of it survives a restart of the server."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Any

from pages.common.brought import ModelFile, SampleFile
from pages.common.recipes import Automatic, Chain, Goal, Origin, Recipe
from pages.common.workspace import Choice, Draft, Workspace

if TYPE_CHECKING:
    from qlab.qconfig import QConfigMapping
    from qlab.ranges import TensorSpec

log = logging.getLogger(__name__)
VERSION = 1


def to_json(space: Workspace) -> str:
    """The durable part of a workspace, read back by `from_json`.

    A configuration that has no JSON form, such as one with observers of a person's own, is left
    out, and what was built on it.
    """
    with space.lock:
        data = {
            "version": VERSION,
            "choice": space.choice,
            "selected": space.selected,
            "settings": space.settings,
            "history": [
                {"model": model, "preset": preset, "mappings": list(_mappings(mappings))}
                for (model, preset), mappings in space.history.items()
            ],
            "shown": [
                {"kind": kind, "choice": choice, "mapping": mapping}
                for (kind, choice), shown in space.shown.items()
                for mapping in _mappings([shown])
            ],
            "drafts": [[*key, _draft(draft)] for key, draft in space.drafts.items()],
            "refused": [[*key, row] for key, row in space.refused.items()],
            "models": {name: asdict(file) for name, file in space.models.items()},
            "samples": {name: asdict(file) for name, file in space.samples.items()},
            "reading_model": space.reading_model and asdict(space.reading_model),
            "reading_samples": {k: asdict(file) for k, file in space.reading_samples.items()},
            "repairs": _repairs(space),
        }
    return json.dumps(data)


def _mappings(mappings: list[QConfigMapping]) -> Iterator[Any]:
    from qlab.errors import QlabError

    for mapping in mappings:
        try:
            yield json.loads(mapping.to_json())
        except QlabError as error:
            log.warning("a configuration is not saved: %s", error)
            return


def _repairs(space: Workspace) -> dict[str, Any]:
    chains = [
        {"model": model, "preset": preset, "place": place, "chain": written}
        for (model, preset), known in space.chains.items()
        for place, chain in known.items()
        for written in _chain(chain)
    ]
    trials = [
        {"model": model, "preset": preset, "chain": written}
        for (model, preset), recipe in space.trials.items()
        if isinstance(recipe, Recipe)
        for written in _chain((recipe,))
    ]
    goals = [
        {"model": model, "preset": preset, "goal": written}
        for (model, preset), goal in space.trials.items()
        if isinstance(goal, Goal)
        for written in _chain((goal,))
    ]
    automatic = [[*key, *astuple(found)] for key, found in space.automatic.items()]
    origins = [
        {"made": made, "subject": origin.subject, "chain": written}
        for made, origin in space.origins.items()
        for written in _chain(origin.chain)
    ]
    return {
        "chains": chains,
        "trials": trials,
        "origins": origins,
        "goals": goals,
        "automatic": automatic,
    }


def _chain(chain: tuple[Recipe | Goal, ...]) -> Iterator[list[dict[str, Any]]]:
    """One item: the chain in JSON form; none where it has no such form."""
    from qlab.errors import QlabError

    try:
        yield [recipe.to_dict() for recipe in chain]
    except QlabError as error:
        log.warning("a repair is not saved: %s", error)


def _draft(draft: Draft) -> dict[str, Any]:
    weight, activation = (s and s.to_dict() for s in (draft.weight, draft.activation))
    return {"weight": weight, "activation": activation, "in_float": draft.in_float}


def from_json(text: str, id: str) -> Workspace:
    """Inverse of `to_json`; nothing in the text is imported or run.

    Args:
        text: What `to_json` wrote.
        id: The workspace's.

    Raises:
        QlabError: Not what `to_json` writes.
    """
    from qlab.errors import FormatError

    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            raise FormatError(
                "This workspace was saved by another version of qlab",
                expected=VERSION,
                received=data["version"],
            )
        history = {
            (entry["model"], entry["preset"]): [_mapping(m) for m in entry["mappings"]]
            for entry in data["history"]
            if entry["mappings"]
        }
        return Workspace(
            id,
            choice=data["choice"] and Choice(*data["choice"]),
            selected=dict(data["selected"]),
            settings=dict(data["settings"]),
            history=history,
            shown={
                (entry["kind"], Choice(*entry["choice"])): _mapping(entry["mapping"])
                for entry in data["shown"]
            },
            drafts={(m, p, name): _read_draft(draft) for m, p, name, draft in data["drafts"]},
            refused={(m, p, name): dict(row) for m, p, name, row in data["refused"]},
            **_uploads(data),
            **_read_repairs(data.get("repairs"), history),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("Not a saved workspace", received=text[:80]) from error


def _read_repairs(
    data: dict[str, Any] | None, history: dict[tuple[str, str], list[QConfigMapping]]
) -> dict[str, Any]:
    """How models were repaired; workspaces of before have nothing of that kind."""
    if data is None:
        return {}
    chains: dict[tuple[str, str], dict[int, Chain]] = {}
    for entry in data["chains"]:
        key, place = (entry["model"], entry["preset"]), int(entry["place"])
        if place < len(history.get(key, ())):  # else its configuration was not saved
            chains.setdefault(key, {})[place] = _read_chain(entry["chain"])
    trials = {}
    for entry in data["trials"]:
        (trials[entry["model"], entry["preset"]],) = _read_chain(entry["chain"])
    origins = {
        str(e["made"]): Origin(str(e["subject"]), _read_chain(e["chain"])) for e in data["origins"]
    }
    for entry in data.get("goals", ()):
        (written,) = entry["goal"]
        trials[entry["model"], entry["preset"]] = Goal.from_dict(written)
    automatic = {
        (model, preset): Automatic(int(place), int(steps), tuple(map(str, log)))
        for model, preset, place, steps, log in data.get("automatic", ())
        if int(place) + int(steps) < len(history.get((model, preset), ()))
    }
    return {"chains": chains, "trials": trials, "origins": origins, "automatic": automatic}


def _read_chain(data: list[dict[str, Any]]) -> Chain:
    return tuple(map(Recipe.from_dict, data))


def _uploads(data: dict[str, Any]) -> dict[str, Any]:
    """What was uploaded; workspaces of before have nothing of that kind."""
    reading = data.get("reading_model")
    return {
        "models": {name: _model_file(file) for name, file in data.get("models", {}).items()},
        "samples": {name: _sample_file(file) for name, file in data.get("samples", {}).items()},
        "reading_model": None if reading is None else _model_file(reading),
        "reading_samples": {
            name: _sample_file(file) for name, file in data.get("reading_samples", {}).items()
        },
    }


def _model_file(data: dict[str, Any]) -> ModelFile:
    file = ModelFile(**data)
    _check_hash(file.file)
    return file


def _sample_file(data: dict[str, Any]) -> SampleFile:
    numbers = {name: tuple(map(float, data[name])) for name in ("mean", "std")}
    file = SampleFile(**{**data, **numbers})
    _check_hash(file.file)
    return file


def _check_hash(file: str) -> None:
    """It becomes part of a path."""
    if not re.fullmatch("[0-9a-f]{32}", file):
        raise ValueError(file)


def _mapping(data: Any) -> QConfigMapping:
    from qlab.qconfig import QConfigMapping

    return QConfigMapping.from_json(json.dumps(data))


def _read_draft(data: dict[str, Any]) -> Draft:
    return Draft(_spec(data["weight"]), _spec(data["activation"]), bool(data["in_float"]))


def _spec(data: dict[str, Any] | None) -> TensorSpec | None:
    from qlab.ranges import TensorSpec

    return None if data is None else TensorSpec.from_dict(data)
