"""What one workspace has chosen and changed. Draws nothing, knows no browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from pages.common.brought import ModelFile, SampleFile
from pages.common.recipes import Automatic, Chain, Goal, Origin, Recipe

if TYPE_CHECKING:
    from qlab.analysis.causes import Cause
    from qlab.qconfig import QConfigMapping
    from qlab.ranges import TensorSpec

P = ParamSpec("P")
R = TypeVar("R")
Setting = str | int | float | bool | None
#: The comparison with the float network, which most pages show.
OUTCOME = "outcome"


class Choice(NamedTuple):
    """What the sidebar says: a sample model and a preset by name, calibration images, a device."""

    model: str
    preset: str
    samples: int
    device: str = "cpu"


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


@dataclass(frozen=True)
class Applied:
    """A remedy that was made part of the configuration.

    Attributes:
        cause: What it was a remedy for, and what that was measured to gain.
        before: The configuration without it.
        after: The configuration with it.
    """

    cause: Cause
    before: QConfigMapping
    after: QConfigMapping


def _changes(
    method: Callable[Concatenate[Workspace, P], R],
) -> Callable[Concatenate[Workspace, P], R]:
    """A method that changes the workspace: one at a time, and noted for the next save."""

    @wraps(method)
    def locked(self: Workspace, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            self.revision += 1
            return method(self, *args, **kwargs)

    return locked


def _drop(by_model: dict[Any, Any], model: str) -> None:
    """Deletes what is kept for a model, by keys that begin with its name."""
    for key in [key for key in by_model if key[0] == model]:
        del by_model[key]


@dataclass(eq=False)
class Workspace:
    """Everything that was entered in one workspace; several tabs may share it.

    Attributes:
        id: 128 random bits in hexadecimal; whoever knows it may see the workspace.
        choice: The sidebar's state at the last run.
        selected: The layer that is selected everywhere, by model.
        settings: How the pages' own widgets stand, by key.
        history: Mappings by (model, preset), oldest first: the preset's own and every applied
            change after it.
        shown: The mapping whose end-to-end numbers are on screen, by kind of numbers and choice.
        drafts: Knobs that were moved and not applied, by (model, preset, layer).
        refused: Entries of *Configure* that make no sense yet, by (model, preset, layer): the
            table's row as it was typed.
        models: Models that were uploaded, by the name that they are chosen by.
        samples: Data that were uploaded, by the model that they are for.
        reading_model: A model that is being read, or was refused, until it is on offer.
        reading_samples: Data that are being read, or were refused, by model.
        declined: Computations that were cancelled here; they start again when asked for.
        applied: The last remedy that was applied, by (model, preset).
        chains: How the model was repaired, by (model, preset) and by the place in `history` from
            which on that holds.
        trials: The repair that is being tried or looked for, or was and is not applied yet, by
            (model, preset).
        automatic: The last automatic repair that was applied, by (model, preset).
        origins: Where repaired models that were measured come from, by their fingerprint.
        recorded: Comparisons that are among the workspace's runs already.
        generation: Grows with every change of a configuration; knobs follow it.
        revision: Grows with every change of anything that is saved.
    """

    id: str = ""
    choice: Choice | None = None
    selected: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)
    history: dict[tuple[str, str], list[QConfigMapping]] = field(default_factory=dict)
    shown: dict[tuple[str, Choice], QConfigMapping] = field(default_factory=dict)
    drafts: dict[tuple[str, str, str], Draft] = field(default_factory=dict)
    refused: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    models: dict[str, ModelFile] = field(default_factory=dict)
    samples: dict[str, SampleFile] = field(default_factory=dict)
    reading_model: ModelFile | None = None
    reading_samples: dict[str, SampleFile] = field(default_factory=dict)
    declined: set[tuple[Hashable, ...]] = field(default_factory=set)
    applied: dict[tuple[str, str], Applied] = field(default_factory=dict)
    chains: dict[tuple[str, str], dict[int, Chain]] = field(default_factory=dict)
    trials: dict[tuple[str, str], Recipe | Goal] = field(default_factory=dict)
    automatic: dict[tuple[str, str], Automatic] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    recorded: set[tuple[Hashable, ...]] = field(default_factory=set)
    generation: int = 0
    revision: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def _mappings(self, choice: Choice) -> list[QConfigMapping]:
        key = (choice.model, choice.preset)
        with self.lock:
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

    @_changes
    def choose(self, choice: Choice) -> None:
        """Notes what the sidebar says."""
        self.choice = choice

    @_changes
    def select(self, model: str, layer: str) -> None:
        """Makes a layer of a model the selected one."""
        self.selected[model] = layer

    @_changes
    def set(self, key: str, value: Setting) -> None:
        """Notes how a page's widget stands."""
        self.settings[key] = value

    @_changes
    def read_model(self, file: ModelFile | None) -> None:
        """Notes a model that is being read; None for no one any more."""
        self.reading_model = file

    @_changes
    def read_samples(self, model: str, file: SampleFile | None) -> None:
        """Notes data that are being read for a model; None for none any more."""
        self.reading_samples.pop(model, None)
        if file is not None:
            self.reading_samples[model] = file

    @_changes
    def set_model(self, name: str, file: ModelFile) -> None:
        """Puts a model on offer that was read."""
        self.models[name] = file
        self.reading_model = None

    @_changes
    def set_samples(self, model: str, file: SampleFile | None) -> None:
        """Gives a model data that were read; None takes them away."""
        self.reading_samples.pop(model, None)
        self.samples.pop(model, None)
        if file is not None:
            self.samples[model] = file

    @_changes
    def forget_model(self, name: str) -> None:
        """Takes a model and its data back, and whatever was changed for it."""
        for kept in (self.models, self.samples, self.reading_samples, self.selected):
            kept.pop(name, None)
        for by_model in (self.history, self.drafts, self.refused, self.applied):
            _drop(by_model, name)
        for by_model in (self.chains, self.trials, self.automatic):
            _drop(by_model, name)
        for key in [key for key in self.shown if key[1].model == name]:
            del self.shown[key]
        self.generation += 1

    def apply(self, choice: Choice, layer: str, draft: Draft) -> None:
        """Adds a rule for one layer to the configuration."""
        from qlab.qconfig import qconfig_of

        qconfig = None if draft.in_float else qconfig_of(draft.activation, draft.weight)
        self.configure(choice, self.mapping(choice).copy().set_module_name(layer, qconfig), [layer])

    @_changes
    def configure(
        self,
        choice: Choice,
        mapping: QConfigMapping,
        layers: Iterable[str] = (),
        *,
        chain: Chain | None = None,
    ) -> None:
        """Makes a mapping the configuration in force, as one change that can be undone.

        Args:
            choice: Model and preset that it belongs to.
            mapping: Not to be changed any more.
            layers: Whose knobs it settles.
            chain: How the model is repaired from now on; as before if not given.
        """
        mappings, before = self._mappings(choice), self.chain(choice)
        for layer in layers:
            self.drafts.pop((choice.model, choice.preset, layer), None)
        if mapping == mappings[-1] and chain in (None, before):
            return
        mappings.append(mapping)
        self.generation += 1
        if chain not in (None, before):
            self.chains.setdefault((choice.model, choice.preset), {})[len(mappings) - 1] = chain
            self._of_another_model(choice)

    def chain(self, choice: Choice) -> Chain:
        """How the model in use was repaired; empty where it is the original one."""
        known = self.chains.get((choice.model, choice.preset), {})
        return known[max(known)] if known else ()

    @_changes
    def try_repair(self, choice: Choice, asked: Recipe | Goal | None) -> None:
        """Asks for a repair, or for a search of one; nothing is applied. None for none any more."""
        self.trials.pop((choice.model, choice.preset), None)
        if asked is not None:
            self.trials[choice.model, choice.preset] = asked

    def trial(self, choice: Choice) -> Recipe | Goal | None:
        """The repair that is being tried, unless the configuration was changed since."""
        found = self.trials.get((choice.model, choice.preset))
        return found if found is not None and found.mapping == self.mapping(choice) else None

    @_changes
    def repair(self, choice: Choice, recipe: Recipe, mapping: QConfigMapping) -> None:
        """Takes a repaired model into use, as one change that can be undone.

        Args:
            choice: Model and preset.
            recipe: How it was made of the model in use.
            mapping: The configuration that goes with it.
        """
        self._drop_drafts(choice)
        self.trials.pop((choice.model, choice.preset), None)
        self.configure(choice, mapping, chain=(*self.chain(choice), recipe))

    @_changes
    def undo_repair(self, choice: Choice) -> None:
        """Takes back the last repair, and what was changed for the repaired model since."""
        if known := self.chains.get((choice.model, choice.preset)):
            self._cut(choice, max(known))

    @_changes
    def note_automatic(self, choice: Choice, place: int, log: tuple[str, ...]) -> None:
        """Remembers that the changes from a place on are an automatic repair's, and its log."""
        steps = self.changes(choice) - place
        self.automatic[choice.model, choice.preset] = Automatic(place, steps, log)

    @_changes
    def undo_automatic(self, choice: Choice) -> None:
        """Takes back every step of the last automatic repair, and what was changed since."""
        found = self.automatic.get((choice.model, choice.preset))
        if found is not None:
            self._cut(choice, found.place + 1)
            self.refresh(choice)

    @_changes
    def note_origin(self, subject: str, origin: Origin) -> None:
        """Remembers where a repaired model comes from, since a run tells its fingerprint alone."""
        self.origins[subject] = origin

    def _cut(self, choice: Choice, length: int) -> None:
        """Takes back the changes from a place on, and every knob that was moved since."""
        before = self.chain(choice)
        del self._mappings(choice)[max(length, 1) :]
        automatic = self.automatic.get((choice.model, choice.preset))
        if automatic is not None and self.changes(choice) < automatic.place + automatic.steps:
            del self.automatic[choice.model, choice.preset]
        known = self.chains.get((choice.model, choice.preset), {})
        for place in [place for place in known if place >= max(length, 1)]:
            del known[place]
        self._drop_drafts(choice)
        if self.chain(choice) != before:
            self._of_another_model(choice)

    def _of_another_model(self, choice: Choice) -> None:
        """Numbers on screen are of the model before: only the comparison is made anew at once."""
        own = (choice.model, choice.preset)
        for kind, shown in [key for key in self.shown if key[1][:2] == own]:
            if kind == OUTCOME:
                self.shown[kind, shown] = self.mapping(choice)
            else:
                del self.shown[kind, shown]

    def remedy(self, choice: Choice, cause: Cause) -> None:
        """Makes a remedy part of the configuration, as one change, whatever layers it changes."""
        with self.lock:
            before = self.mapping(choice)
            after = cause.apply(before)
            was, now = before.module_name_qconfigs, after.module_name_qconfigs
            changed = [layer for layer in now if layer not in was or now[layer] != was[layer]]
            self.configure(choice, after, changed)
            self.applied[choice.model, choice.preset] = Applied(cause, before, after)

    def remedied(self, choice: Choice) -> Applied | None:
        """The remedy that was the last change of the configuration in force, if it was one."""
        found = self.applied.get((choice.model, choice.preset))
        return found if found is not None and found.after == self.mapping(choice) else None

    @_changes
    def undo(self, choice: Choice) -> None:
        """Takes back the last applied change, and every knob that was moved since."""
        self._cut(choice, self.changes(choice))

    @_changes
    def reset(self, choice: Choice) -> None:
        """Takes back every applied change, and every knob that was moved."""
        self._cut(choice, 1)

    def _drop_drafts(self, choice: Choice) -> None:
        for key in [key for key in self.drafts if key[:2] == (choice.model, choice.preset)]:
            del self.drafts[key]
        self.generation += 1

    @_changes
    def refresh(self, choice: Choice, kind: str = OUTCOME) -> None:
        """Asks for the end-to-end numbers of the configuration in force."""
        self.shown[kind, choice] = self.mapping(choice)

    def draft(self, choice: Choice, layer: str) -> Draft | None:
        """The layer's knobs where they were moved and not applied."""
        return self.drafts.get((choice.model, choice.preset, layer))

    def set_draft(self, choice: Choice, layer: str, draft: Draft) -> None:
        """Remembers how the layer's knobs stand."""
        key = (choice.model, choice.preset, layer)
        with self.lock:
            if self.drafts.get(key) != draft:
                self.drafts[key] = draft
                self.revision += 1

    @_changes
    def refuse(self, choice: Choice, rows: dict[str, dict[str, Any]]) -> None:
        """Keeps the table's rows that make no sense, by layer, in place of those kept before."""
        own = (choice.model, choice.preset)
        for key in [key for key in self.refused if key[:2] == own]:
            del self.refused[key]
        self.refused.update({(*own, layer): row for layer, row in rows.items()})

    def refusals(self, choice: Choice) -> dict[str, dict[str, Any]]:
        """The table's rows that make no sense, by layer."""
        own = (choice.model, choice.preset)
        return {key[2]: row for key, row in list(self.refused.items()) if key[:2] == own}
