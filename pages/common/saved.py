"""A workspace as JSON: what of it survives a restart of the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

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
        return Workspace(
            id,
            choice=data["choice"] and Choice(*data["choice"]),
            selected=dict(data["selected"]),
            settings=dict(data["settings"]),
            history={
                (entry["model"], entry["preset"]): [_mapping(m) for m in entry["mappings"]]
                for entry in data["history"]
                if entry["mappings"]
            },
            shown={
                (entry["kind"], Choice(*entry["choice"])): _mapping(entry["mapping"])
                for entry in data["shown"]
            },
            drafts={(m, p, name): _read_draft(draft) for m, p, name, draft in data["drafts"]},
            refused={(m, p, name): dict(row) for m, p, name, row in data["refused"]},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("Not a saved workspace", received=text[:80]) from error


def _mapping(data: Any) -> QConfigMapping:
    from qlab.qconfig import QConfigMapping

    return QConfigMapping.from_json(json.dumps(data))


def _read_draft(data: dict[str, Any]) -> Draft:
    return Draft(_spec(data["weight"]), _spec(data["activation"]), bool(data["in_float"]))


def _spec(data: dict[str, Any] | None) -> TensorSpec | None:
    from qlab.ranges import TensorSpec

    return None if data is None else TensorSpec.from_dict(data)
