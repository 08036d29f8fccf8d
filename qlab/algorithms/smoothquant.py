"""SmoothQuant: outliers of activations move into the weights, where each channel takes them easily.

A few channels behind a norm can be a hundred times larger than the others, so that one scale for
the tensor leaves the others a few codes. With ``s_j = max|x_j|^α / max|w_j|^(1-α)`` the norm is
divided by s and the weights of all linear layers that read it are multiplied: the function stays
as it was. α is searched for each norm: the one of least error of the layers' outputs, input and
weights both quantized. Where no α is better than none, the layers stay as they are.

Source: Xiao, Lin, Seznec, Wu, Demouth, Han: SmoothQuant: Accurate and Efficient Post-Training
Quantization for Large Language Models, 2022, arXiv 2211.10438.
"""

from __future__ import annotations

from dataclasses import dataclass

from qlab.algorithms.base import Change, Hooks, Layers, Outcome, Settings, Subject, check_positive
from qlab.algorithms.channel_scales import search_smoothing
from qlab.algorithms.foldable import (
    find_scalable,
    input_rows,
    scaled_graphs,
    scaling_outcomes,
    search_seconds,
    strengths,
)
from qlab.algorithms.targets import Walk, calibration_inputs, pass_seconds
from qlab.errors import ArgumentError
from qlab.execution import Program
from qlab.qconfig import QConfigMapping

PAPER = (
    "Xiao, Lin, Seznec, Wu, Demouth, Han: SmoothQuant: Accurate and Efficient Post-Training "
    "Quantization for Large Language Models, 2022, arXiv 2211.10438"
)


@dataclass(frozen=True)
class SmoothSettings(Settings):
    """How far outliers move.

    Attributes:
        strength: α for all norms, 0 to 1; searched for each where None.
        tries: How many strengths the search tries.
        samples: How many calibration samples are used.
        rows: How many of their tokens the search looks at, drawn with ``seed``; the largest
            magnitudes are those of all.
    """

    strength: float | None = None
    tries: int = 20
    samples: int = 256
    rows: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("SmoothQuant", self, ("tries", "samples", "rows"))
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ArgumentError(
                "SmoothQuant: the strength lies between 0 and 1", received=self.strength
            )

    @property
    def strengths(self) -> tuple[float, ...]:
        """The α to try."""
        if self.strength is not None:
            return (self.strength,)
        return strengths(self.tries)


def smooth(
    subject: Subject,
    mapping: QConfigMapping,
    layers: Layers,
    settings: SmoothSettings,
    hooks: Hooks,
) -> Change:
    """Moves outliers from the inputs of linear layers behind norms; see the module."""
    study = subject.study
    found, refused = find_scalable(study, study.plan(mapping), layers, linear_sources=False)
    in_float = [entry for entry in found if entry.input_spec is None]
    for entry in in_float:
        refused |= dict.fromkeys(entry.fold.readers, "its input stays in float")
    found = tuple(entry for entry in found if entry not in in_float)
    batches, samples = calibration_inputs(study, settings.samples)
    walk, chosen, outcomes = Walk(Program.of(study.reference), batches), {}, {}
    for done, entry in enumerate(found):
        hooks.step(done, len(found), f"smoothing {entry.fold.source_name}")
        walk.before(entry.node)
        rows, reach = input_rows(walk, entry.node, settings.rows, settings.seed)
        specs = entry.input_spec, entry.specs
        scaling = search_smoothing(rows, entry.weights, specs, settings.strengths, reach=reach)
        if scaling.strength is not None:
            chosen[entry.fold] = scaling.factors
        outcomes |= scaling_outcomes(entry, scaling)
    hooks.step(len(found), len(found), "smoothing")
    graph, reference = scaled_graphs(study, chosen)
    outcomes |= {name: Outcome(name, False, reason) for name, reason in refused.items()}
    ordered = tuple(outcomes[name] for name in layers)
    seen = samples if found else 0
    return Change(graph, mapping, ordered, seen, reference if chosen else None)


def smooth_seconds(
    subject: Subject, mapping: QConfigMapping, layers: Layers, settings: SmoothSettings
) -> float:
    """Seconds: a float pass, and for each strength the layers' products on some rows."""
    study = subject.study
    found, _ = find_scalable(study, study.plan(mapping), layers, linear_sources=False)
    tries = len(settings.strengths)
    one_pass = settings.samples * pass_seconds(subject)
    return one_pass + search_seconds(found, settings.rows, tries) + 0.01
