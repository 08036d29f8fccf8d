"""What one browser session has chosen and changed. Lives in session state, draws nothing."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

if TYPE_CHECKING:
    from qlab.qconfig import QConfigMapping
    from qlab.ranges import TensorSpec


class Choice(NamedTuple):
    """What the sidebar says: names of a sample model and a preset, calibration images."""

    model: str
    preset: str
    samples: int


@dataclass(frozen=True)
class Draft:
    """How a layer's knobs stand.

    Attributes:
        weight: Of its weight; None where it has none.
        activation: Of its output; None where that cannot be quantized.
        in_float: Whether the whole layer is kept in float, whatever the other two say.
    """

    weight: TensorSpec | None
    activation: TensorSpec | None
    in_float: bool = False


@dataclass
class Workspace:
    """Everything that one browser session entered.

    Attributes:
        choice: The sidebar's state at the last run.
        selected: The layer that is selected everywhere, by model.
        history: Mappings by (model, preset), oldest first: the preset's own and every applied
            change after it.
        shown: The mapping whose end-to-end numbers are on screen, by choice.
        converted: The mapping that was converted last, by choice.
        drafts: Knobs that were moved and not applied, by (model, preset, layer).
        declined: Computations that were cancelled here; they start again when asked for.
        generation: Grows with every change of a configuration; knobs follow it.
    """

    choice: Choice | None = None
    selected: dict[str, str] = field(default_factory=dict)
    history: dict[tuple[str, str], list[QConfigMapping]] = field(default_factory=dict)
    shown: dict[Choice, QConfigMapping] = field(default_factory=dict)
    converted: dict[Choice, QConfigMapping] = field(default_factory=dict)
    drafts: dict[tuple[str, str, str], Draft] = field(default_factory=dict)
    declined: set[tuple[Hashable, ...]] = field(default_factory=set)
    generation: int = 0

    def _mappings(self, choice: Choice) -> list[QConfigMapping]:
        key = (choice.model, choice.preset)
        if key not in self.history:
            from qlab import presets

            self.history[key] = [presets.get(choice.preset).mapping()]
        return self.history[key]

    def mapping(self, choice: Choice) -> QConfigMapping:
        """The configuration in force: the preset with every applied change."""
        return self._mappings(choice)[-1]

    def changes(self, choice: Choice) -> int:
        """How many applied changes can be undone."""
        return len(self._mappings(choice)) - 1

    def apply(self, choice: Choice, layer: str, draft: Draft) -> None:
        """Adds a rule for one layer to the configuration."""
        from qlab.qconfig import qconfig_of

        qconfig = None if draft.in_float else qconfig_of(draft.activation, draft.weight)
        changed = copy.deepcopy(self.mapping(choice)).set_module_name(layer, qconfig)
        self._mappings(choice).append(changed)
        self.drafts.pop((choice.model, choice.preset, layer), None)
        self.generation += 1

    def undo(self, choice: Choice) -> None:
        """Takes back the last applied change, and every knob that was moved since."""
        if self.changes(choice):
            self._mappings(choice).pop()
        self._drop_drafts(choice)

    def reset(self, choice: Choice) -> None:
        """Takes back every applied change, and every knob that was moved."""
        del self._mappings(choice)[1:]
        self._drop_drafts(choice)

    def _drop_drafts(self, choice: Choice) -> None:
        for key in [key for key in self.drafts if key[:2] == (choice.model, choice.preset)]:
            del self.drafts[key]
        self.generation += 1

    def refresh(self, choice: Choice) -> None:
        """Asks for the end-to-end numbers of the configuration in force."""
        self.shown[choice] = self.mapping(choice)

    def draft(self, choice: Choice, layer: str) -> Draft | None:
        """The layer's knobs where they were moved and not applied."""
        return self.drafts.get((choice.model, choice.preset, layer))

    def set_draft(self, choice: Choice, layer: str, draft: Draft) -> None:
        """Remembers how the layer's knobs stand."""
        self.drafts[choice.model, choice.preset, layer] = draft

    def convert(self, choice: Choice) -> None:
        """Asks for the integer model of the configuration in force."""
        self.converted[choice] = self.mapping(choice)


def current() -> Workspace:
    """The workspace of this browser session, made at its first run."""
    if "workspace" not in st.session_state:
        st.session_state.workspace = Workspace()
    return st.session_state.workspace
