"""Feeds damaged and altered uploads to the reader: ``python -m tests.fuzz_uploads 100000``.

Every input is a valid file with something changed, by a seeded generator: bytes, JSON fields,
names of members, lengths. The reader must answer each with a model, with data, or with an error
that is meant for people; a crash, another exception, more than 10 s or more memory than stated
fails the run. It runs in this process, after bounding its memory. Seconds are the processor's, as
a busy machine makes anything late; an input that only waits is stopped after a minute.

    python -m tests.fuzz_uploads COUNT [FIRST_SEED]
"""

from __future__ import annotations

import copy
import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from qlab.errors import QlabError
from qlab.io.uploads import Limits, process
from qlab.io.uploads.arrays import collect
from qlab.io.uploads.models import assemble
from tests.upload_files import (
    members_of,
    nested_archive,
    npy,
    npz,
    pack,
    png,
    small_archive,
)

SECONDS, WAITING_SECONDS = 10, 60
REPORTED = 1000
GROWTH = 512 * 2**20
ADDRESS_SPACE = 2 * 2**30
LIMITS = Limits(unpacked_bytes=64 * 2**20, json_bytes=4 * 2**20)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 64, 2**31, 2**47, 2**63, -(2**63), 10**30, 0.5, 1e308, "",
    "x", "..", "NaN", "Infinity", "weight_0", "Symbol('s0')", "torch.ops.aten.relu.default",
    "torch.ops.aten.zeros.default", "_operator.add", [], {}, [[]], [None], {"as_none": True},
    {"as_int": -1}, {"as_int": 2**40}, {"as_ints": [2**40]}, {"as_float": "NaN"},
    {"as_tensor": {"name": "x"}}, {"as_string": "same"}, {"as_bool": True},
    {"as_expr": {"expr_str": "Mul(Integer(2), Symbol('s0'))"}},
)  # fmt: skip
Mutate = Callable[[bytes, random.Random], bytes]


def seeds() -> list[tuple[str, str, bytes]]:
    """Valid files: what they are read as, their name and bytes."""
    generator = np.random.default_rng(0)
    images = {f"{c}/{i}.png": png(generator.integers(0, 255, (5, 4, 3), "u1"))
              for c in "ab" for i in range(2)}  # fmt: skip
    array = generator.normal(size=(4, 3)).astype("f4")
    return [
        ("model", "small.pt2", small_archive()),
        ("model", "nested.pt2", nested_archive()),
        ("data", "x.npy", npy(array)),
        ("data", "x.npz", npz(x=array, labels=np.arange(4))),
        ("data", "x.safetensors", safetensors.torch.save({"x": torch.from_numpy(array)})),
        ("data", "x.zip", pack(images, "")),
    ]


def bytes_changed(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 127, 128, 255, 91, 123))
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return chance.choice((content[:end], content[:start] + content[end:], content[start:]))


def spliced(content: bytes, chance: random.Random) -> bytes:
    start, end, place = (chance.randrange(len(content)) for _ in range(3))
    return content[:place] + content[min(start, end) : max(start, end)] + content[place:]


def members_changed(content: bytes, chance: random.Random) -> bytes:
    members = members_of(content)
    name = chance.choice(sorted(members))
    value = members.pop(name)
    other = chance.choice(sorted(members) or [name])
    match chance.randrange(5):
        case 0:
            pass
        case 1:
            members[other] = value
        case 2:
            members[chance.choice(("../x", "/x", "x.so", "a" * 600, "data.pkl", ""))] = value
        case 3:
            members[name] = bytes_changed(value, chance) if value else b"x"
        case 4:
            members[name] = value[: chance.randrange(len(value) + 1)]
    return pack(members, method=chance.choice((0, 8)))


def json_changed(content: bytes, chance: random.Random) -> bytes:
    members = members_of(content)
    texts = sorted(n for n in members if n.endswith(".json"))
    if not texts:
        return members_changed(content, chance)
    name = chance.choice([n for n in texts if n.startswith("models/")] * 3 + texts)
    data = json.loads(members[name])
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        _change(data, chance)
    members[name] = json.dumps(data).encode()
    return pack(members)


def _change(data: Any, chance: random.Random) -> None:
    """Changes one field somewhere in nested JSON."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(data[key], dict | list) and data[key] and chance.random() < 0.85:
            data = data[key]
            continue
        break
    match chance.randrange(6):
        case 0:
            del data[key]
        case 1:
            data[key] = copy.deepcopy(data[chance.choice(keys)])
        case 2 if isinstance(data, list):
            data.insert(key, copy.deepcopy(data[key]))
        case 3 if isinstance(data[key], int):
            data[key] += chance.choice((-1, 1, 255, 2**31))
        case 4 if isinstance(data, dict):
            data[str(chance.choice(ODD))[:20]] = data.pop(key)
        case _:
            data[key] = copy.deepcopy(chance.choice(ODD))


_ANY: tuple[Mutate, ...] = (bytes_changed, cut, spliced)
_ZIPPED: tuple[Mutate, ...] = (*_ANY, members_changed, members_changed)
_MODEL: tuple[Mutate, ...] = (*_ZIPPED, *[json_changed] * 10)


def altered(seed: int, files: list[tuple[str, str, bytes]]) -> tuple[str, str, bytes]:
    """The input of a seed; half of them are models whose JSON was changed."""
    chance = random.Random(seed)
    kind, name, content = chance.choice([*files, *files[:2], *files[:2]])
    ways = _MODEL if kind == "model" else _ZIPPED if content[:2] == b"PK" else _ANY
    return kind, name, chance.choice(ways)(content, chance)


def outcome(kind: str, name: str, content: bytes) -> str:
    """What the reader made of one input; raises what a reader must not raise."""
    reply = process.answer(kind, content, name, LIMITS)
    parts = b"".join(len(part).to_bytes(8, "little") + part for part in reply)
    try:
        data, tensors = process._parts(parts, 0, LIMITS)
        if kind == "model":
            assemble(data, tensors, LIMITS)
        else:
            collect(data, tensors)
    except QlabError as error:
        return type(error).__name__
    return "read"


class TooLongError(BaseException):
    """One input took more than `SECONDS`."""


def _late(*_: object) -> None:
    raise TooLongError


def memory() -> int:
    """The most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(count: int, first: int = 0) -> int:
    """Runs ``count`` inputs and prints what came of them as JSON; the exit code tells failures."""
    torch.set_num_threads(1)
    files = seeds()
    for kind, name, content in files:
        assert outcome(kind, name, content) == "read", name
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, _late)
    before, found, failures, slowest = memory(), Counter[str](), [], 0.0
    begin = time.perf_counter()
    for seed in range(first, first + count):
        kind, name, content = altered(seed, files)
        start = time.process_time()
        signal.alarm(WAITING_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            found[outcome(kind, name, content)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failures.append({"seed": seed, "name": name, "error": repr(error)[:300]})
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - start)
        if (done := seed - first + 1) % REPORTED == 0:
            told = f"{done} of {count}, {len(failures)} failed, slowest {slowest:.2f} s"
            print(f"{told}, {(memory() - before) // 2**20} MiB more", file=sys.stderr, flush=True)
    growth = memory() - before
    print(json.dumps({
        "inputs": count, "first": first, "outcomes": dict(found.most_common()),
        "failures": failures[:20], "failed": len(failures), "slowest_s": round(slowest, 3),
        "growth_mib": growth // 2**20, "seconds": round(time.perf_counter() - begin, 1),
    }))  # fmt: skip
    return int(bool(failures) or growth > GROWTH or slowest > SECONDS)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
