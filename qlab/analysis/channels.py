"""One layer's local error, channel by channel."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor

from qlab.analysis.batches import Batches
from qlab.analysis.calibration import channel_axes, default_channel_axis
from qlab.analysis.compare import limits_of
from qlab.analysis.gradient import changed_value
from qlab.analysis.metrics import ErrorSums
from qlab.analysis.networks import Networks, places_of
from qlab.analysis.probe import QuantizedLayer
from qlab.errors import NonFiniteError, UnsupportedError
from qlab.execution import RunStore, full_precision
from qlab.graph.plan import Step

_OF_STEPS = ("nmse_rounding", "nmse_clipping", "clipped_share")


def channel_errors(networks: Networks, name: str, data: tuple[Batches, RunStore]) -> pd.DataFrame:
    """The local error of each channel of a layer's output; see ``Lab.channels``.

    Raises:
        UnsupportedError: The plan does not quantize the layer.
        NonFiniteError: NaN or infinity in the layer.
    """
    step = networks.plan.step(name)
    place = next((p for p in places_of(networks) if p.step.name == name), None)
    if place is None:
        raise not_quantized(step)
    batches, floats = data
    sums = ChannelSums(step, place.layer, channel_axes(networks.float_graph).get(step.node))
    with torch.no_grad(), full_precision():
        for index, batch in enumerate(batches):
            run = floats.get(index, batches.length, batch.inputs)
            value, reference = changed_value(run, step.node, place.layer, place.inputs)
            sums.add(reference, value)
    return sums.to_frame()


def not_quantized(step: Step) -> UnsupportedError:
    """The error where a layer has no error."""
    return UnsupportedError(
        f"The layer {step.name!r} is not quantized, so its channels have no error",
        received=f"{step.execution}: {step.reason}",
    )


class ChannelSums:
    """Running errors of the channels of a layer's output.

    Args:
        step: What the plan says of the layer.
        layer: The layer as deployed.
        axis: The axis of its channels, where the layer defines one.
    """

    def __init__(self, step: Step, layer: QuantizedLayer, axis: int | None) -> None:
        self.step, self.layer, self.axis = step, layer, axis
        self._limits = limits_of(layer.output)
        self._sums: list[ErrorSums] = []

    def add(self, reference: Tensor, value: Tensor) -> None:
        """Adds the layer's output for one batch, in float and quantized.

        Raises:
            NonFiniteError: NaN or infinity.
        """
        axis = default_channel_axis(reference.ndim) if self.axis is None else self.axis
        x, y = (_by_channel(self.step.counting(t), axis) for t in (reference, value))
        found = _sums(x, y, self._limits)
        self._sums = self._sums or [ErrorSums() for _ in found]
        if self.axis is None and len(self._sums) != len(found):
            # The axis was a guess: attention may have the samples or the tokens there.
            self._sums, found = [_joined(self._sums)], [_joined(found)]
        for one, other in zip(self._sums, found, strict=True):
            one.merge(other)

    def to_frame(self) -> pd.DataFrame:
        """One row per channel."""
        scale = math.nan if self.layer.output is None else self.layer.output.scale_value
        rows = [_row(one, scale, self._limits is not None) for one in self._sums]
        return pd.DataFrame(rows).rename_axis("channel")


def _joined(sums: list[ErrorSums]) -> ErrorSums:
    total = ErrorSums()
    for one in sums:
        total.merge(one)
    return total


def _row(sums: ErrorSums, scale: float, rounds: bool) -> dict[str, float]:
    steps = {name: getattr(sums, name) if rounds else math.nan for name in _OF_STEPS}
    return {**sums.as_dict(), "rmse_scale": sums.rmse_scale(scale), **steps}


def _by_channel(x: Tensor, axis: int | None) -> Tensor:
    """Channels first and everything else behind them, in float64."""
    rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
    return rows.double()


def _sums(x: Tensor, y: Tensor, limits: tuple[float, float] | None) -> list[ErrorSums]:
    difference = x - y
    columns = [(a * b).sum(1) for a, b in ((x, x), (y, y), (difference, difference), (x, y))]
    columns.append(difference.abs().amax(1))
    if limits is not None:
        outside = x.clamp(*limits) != x
        columns += [outside.sum(1), (difference.square() * outside).sum(1)]
    table = torch.stack([column.double() for column in columns], 1)
    if not bool(table.isfinite().all()):
        raise NonFiniteError(
            "The errors of the channels cannot be measured on NaN or infinity",
            fix="Find the first layer that produces them with Lab.calibrate().",
        )
    return [
        ErrorSums(x.shape[1], *row[:5], *((int(row[5]), row[6]) if limits is not None else ()))
        for row in table.tolist()
    ]
