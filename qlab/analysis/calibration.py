"""One float pass over the calibration data; statistics of every observable tensor."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from qlab.analysis.batches import Batch, Batches
from qlab.errors import ArgumentError, NonFiniteError, UnfinishedError
from qlab.execution import GraphRunner, Program, channels_last
from qlab.graph.infinite import without_infinity
from qlab.stats import TensorStats

Progress = Callable[[int, int, str], None]
Stop = Callable[[], bool]

_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
_CHANNELS_SECOND = (_ConvNd, _NormBase, nn.GroupNorm)


@dataclass
class Calibration:
    """What calibration saw; a later pass makes a new one and leaves this as it is.

    Attributes:
        statistics: By graph node, in graph order. Batches are numbered in the order seen.
        batches: Number of batches seen.
        samples: Number of samples seen.
        complete: False where a pass was stopped before the data ended.
        seen: Batches seen of each source of data, in the order in which sources were added.
        model: Fingerprint of the model, see `model_fingerprint`; empty where it is not known.
        contained: Digests of the calibrations that were merged into this one, or went on to it.
    """

    statistics: dict[str, TensorStats] = field(default_factory=dict)
    batches: int = 0
    samples: int = 0
    complete: bool = False
    seen: tuple[int, ...] = ()
    model: str = ""
    contained: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def digest(self) -> str:
        """12 hex digits of a SHA-256 over all statistics: the same for the same data and model."""
        found = hashlib.sha256()
        for node, stats in self.statistics.items():
            found.update(node.encode())
            for tensor in stats.state_dict().values():
                found.update(tensor.cpu().numpy().tobytes())
        return found.hexdigest()[:12]

    @property
    def lineage(self) -> tuple[str, ...]:
        """`contained`, and this calibration's own digest where it saw anything."""
        if not self.statistics:
            return self.contained
        return tuple(dict.fromkeys((*self.contained, self.digest)))

    def merge(self, other: Calibration) -> Calibration:
        """What one calibration over both sets of data would have seen, ``other``'s data last.

        For data that was split over processes or machines, each with a Lab of the same model.
        Neither argument changes. Only the numbers of the batches depend on who comes first.

        Raises:
            ArgumentError: The two saw different graphs, or other weights in one; or the same data,
                which would count twice.
        """
        mine, theirs = self.statistics, other.statistics
        contained = tuple({**dict.fromkeys(self.lineage), **dict.fromkeys(other.lineage)})
        if len(contained) < len(self.lineage) + len(other.lineage):
            raise ArgumentError(
                "These calibrations saw the same data: merged, it would count twice",
                expected="the `calibrated` of another Lab, which saw other data",
                received="one that is a part of the other, or shares a part with it",
            )
        if mine and theirs and mine.keys() != theirs.keys():
            raise ArgumentError(
                "Calibrations of different models do not merge",
                received=f"nodes that only one has: {sorted(mine.keys() ^ theirs.keys())}",
            )
        if self.model and other.model and self.model != other.model:
            raise ArgumentError(
                "Calibrations of different models do not merge: layers have the same names, and "
                "other weights or settings",
                expected=f"statistics of the model {self.model}",
                received=f"of {other.model}",
                fix="Calibrate a Lab of this very model on the other data.",
            )
        later = {node: stats.renumbered(self.batches) for node, stats in theirs.items()}
        return Calibration(
            {node: _merged(mine[node], later[node]) for node in mine if node in later}
            or copy.deepcopy(mine or later),
            self.batches + other.batches,
            self.samples + other.samples,
            self.complete and other.complete,
            self.seen + other.seen,
            self.model or other.model,
            contained,
        )


def _merged(mine: TensorStats, theirs: TensorStats) -> TensorStats:
    """Statistics of one tensor; channels only where both passes saw as many of them."""
    axes = {stats.channel_axis for stats in (mine, theirs)}
    counts = {stats.channels for stats in (mine, theirs)} - {0}
    if len(axes) > 1 or len(counts) > 1:
        mine, theirs = _without_channels(mine), _without_channels(theirs)
    return mine.merge(theirs)


