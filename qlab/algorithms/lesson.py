"""What fine-tuning learns from: batches, and what is minimised on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlab.analysis.batches import Batch, Batches
from qlab.analysis.study import Study
from qlab.errors import ArgumentError, DTypeError, NonFiniteError
from qlab.execution import Program
from qlab.graph.shapes import tensors_in

TITLE = "Fine-tuning"
_TEMPERATURE = 4.0

Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Lesson:
    """What is learned from.

    Attributes:
        batches: In the order of the loader.
        loss: Of the network's output and a batch, a scalar.
    """

    batches: list[Batch]
    loss: Callable[[Any, Batch], Tensor]

    def split(self, share: float) -> tuple[list[Batch], list[Batch]]:
        """Batches to train on, and every so many held out.

        Raises:
            ArgumentError: Fewer than two batches.
        """
        if len(self.batches) < 2:
            raise ArgumentError(
                f"{TITLE} holds a part of the batches out",
                expected="a loader of two batches or more",
                received=f"{len(self.batches)}",
            )
        every = max(2, round(1 / share))
        held = self.batches[every - 1 :: every] or self.batches[-1:]
        return [b for b in self.batches if not any(b is h for h in held)], held


def lesson_of(
    loader: Batches, loss: Loss | None, study: Study, most: int, distillation: float
) -> Lesson:
    """At most so many batches of a loader, and what is minimised on them.

    Args:
        loader: Batches, with or without labels.
        loss: Called with output and labels; None for the cross-entropy and the distance from the
            float network, or that alone where there are no labels.
        study: For the float network.
        most: How many batches are kept.
        distillation: Share of that distance, 0 to 1.

    Raises:
        DTypeError: The loss cannot be called.
        ArgumentError: It needs labels, and the loader gives none; or a batch does not fit.
        NonFiniteError: NaN in a batch; names it.
    """
    if loss is not None and not callable(loss):
        raise DTypeError(
            f"{TITLE} needs a loss", expected="loss(output, labels)", received=type(loss).__name__
        )
    batches = [batch for batch, _ in zip(loader, range(most), strict=False)]
    _check_batches(batches, study)
    labelled = bool(batches) and all(batch.labels is not None for batch in batches)
    if loss is not None and not labelled:
        raise ArgumentError(
            f"{TITLE}: this loss is called with labels, and the loader gives none",
            fix="Give (input, label) batches, or no loss to follow the float network's output.",
        )
    share = distillation if loss is None else 0.0

    def of_float(output: Any, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = study.reference(*batch.inputs)
        pairs = zip(tensors_in(output), tensors_in(wanted), strict=True)
        return torch.stack(
            [(a - b).square().mean() for a, b in pairs if b.is_floating_point()]
        ).sum()

    def of_labels(output: Any, batch: Batch) -> Tensor:
        found = _checked(loss or nn.functional.cross_entropy, output, batch.labels)
        if not share:
            return found
        with torch.no_grad():
            wanted = study.reference(*batch.inputs)
        return (1 - share) * found + share * _divergence(output, wanted)

    return Lesson(batches, of_labels if labelled else of_float)


def _check_batches(batches: list[Batch], study: Study) -> None:
    """Refuses NaN, and runs the float network once for each shape that a sample has.

    Raises:
        ArgumentError: A batch does not fit the model.
        NonFiniteError: NaN in a batch; names it.
    """
    seen, program = set[tuple[Any, ...]](), Program.of(study.reference)
    for index, batch in enumerate(batches):
        tensors = [x for x in batch.inputs if isinstance(x, Tensor)]
        if wrong := sum(int(x.isnan().sum()) for x in tensors if x.is_floating_point()):
            raise NonFiniteError(
                f"NaN in batch {index} of the training data",
                expected="finite numbers",
                received=f"{wrong} values of NaN",
                fix="Repair or leave out that batch.",
            )
        shapes = tuple((x.shape[1:], x.dtype) for x in tensors)
        if shapes not in seen:
            with torch.no_grad():
                program.run(batch.inputs)
            seen.add(shapes)


def _checked(loss: Loss, output: Any, labels: Any) -> Tensor:
    """What a loss gives.

    Raises:
        ArgumentError: It failed, or gives no number to minimise.
    """
    try:
        found = loss(output, labels)
    except Exception as error:  # a person's own code may raise anything
        raise ArgumentError(
            f"{TITLE}: the loss failed on the network's output and the labels: {error}",
            fix="Give a loss that takes them, as loss(output, labels).",
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise ArgumentError(
            f"{TITLE}: a loss is one number",
            expected="a tensor of one element, computed from the output",
            received=list(found.shape) if isinstance(found, Tensor) else type(found).__name__,
        )
    if torch.is_grad_enabled() and not found.requires_grad:
        raise ArgumentError(
            f"{TITLE}: the loss has no gradient",
            expected="a tensor computed from the output without detach, item or no_grad",
            received="a tensor that does not depend on the network's output",
        )
    return found.reshape(())


def _divergence(output: Tensor, wanted: Tensor) -> Tensor:
    """``T² · KL(p ‖ q)``, mean over all but the classes, which lie where cross-entropy has them."""
    axis = min(1, output.ndim - 1)
    q, p = (torch.log_softmax(logits / _TEMPERATURE, axis) for logits in (output, wanted))
    return _TEMPERATURE**2 * (p.exp() * (p - q)).sum(axis).mean()
