"""Where a factor per channel can be moved from the layers that write a tensor to its readers.

``relu(u·x) = u·relu(x)`` for u > 0, and so for every operator that is positively homogeneous in
each channel. A scale group is a set of tensors tied by such operators and by additions, with all
layers that write and all that read them: multiplying what the ones write and dividing the weights
of the others by the same factors leaves the network's function as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from qlab.algorithms.targets import is_transposed, set_weight
from qlab.nn.functions import Add
from qlab.nn.intrinsic import AddReLU
from qlab.nn.intrinsic.fold import core
from qlab.nn.intrinsic.fused import ConvAdd2d, FusedModule

_ANYWHERE = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.Dropout2d, Add, AddReLU)
_ON_IMAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Upsample, nn.PReLU),
)
_CLIPS = (nn.ReLU6,)


class NoGroupError(Exception):
    """A layer's output cannot be scaled; the message says why, in words."""


@dataclass(eq=False)
class ScaleGroup:
    """Layers whose common tensor can be scaled channel by channel.

    Attributes:
        producers: Nodes of the layers that write it, in graph order.
        consumers: Nodes of the layers that read it.
        clips: Nodes whose output ReLU6 clips, on its own or fused into a layer.
        between: Nodes of the operators between them.
        channels: Number of channels.
    """

    producers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    between: list[str] = field(default_factory=list)
    channels: int = 0


class GroupFinder:
    """Finds the scale groups of a fused float graph."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.graph.nodes}
        self.uses = Counter(
            id(parameter)
            for node in self.nodes.values()
            if node.op == "call_module"
            for parameter in graph.get_submodule(str(node.target)).parameters()
        )

    def name(self, node: fx.Node) -> str:
        """What people call a node."""
        return str(node.meta.get("name", node.name))

    def layer(self, node: fx.Node) -> Any:
        """The linear layer or convolution that a node calls; None for other nodes."""
        if node.op != "call_module":
            return None
        inner = core(self.graph.get_submodule(str(node.target)))
        return inner if isinstance(inner, nn.Linear | _ConvNd) else None

    def group_of(self, node: str) -> ScaleGroup:
        """The group whose tensors a layer writes.

        Raises:
            NoGroupError: There is none; says why.
        """
        found, seen, todo = ScaleGroup(), set[str](), [self.nodes[node]]
        while todo:
            tensor = todo.pop()
            if tensor.name in seen:
                continue
            seen.add(tensor.name)
            todo += self._source(tensor, found)
            todo += self._readers(tensor, found)
        order = {name: i for i, name in enumerate(self.nodes)}
        for names in (found.producers, found.consumers, found.clips, found.between):
            names[:] = sorted(set(names), key=order.__getitem__)
        self._check(found)
        return found

    def _source(self, tensor: fx.Node, found: ScaleGroup) -> list[fx.Node]:
        """What else a tensor is tied to by the operator that writes it."""
        module = self._module(tensor)
        if self.layer(tensor) is not None:
            self._check_alone(tensor)
            self._check_tail(tensor, module, found)
            found.producers.append(tensor.name)
            return []
        self._check_passes(tensor, module, found)
        return list(tensor.all_input_nodes)

    def _readers(self, tensor: fx.Node, found: ScaleGroup) -> list[fx.Node]:
        if not tensor.users:
            raise NoGroupError(f"nothing reads {self.name(tensor)!r}")
        tied = []
        for reader in tensor.users:
            if reader.op == "output":
                raise NoGroupError("it is, or is added to, an output of the network")
            if self.layer(reader) is None:
                tied.append(reader)
                continue
            if isinstance(self._module(reader), ConvAdd2d) and tensor in reader.args[1:]:
                raise NoGroupError(f"it is added to what {self.name(reader)!r} gives")
            self._check_alone(reader)
            self._check_axis(tensor, reader)
            found.consumers.append(reader.name)
        return tied

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _check_alone(self, node: fx.Node) -> None:
        parameters = self.graph.get_submodule(str(node.target)).parameters()
        if any(self.uses[id(parameter)] > 1 for parameter in parameters):
            raise NoGroupError(f"the network uses the weights of {self.name(node)!r} several times")

    def _check_tail(self, node: fx.Node, module: Any, found: ScaleGroup) -> None:
        """What was fused behind a layer must let factors through."""
        if isinstance(module, ConvAdd2d):
            raise NoGroupError(f"another tensor is added to what {self.name(node)!r} gives")
        for part in list(module)[1:] if isinstance(module, FusedModule) else []:
            if isinstance(part, _CLIPS):
                found.clips.append(node.name)
            elif not isinstance(part, nn.ReLU):
                raise NoGroupError(
                    f"{type(part).__name__} behind {self.name(node)!r} does not let factors through"
                )

    def _check_passes(self, node: fx.Node, module: Any, found: ScaleGroup) -> None:
        kind = type(module)
        passes = kind in (*_ANYWHERE, *_CLIPS) or (kind in _ON_IMAGES and self._by_second(node))
        passes = passes or (kind is nn.Flatten and module.start_dim == 1 and self._by_second(node))
        if node.op == "placeholder":
            raise NoGroupError(f"the network's input {self.name(node)!r} is tied to it")
        if not passes:
            raise NoGroupError(f"{self.name(node)!r} does not let factors of channels through")
        found.between.append(node.name)
        if kind in _CLIPS:
            found.clips.append(node.name)

    def _by_second(self, node: fx.Node) -> bool:
        """Whether what an operator reads has its channels along axis 1."""
        source = node.all_input_nodes[0]
        while self.layer(source) is None and source.all_input_nodes:
            source = source.all_input_nodes[0]
        layer = self.layer(source)
        return isinstance(layer, _ConvNd) or self._ndim(node.all_input_nodes[0]) == 2

    def _check_axis(self, tensor: fx.Node, reader: fx.Node) -> None:
        """The reader must take the tensor's channels as its input channels."""
        linear = isinstance(self.layer(reader), nn.Linear)
        source = tensor
        while self.layer(source) is None and source.all_input_nodes:
            source = source.all_input_nodes[0]
        written = self.layer(source)
        fits = self._ndim(tensor) == 2 or isinstance(written, nn.Linear) == linear
        if not fits:
            raise NoGroupError(f"{self.name(reader)!r} reads it along another axis")

    @staticmethod
    def _ndim(node: fx.Node) -> int | None:
        shape = node.meta.get("shape")
        return len(shape) if isinstance(shape, tuple) else None

    def _check(self, found: ScaleGroup) -> None:
        if not found.consumers:
            raise NoGroupError("no layer with weights reads it")
        sizes = {self.outputs(name) for name in found.producers}
        if len(sizes) != 1:
            raise NoGroupError("layers of different width are added to it")
        found.channels = sizes.pop()
        for name in (*found.producers, *found.consumers):
            layer = self.layer(self.nodes[name])
            if is_transposed(layer) and layer.groups > 1:
                raise NoGroupError(f"{self.name(self.nodes[name])!r} is transposed and grouped")
        for name in found.consumers:
            if self.inputs(name) % found.channels:
                raise NoGroupError(f"{self.name(self.nodes[name])!r} reads other channels")

    def outputs(self, node: str) -> int:
        """How many channels a layer writes."""
        layer = self.layer(self.nodes[node])
        return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels

    def inputs(self, node: str) -> int:
        """How many channels a layer reads."""
        layer = self.layer(self.nodes[node])
        return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def output_rows(layer: Any) -> Tensor:
    """A layer's weights by output channel, (outputs, rest)."""
    weight = layer.weight.detach()
    return (weight.transpose(0, 1) if is_transposed(layer) else weight).flatten(1)


