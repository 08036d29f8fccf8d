"""How far a transformed float network is from what it was, on data that nobody fitted it to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import fx

from qlab.algorithms.base import Hooks, Subject
from qlab.algorithms.frame import ensure_calibrated, measured_report
from qlab.analysis.batches import Batch
from qlab.graph.shapes import tensors_in
from qlab.qconfig import QConfigMapping

_SAME = 1e-4  # of the largest output


def difference_note(
    subject: Subject, made: fx.GraphModule, why: Sequence[str], hooks: Hooks
) -> str:
    """The difference of two float networks, in a sentence.

    Measured on the evaluation data, or the calibration data where there is none: the largest
    difference of a sample's outputs, as a share of the largest output of all.

    Args:
        subject: Whose network was transformed.
        made: What it became.
        why: What keeps the two from being the same.
        hooks: To stop.

    Raises:
        StoppedError: It was asked to stop.
    """
    return (
        f"the float network is the same function only as far as calibration saw, by "
        f"{' and '.join(why)}: {_differs(subject, made, hooks)}"
    )


def replaced_note(subject: Subject, made: fx.GraphModule, hooks: Hooks) -> str:
    """What a float network lost by becoming another function, in a sentence.

    Args:
        subject: Whose network was transformed; its data is what is measured on.
        made: What it became.
        hooks: To stop.

    Raises:
        StoppedError: It was asked to stop.
    """
    changed = Subject(subject.study.repaired(made, made), subject.evaluation)
    ensure_calibrated(changed, hooks)
    output = measured_report(changed, QConfigMapping(), hooks).output
    said = f"SQNR {output['sqnr']:.1f} dB"
    if "accuracy" in output:
        real = output["float_accuracy"]
        said = f"accuracy {real:.1f} → {output['accuracy']:.1f} %, {said}"
    return f"that alone, in float: {said}; {_differs(subject, made, hooks)}"


def _differs(subject: Subject, made: fx.GraphModule, hooks: Hooks) -> str:
    study = subject.study
    own = all(source is not subject.evaluation for source in study.sources)
    differences, largest = list[torch.Tensor](), 0.0
    for batch in hooks.along(subject.evaluation, 0, 1, "comparing the float networks"):
        found, size = _differences(study.reference, made, batch)
        differences.append(found)
        largest = max(largest, size)
    shares = torch.cat(differences) / (largest or 1.0)
    data = "evaluation" if own else "calibration"
    return (
        f"on the {data} data its output differs by up to "
        f"{float(shares.max()):.2g} of the largest, on {int((shares > _SAME).sum())} of "
        f"{len(shares)} samples by more than {_SAME:g}"
    )


@torch.no_grad()
def _differences(
    before: fx.GraphModule, after: fx.GraphModule, batch: Batch
) -> tuple[torch.Tensor, float]:
    """Largest difference of each sample, float64 (samples,) on the CPU; largest output."""
    pairs = zip(_outputs(before, batch), _outputs(after, batch), strict=True)
    largest, worst = 0.0, torch.zeros(batch.samples, dtype=torch.float64)
    for a, b in pairs:
        if not a.is_floating_point() or not a.numel():
            continue
        off = (a - b).abs().double().cpu()
        by_sample = a.ndim > 0 and a.shape[0] == batch.samples
        worst = torch.maximum(
            worst,
            off.flatten(1).amax(1) if by_sample and a.ndim > 1 else off if by_sample else off.max(),
        )
        largest = max(largest, float(a.abs().max()))
    return worst, largest


def _outputs(graph: fx.GraphModule, batch: Batch) -> Iterable[torch.Tensor]:
    return tensors_in(graph(*batch.inputs))
