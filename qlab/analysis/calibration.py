"""One float pass over the calibration data; statistics of every observable tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from qlab.analysis.batches import Batches
from qlab.errors import NonFiniteError
from qlab.execution import GraphRunner
from qlab.stats import TensorStats

Progress = Callable[[int, int, str], None]
Stop = Callable[[], bool]

_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
_CHANNELS_SECOND = (_ConvNd, _NormBase, nn.GroupNorm)


@dataclass
class Calibration:
    """What calibration saw.

    Attributes:
        statistics: By graph node, in graph order.
        batches: Number of batches seen.
        samples: Number of samples seen.
        complete: False where the pass was stopped before the data ended.
    """

    statistics: dict[str, TensorStats] = field(default_factory=dict)
    batches: int = 0
    samples: int = 0
    complete: bool = False


def collect_statistics(
    graph_module: fx.GraphModule,
    batches: Batches,
    names: Mapping[str, str],
    *,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Calibration:
    """Runs the float graph over the data once and describes every tensor named in ``names``.

    Args:
        graph_module: The float graph, after fusion.
        batches: Calibration data.
        names: The nodes to observe, each with the layer's name for messages.
        on_progress: Called as ``(batches done, batches in all, label)``.
        should_stop: Asked after each batch; what was seen until then is kept.

    Raises:
        NonFiniteError: NaN in a tensor; names the first layer that produced it.
    """
    axes = channel_axes(graph_module)
    result, total = Calibration(), len(batches)
    runner = GraphRunner(graph_module, names)
    for index, batch in enumerate(batches):

        def observe(node: str, value: Any, index: int = index) -> None:
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                return
            axis = axes.get(node, default_channel_axis(value.ndim))
            stats = result.statistics.setdefault(node, TensorStats(channel_axis=axis))
            stats.update(value, index)
            if stats.nan_count:
                raise NonFiniteError(
                    f"NaN in the float model: the first layer that produces it is {names[node]!r}",
                    received=f"{stats.nan_count} NaN in batch {index} of the calibration data",
                    fix="Check that layer's weights and the data of this batch.",
                )

        runner.watch(batch.inputs, observe)
        result.batches += 1
        result.samples += batch.samples
        if on_progress is not None:
            on_progress(result.batches, total, "calibrating")
        if should_stop is not None and should_stop():
            break
    result.complete = result.batches >= total
    order = {node.name: i for i, node in enumerate(graph_module.graph.nodes)}
    result.statistics = dict(sorted(result.statistics.items(), key=lambda kv: order[kv[0]]))
    return result


def channel_axes(graph_module: fx.GraphModule) -> dict[str, int]:
    """The axis of channels in the output of each node whose layer defines one."""
    axes = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            layer = graph_module.get_submodule(str(node.target))
            leaf = layer[0] if isinstance(layer, nn.Sequential) else layer
            if isinstance(leaf, _CHANNELS_LAST):
                axes[node.name] = -1
            elif isinstance(leaf, _CHANNELS_SECOND):
                axes[node.name] = 1
    return axes


def default_channel_axis(ndim: int) -> int | None:
    """Axis 1 of images and volumes, the last axis of (batch, features) and token sequences."""
    if ndim < 2:
        return None
    return 1 if ndim >= 4 else -1


def sample_inputs(batches: Batches, largest: int) -> tuple[Any, ...]:
    """The first samples of the first batch, at most ``largest`` of them."""
    batch = next(iter(batches))
    size = batch.samples

    def cut(value: Any) -> Any:
        aligned = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size
        return value[:largest] if aligned else value

    return tuple(cut(value) for value in batch.inputs)


def activation_bytes(graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> int:
    """Bytes of every node's float output for ``inputs``, measured by one run."""
    total = 0

    def add(_: str, value: Any) -> None:
        nonlocal total
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()

    names = [node.name for node in graph_module.graph.nodes if node.op != "output"]
    with torch.no_grad():
        GraphRunner(graph_module, names).watch(inputs, add)
    return total