def input_rows(layer: Any) -> Tensor:
    """A layer's weights by input channel, (inputs, rest)."""
    weight = layer.weight.detach()
    if is_transposed(layer):
        return weight.flatten(1)
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    split = weight.unflatten(0, (groups, -1)).transpose(1, 2)  # groups, inputs, outputs, …
    return split.flatten(0, 1).flatten(1)


def scale_along(layer: Any, factors: Tensor, axis: int) -> None:
    """Multiplies a layer's weights along one of their axes."""
    weight = layer.weight.detach()
    set_weight(layer, weight * _spread(factors, weight, axis))


def scale_output(layer: Any, factors: Tensor, axis: int | None = None) -> None:
    """Multiplies what a layer writes, channel by channel: along its own axis or a named one."""
    scale_along(layer, factors, int(is_transposed(layer)) if axis is None else axis)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach() * factors, layer.bias.requires_grad)


def scale_input(layer: Any, factors: Tensor) -> None:
    """Multiplies the weights that a layer has for each channel that it reads."""
    weight = layer.weight.detach()
    inputs = input_rows(layer).shape[0]
    factors = factors.repeat_interleave(inputs // factors.numel())
    if is_transposed(layer):
        set_weight(layer, weight * _spread(factors, weight, 0))
        return
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    per_group = factors.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    set_weight(layer, weight * per_group.reshape(*per_group.shape, *[1] * (weight.ndim - 2)))


def _spread(factors: Tensor, weight: Tensor, axis: int) -> Tensor:
    shape = [1] * weight.ndim
    shape[axis] = -1
    return factors.reshape(shape)


def ranges_of(rows: Iterator[Tensor], channels: int) -> Tensor:
    """Largest magnitude of each channel over several layers, each relative to its own largest."""
    found = torch.zeros(channels)
    for row in rows:
        each = row.abs().amax(1).reshape(channels, -1).amax(1)
        found = torch.maximum(found.to(each), each / each.max().clamp_min(1e-30))
    return found


def response(layer: Any, weight: Tensor, shift: Tensor) -> Tensor:
    """What a constant in each input channel makes of a layer's outputs, borders left out.

    Args:
        layer: A linear layer or convolution, not transposed.
        weight: Its weight, or a change of it.
        shift: The constants, (inputs,) or a divisor of that many, each for as many in turn.

    Returns:
        (outputs,), in the type of ``weight``.
    """
    repeated = shift.repeat_interleave(input_rows(layer).shape[0] // shift.numel())
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    sums = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    per_group = repeated.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    return (sums * per_group.reshape_as(sums)).sum(1, dtype=torch.float64).to(weight.dtype)


def move_batch_norm(
    graph: fx.GraphModule,
    node: str,
    *,
    factors: Tensor | None = None,
    shift: Tensor | None = None,
) -> None:
    """Keeps what is known of a layer's output in step with the factors and shifts that it got."""
    meta = next(n.meta for n in graph.graph.nodes if n.name == node)
    if "batch_norm" not in meta:
        return
    mean, deviation = map(torch.tensor, meta["batch_norm"])
    if factors is not None:
        mean, deviation = mean * factors.cpu(), deviation * factors.cpu()
    if shift is not None:
        mean = mean + shift.cpu()
    meta["batch_norm"] = tuple(mean.tolist()), tuple(deviation.tolist())
