"""Fingerprints of models and data: whether two are the same, and where they first differ."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qlab.analysis.batches import Batch
from qlab.graph.lift import attribute

_MODULUS = 2**256
_SAMPLED = 2**14
_DEVICE = re.compile(r"device\(type='\w+'(, index=\d+)?\)")


def tensor_fingerprint(tensor: Tensor) -> str:
    """SHA-256 over data type, shape and values of a tensor on any device."""
    return _digest(tensor).hex()


def _digest(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def graph_fingerprint(graph_module: fx.GraphModule) -> dict[str, str]:
    """What a float graph is made of, by part, in graph order.

    Returns:
        ``{"node <name>": what it computes, ..., "tensor <name>": type, shape and SHA-256, ...}``.
        Two graphs with equal fingerprints compute the same.
    """
    parts = _computations(graph_module)
    for name, tensor in graph_tensors(graph_module).items():
        shape = f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"
        parts[f"tensor {name}"] = f"{shape} {tensor_fingerprint(tensor)}"
    return parts


def model_fingerprint(graph_module: fx.GraphModule) -> str:
    """Of a float graph and its weights on any device, in some milliseconds.

    Of a tensor of more than 16,384 elements as many count, evenly spaced: training changes nearly
    all of them, and `graph_fingerprint` reads each.
    """
    computed = _computations(graph_module)
    parts = {node: _DEVICE.sub("device", what) for node, what in computed.items()}
    for name, tensor in graph_tensors(graph_module).items():
        flat = tensor.detach().reshape(-1)
        few = flat[:: max(flat.numel() // _SAMPLED, 1)]
        parts[f"tensor {name}"] = f"{tuple(tensor.shape)} {tensor_fingerprint(few)}"
    return combined(parts)


def _computations(graph_module: fx.GraphModule) -> dict[str, str]:
    """What each node of a graph computes."""
    parts = {}
    for node in graph_module.graph.nodes:
        what = node.target if isinstance(node.target, str) else _name_of(node.target)
        if node.op == "call_module":
            what = f"{what} = {graph_module.get_submodule(str(node.target))!r}"
        arguments = f"{node.args!r} {dict(node.kwargs)!r}"
        parts[f"node {node.name}"] = f"{node.op} {what} on {arguments}"
    return parts


def graph_tensors(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    """Every tensor that a graph computes with, by name: its modules' state, and what nodes read.

    A parameter that was taken apart, such as the one of an attention's three projections, stays in
    the module that it came from and is read by nobody.
    """
    read = {str(n.target): n for n in graph_module.graph.nodes if n.op == "get_attr"}
    called = tuple(f"{n.target}." for n in graph_module.graph.nodes if n.op == "call_module")
    loose = {name: attribute(graph_module, node) for name, node in read.items()}
    state = graph_module.state_dict()
    return {**loose, **{k: v for k, v in state.items() if k in read or k.startswith(called)}}


def _name_of(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', function)}"


def first_difference(expected: Mapping[str, str], received: Mapping[str, str]) -> str | None:
    """The first part in which two fingerprints differ, in words; None where they are equal."""
    for part, was in expected.items():
        now = received.get(part)
        if now is None:
            return f"{part} is missing"
        if now != was:
            same_kind = part.startswith("tensor ") and was.split(" ")[0] == now.split(" ")[0]
            return f"the values of {part} differ" if same_kind else f"{part}: {was} became {now}"
    extra = next((part for part in received if part not in expected), None)
    return None if extra is None else f"{extra} is new"


def same_values(one: Any, other: Any) -> bool:
    """Whether two networks' outputs are the very same numbers, nested in the same way."""
    (a, shape), (b, other_shape) = (pytree.tree_flatten(value) for value in (one, other))
    return shape == other_shape and all(
        torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x == y
        for x, y in zip(a, b, strict=True)
    )


def data_fingerprint(batches: Iterable[Batch]) -> str:
    """Of all samples, labels included; neither their order nor batching matters.

    The sum of every sample's SHA-256, and how many there are, so that those of several sets of
    data add up: see `joined`. One pass over the data, without the model. Data that changes from
    pass to pass (augmentation) has no lasting fingerprint.
    """
    total, samples = 0, 0
    for batch in batches:
        size = batch.samples
        values = (*batch.inputs, batch.labels)
        columns = [_rows(value, size) for value in values]
        for row in zip(*columns, strict=True):
            digest = hashlib.sha256(b"".join(row)).digest()
            total = (total + int.from_bytes(digest, "little")) % _MODULUS
        samples += size
    return f"{total:064x}-{samples}"


def joined(fingerprints: Iterable[str]) -> str:
    """The fingerprint of several sets of data together, from that of each."""
    parts = [fingerprint.split("-") for fingerprint in fingerprints]
    total = sum(int(part, 16) for part, _ in parts) % _MODULUS
    return f"{total:064x}-{sum(int(count) for _, count in parts)}"


def _rows(value: Any, samples: int) -> list[bytes]:
    """A digest per sample; what does not belong to single samples counts for each."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == samples:
        return [_digest(row) for row in value.detach().cpu()]
    whole = _digest(value) if isinstance(value, Tensor) else repr(value).encode()
    return [whole] * samples


def combined(*parts: str | Mapping[str, str]) -> str:
    """One short fingerprint (16 hex digits) of several."""
    texts = [
        p if isinstance(p, str) else "\n".join(f"{k}: {v}" for k, v in p.items()) for p in parts
    ]
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()[:16]