def _has_channels_of(stats: TensorStats, x: Tensor) -> bool:
    """Whether a tensor has as many channels as those seen before it."""
    axis, known = stats.channel_axis, stats.channels
    if axis is None or not known:
        return True
    return -x.dim() <= axis < x.dim() and x.shape[axis] == known


def _without_channels(stats: TensorStats) -> TensorStats:
    """A copy that tells no channels apart: what was taken for them turned out to be none."""
    parts = stats.state_dict()
    for name in ("channel_axis", "channel_min", "channel_max"):
        parts[name] = parts[name][:0]
    return TensorStats.from_state_dict(parts)


def collect_statistics(
    graph_module: fx.GraphModule,
    sources: Sequence[Batches],
    names: Mapping[str, str],
    *,
    start: Calibration | None = None,
    called: str = "calibration",
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Calibration:
    """Runs the float graph over data once and describes every tensor named in ``names``.

    On the CPU its convolutions run in channels-last order, which is faster; values are those of
    the graph within the rounding of float32 (see `qlab.execution.channels_last`).

    Args:
        graph_module: The float graph, after fusion.
        sources: Calibration data, one after the other.
        names: The nodes to observe, each with the layer's name for messages.
        start: What was seen before, of the first of these sources; it goes on from there, which
            needs sources that give their batches in the same order again.
        called: What the data is called in errors.
        on_progress: Called as ``(batches done, batches in all, label)``; batches of loaders that
            do not say how many they have count as they come.
        should_stop: Asked after each batch; what was seen until then is kept.

    Raises:
        NonFiniteError: NaN in a tensor, or infinity that a layer made of finite numbers; names
            the first layer that did so, or the input that came so.
    """
    watch = _Watch(graph_module, names, called)
    order = [node.name for node in graph_module.graph.nodes]
    return collect(
        sources, watch.run, order, start=start, on_progress=on_progress, should_stop=should_stop
    )


def collect(
    sources: Sequence[Batches],
    describe: Callable[[Batch, int, dict[str, TensorStats]], None],
    order: Sequence[str],
    *,
    start: Calibration | None = None,
    on_progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> Calibration:
    """As `collect_statistics`, for a model that runs in any way.

    Args:
        sources: As there.
        describe: Runs the model on a batch, whose number follows, and adds to the statistics.
        order: The nodes in the order in which the statistics are to be.
        start: As there.
        on_progress: As there.
        should_stop: As there.

    Raises:
        UnfinishedError: A loader failed; ``partial`` is what was seen before.
    """
    result = Calibration() if start is None else copy.deepcopy(start)
    if start is not None:
        result.contained = start.lineage
    known = result.seen or (result.batches,)
    seen = [*known, *[0] * len(sources)][: len(sources)]
    sizes = [source.length for source in sources]
    whole = len(known) if result.complete else 0
    total = result.batches + sum(
        max((size or 0) - done, 0) for size, done in zip(sizes, seen, strict=True)
    )
    broken: UnfinishedError | None = None
    stopped, rest = False, _rest(sources, sizes, seen, whole)
    while not stopped:
        try:
            which, batch = next(rest)
        except StopIteration:
            break
        except UnfinishedError as error:
            broken = error
            break
        describe(batch, result.batches, result.statistics)
        seen[which] += 1
        result.batches += 1
        result.samples += batch.samples
        if on_progress is not None:
            on_progress(result.batches, max(total, result.batches), "calibrating")
        stopped = should_stop is not None and should_stop()
    result.seen = tuple(seen)
    at_end = None not in sizes and result.batches >= total
    result.complete = broken is None and (not stopped or at_end)
    place = {node: index for index, node in enumerate(order)}
    result.statistics = dict(sorted(result.statistics.items(), key=lambda kv: place[kv[0]]))
    if broken is not None:
        fix = "Repair the loader. What was seen before stays: calibrate() goes on from there."
        cause = broken.__cause__ or broken
        raise UnfinishedError.of(broken.problem, cause, fix, result) from broken.__cause__
    return result


def _rest(
    sources: Sequence[Batches], sizes: Sequence[int | None], seen: Sequence[int], whole: int
) -> Iterator[tuple[int, Batch]]:
    """Batches not yet seen, each with the index of its source; what was seen whole is not asked.

    Of the first ``whole`` sources all was seen, whether or not they know their size.
    """
    skipped = tuple(seen)
    for which, source in enumerate(sources):
        size = sizes[which]
        if size is None and which < whole:
            continue
        if not size or skipped[which] < size:
            for batch in itertools.islice(source, skipped[which], None):
                yield which, batch


class _Watch:
    """Describes the tensors of a graph batch by batch, and refuses what is not finite.

    NaN is always refused. Infinity is refused where a layer makes it of finite numbers: where the
    layer, given 0 for each infinity among its inputs and arguments, still gives some. Else it was
    put there on purpose, as a mask before softmax is, and is counted and left out. So it is in
    constants, but not in parameters, and in inputs that hold nothing but 0 and -inf.
    """

    def __init__(self, graph_module: fx.GraphModule, names: Mapping[str, str], called: str) -> None:
        self._called = called
        self._program = channels_last(Program.of(graph_module))
        self._nodes = {node.name: node for node in graph_module.graph.nodes}
        self._axes = channel_axes(graph_module)
        self._names = names
        self._statistics: dict[str, TensorStats] = {}
        self._live: dict[str, Any] = {}
        self._batch = 0

    def run(self, batch: Batch, index: int, statistics: dict[str, TensorStats]) -> None:
        self._batch, self._statistics, self._live = index, statistics, {}
        with torch.no_grad():
            self._program.run(batch.inputs, self._observe, self._live)

    def _observe(self, node: str, value: Any) -> None:
        observed = isinstance(value, Tensor) and value.is_floating_point()
        if not observed or node not in self._names:
            return
        stats = self._statistics.get(node)
        if stats is None:
            axis = self._axes.get(node, default_channel_axis(value.ndim))
            stats = self._statistics[node] = TensorStats(channel_axis=axis)
        elif node not in self._axes and not _has_channels_of(stats, value):
            # The axis was a guess: attention may have the samples or the tokens there.
            stats = self._statistics[node] = _without_channels(stats)
        nan, infinite = stats.nan_count, stats.inf_count
        stats.update(value, self._batch)
        if stats.nan_count > nan:
            raise self._refusal("NaN", stats.nan_count - nan, node)
        if stats.inf_count > infinite and not self._on_purpose(node, value):
            raise self._refusal("Infinity", stats.inf_count - infinite, node)

    def _on_purpose(self, node: str, value: Tensor) -> bool:
        """Whether a layer's infinity is that which it was given."""
        instruction = self._program.by_name[node]
        if instruction.op == "get_attr":
            return not isinstance(value, nn.Parameter)
        if instruction.op == "placeholder":
            return bool(((value == 0) | value.isneginf()).all())
        given = {name: without_infinity(self._live[name]) for name in instruction.reads}
        args, kwargs = without_infinity((instruction.args, instruction.kwargs))
        own = replace(instruction, args=args, kwargs=kwargs).run(given)
        return not (isinstance(own, Tensor) and bool(own.isinf().any()))

    def _refusal(self, what: str, count: int, node: str) -> NonFiniteError:
        name, batch = self._names[node], f"batch {self._batch} of the {self._called} data"
        if self._nodes[node].op == "placeholder":
            return NonFiniteError(
                f"{what} in the data: {batch}, the model's input {name!r}",
                expected="finite numbers",
                received=f"{count} values of {what}",
                fix="Repair or leave out that batch.",
            )
        return NonFiniteError(
            f"{what} in the float model: the first layer that produces it is {name!r}",
            received=f"{count} values of {what} in {batch}",
            fix="Check that layer's weights and the data of this batch.",
        )


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
    return first_samples(next(iter(batches)), largest)


def first_samples(batch: Batch, largest: int) -> tuple[Any, ...]:
    """Copies of the first samples of a batch, at most ``largest`` of them."""
    size = batch.samples

    def cut(value: Any) -> Any:
        aligned = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size
        return value[:largest].clone() if aligned else value

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
