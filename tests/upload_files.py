"""Files as people upload them, and the same files with something wrong in them."""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import sample_models


def export(model: nn.Module, args: tuple[Any, ...], **options: Any) -> bytes:
    """What `torch.export.save` writes of a model."""
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model, args, **options), file)
    return file.getvalue()


@functools.cache
def sample_archive(name: str, dynamic: bool) -> bytes:
    """A sample model's archive; large images are cut to 64 by 64 pixels."""
    sample = sample_models.load(name)
    (x,) = sample.example_inputs
    x = x[..., :64, :64]
    shapes = {"dynamic_shapes": ({0: Dim("batch")},)} if dynamic else {}
    return export(sample.model, (torch.cat([x, x]) if dynamic else x,), **shapes)


class Small(nn.Module):
    """Convolution, norm, activation written in place, functional code and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        return self.fc(F.avg_pool2d(x, 2).mean((2, 3))) + 1


class Nested(nn.Module):
    """Attention over tokens looked up by number: sizes as numbers, a mask, a dict of results."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, ids: Tensor, *, mask: Tensor) -> dict[str, Any]:
        x = self.embed(ids)
        batch, tokens, width = x.shape
        x = self.attention(x, x, x, need_weights=False)[0]
        x = x.reshape(batch * tokens, width).view(batch, tokens, width)
        x = x.masked_fill(~mask[..., None], float("-inf")).clamp(min=-3)
        first, second = self.head(x).chunk(2, dim=-1)
        return {"logits": first + second, "parts": (x[:, 1:], x.max(dim=1)[0])}


@functools.cache
def small_archive() -> bytes:
    torch.manual_seed(0)
    shapes = {"dynamic_shapes": ({0: Dim("batch")},)}
    return export(Small().eval(), (torch.randn(2, 1, 6, 6),), **shapes)


@functools.cache
def nested_model() -> Nested:
    torch.manual_seed(0)
    return Nested().eval()


@functools.cache
def nested_archive() -> bytes:
    free = {0: Dim.AUTO, 1: Dim.AUTO}
    return export(
        nested_model(),
        (torch.zeros(2, 5, dtype=torch.long),),
        kwargs={"mask": torch.ones(2, 5, dtype=torch.bool)},
        dynamic_shapes={"ids": free, "mask": free},
    )


def members_of(archive: bytes) -> dict[str, bytes]:
    """The members of a zip file, without the folder that holds them."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def pack(members: Mapping[str, bytes], folder: str = "m", method: int = 0) -> bytes:
    """A zip file of members."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as file:
        warnings.simplefilter("ignore")
        for name, content in members.items():
            file.writestr(f"{folder}/{name}" if folder else name, content)
    return out.getvalue()


def with_json(archive: bytes, member: str, change: Callable[[Any], Any]) -> bytes:
    """An archive with one JSON member changed; ``change`` may give a new value or alter its own."""
    members = members_of(archive)
    data = json.loads(members[member])
    result = change(data)
    members[member] = json.dumps(data if result is None else result).encode()
    return pack(members)


def npy(array: Any, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def png(array: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def weights(model: nn.Module) -> bytes:
    return safetensors.torch.save({k: v.clone() for k, v in model.state_dict().items()})


@functools.cache
def hostile_models() -> dict[str, tuple[str, bytes]]:
    """Files that are made to do harm, by what they try: their names and bytes."""
    archive = small_archive()
    members = members_of(archive)
    program = next(n for n in members if n.startswith("models/"))
    config = next(n for n in members if n.endswith("_weights_config.json"))

    def changed(change: Callable[[Any], Any], member: str = program) -> bytes:
        return with_json(archive, member, change)

    def target(name: str) -> bytes:
        return changed(lambda d: _nodes(d)[0].update(target=name))

    def size(value: Any) -> bytes:
        return changed(lambda d: _sizes(d).__setitem__(1, value))

    pickled = pickle.dumps(print)
    header = (10 * 2**30).to_bytes(8, "little") + b'{"x": 1}'
    bomb = bytearray(pack({"x": bytes(2**20)}, "m", zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", bomb, bomb.rindex(b"PK\x01\x02") + 24, 3 * 2**30)
    return {
        "pickle": ("m.pt", pickled),
        "pickle with another name": ("m.pt2", pickled),
        "pickled weight": ("m.pt2", with_json(archive, config, _pickle_all)),
        "pickle in a zip": ("m.pt2", pack({"data.pkl": pickled}, "archive")),
        "shell": ("m.pt2", target("os.system")),
        "file operator": ("m.pt2", target("torch.ops.aten.from_file.default")),
        "expression": ("m.pt2", size({"as_expr": {"expr_str": "__import__('os').abort()"}})),
        "huge input": ("m.pt2", size({"as_int": 2**40})),
        "compiled member": ("m.pt2", pack(members | {"data/aotinductor/m/a.so": b"\x7fELF"})),
        "path": ("m.pt2", pack({"../../etc/x": b""}, "")),
        "bomb": ("m.pt2", bytes(bomb)),
        "deep": ("m.pt2", pack(members | {program: b"[" * 10**6})),
        "truncated": ("m.pt2", archive[: len(archive) // 2]),
        "claims 10 GB": ("m.safetensors", header),
        "nothing": ("m.pt2", b""),
        "data": ("m.pt2", npz(x=np.zeros(3))),
    }


def _nodes(data: Any) -> Any:
    return data["graph_module"]["graph"]["nodes"]


def _sizes(data: Any) -> Any:
    return data["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]


def _pickle_all(data: Any) -> None:
    for entry in data["config"].values():
        entry["use_pickle"] = True
