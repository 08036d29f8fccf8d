"""Chains of layers that are quantized as one become one module."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qlab.errors import UnsupportedError
from qlab.graph.lift import is_real
from qlab.nn.intrinsic.fold import hooked
from qlab.registry import ON_REQUEST, PATTERNS, Pattern


def fuse(
    graph_module: fx.GraphModule,
    patterns: Sequence[Pattern] = PATTERNS,
    asked: Mapping[str, object] | None = None,
) -> fx.GraphModule:
    """A copy of a traced graph in which the registry's patterns are fused, longest first.

    A chain is fused only where nothing else reads what its parts hand on. The fused module takes
    the name of the first part; ``meta["fused"]`` of its node lists the names of the others. Batch
    norm is folded into the weights before it in float64, so outputs agree to float32's rounding;
    ``meta["batch_norm"]`` keeps the mean and the standard deviation that it gave each channel.

    A chain that goes into a sum is fused only where the other operand has its shape and is not
    read afterwards; the fused module stands where the sum stood.

    Args:
        graph_module: A graph made by `qlab.graph.trace`; it stays as it is.
        patterns: The chains to fuse.
        asked: What is asked of nodes, by name: parts of `qlab.registry.ON_REQUEST` of which
            different things are asked stay apart.

    Returns:
        A graph of the same function; layers that were not fused share no tensors with the
        argument either.
    """
    fused = copy.deepcopy(graph_module)
    for pattern in _longest_first(patterns):
        for chain in list(_chains(fused, pattern)):
            apart = pattern in ON_REQUEST and not _asked_alike(chain, asked)
            if not apart and not any(part._erased for part in chain):
                _replace(fused, chain, pattern)
    fused.delete_all_unused_submodules()
    fused.graph.lint()
    fused.recompile()
    return fused


def chains(graph_module: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """The chains that `fuse` would make one module of, by their last node."""
    found: dict[fx.Node, list[fx.Node]] = {}
    taken: set[fx.Node] = set()
    for pattern in _longest_first(PATTERNS):
        for chain in _chains(graph_module, pattern):
            if taken.isdisjoint(chain) and _fused(graph_module, chain, pattern) is not None:
                taken.update(chain)
                found[chain[-1]] = chain
    return found


def _longest_first(patterns: Sequence[Pattern]) -> list[Pattern]:
    return sorted(patterns, key=lambda pattern: -len(pattern.modules))


def _fused(
    graph_module: fx.GraphModule, chain: list[fx.Node], pattern: Pattern
) -> nn.Module | None:
    """The module of a chain; None where a batch norm without running statistics forbids it."""
    try:
        return pattern.fuse([graph_module.get_submodule(str(part.target)) for part in chain])
    except UnsupportedError:
        return None


def _chains(graph_module: fx.GraphModule, pattern: Pattern) -> Iterator[list[fx.Node]]:
    """The places where a pattern's modules follow one another and nothing reads in between."""
    for node in graph_module.graph.nodes:
        chain = [node]
        while len(chain) < len(pattern.modules) and len(chain[-1].users) == 1:
            chain.append(next(iter(chain[-1].users)))
        modules = [_module(graph_module, part) for part in chain]
        kinds = tuple(map(type, modules))
        if kinds != pattern.modules or any(map(hooked, filter(None, modules))):
            continue
        if all(itertools.starmap(_hands_on, itertools.pairwise(chain))):
            yield chain


def _hands_on(before: fx.Node, part: fx.Node) -> bool:
    """Whether a part of a chain reads the one before, and but for a sum nothing else."""
    if part.args == (before,):
        return True
    other = _other_operand(before, part)
    if other is None:
        return False
    shapes = before.meta.get("shape"), other.meta.get("shape")
    return shapes[0] == shapes[1] and is_real(other) and not _read_after(other, part)


def _other_operand(before: fx.Node, part: fx.Node) -> fx.Node | None:
    """What a sum adds to its other operand; None where it is no sum of two tensors."""
    others = [argument for argument in part.args if argument is not before]
    if len(part.args) != 2 or len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    return others[0]


def _read_after(value: fx.Node, reader: fx.Node) -> bool:
    """Whether a tensor is needed after a node has read it: by another node, or by the next call."""
    return value.op == "get_attr" or any(reader < user for user in value.users)


def _asked_alike(chain: list[fx.Node], asked: Mapping[str, object] | None) -> bool:
    if asked is None:
        return True
    first, *rest = (asked[part.name] for part in chain if part.name in asked)
    return all(one == first for one in rest)


def _module(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _mean_and_deviation(norm: _BatchNorm) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What batch norm makes of each channel: its mean β and its standard deviation |γ|."""
    features = norm.num_features
    mean = torch.zeros(features) if norm.bias is None else norm.bias.detach()
    deviation = torch.ones(features) if norm.weight is None else norm.weight.detach().abs()
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _replace(graph_module: fx.GraphModule, chain: list[fx.Node], pattern: Pattern) -> None:
    first, *rest = chain
    module = _fused(graph_module, chain, pattern)
    if module is None:
        return
    graph_module.add_submodule(str(first.target), module)
    first.meta["fused"] = tuple(part.meta["name"] for part in rest)
    norm = graph_module.get_submodule(str(rest[0].target))
    if isinstance(norm, _BatchNorm) and all(len(part.args) == 1 for part in rest):
        first.meta["batch_norm"] = _mean_and_deviation(norm)
    first.meta["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    for before, part in itertools.pairwise(chain):
        other = _other_operand(before, part)
        if other is not None:
            first.args = (*first.args, other)
    chain[-1].prepend(first)  # where a sum's operand is there, and where the reference observes it
    chain[-1].replace_all_uses_with(first)
    for part in reversed(rest):
        graph_module.graph.erase_node(part)
        # By name: a batch norm kept for training would be reached in two ways, and its mode set.
        graph_module.delete_submodule(str(part.target))
