"""A Python script that repeats a conversion and ends in the same integers."""

from __future__ import annotations

import hashlib
import json
import pprint
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import fx

from qlab.analysis.calibration import Calibration
from qlab.analysis.fingerprint import combined, graph_fingerprint
from qlab.errors import ArgumentError
from qlab.io.checkpoint import checkpoint_bytes
from qlab.qconfig import QConfigMapping


@dataclass(frozen=True)
class Origin:
    """How a model and its data are found again, in the words of `qlab.cli.load_subject`.

    Attributes:
        model: A sample model's name or ``package.module:factory``.
        data: ``package.module:loader``; None where the model brings its data.
        samples: Calibration samples at most.
        architecture: What a file of weights belongs to.
        images: What is done to images of a zip file: fields of `qlab.io.uploads.Preprocessing`.
    """

    model: str
    data: str | None = None
    samples: int | None = None
    architecture: str | None = None
    images: Mapping[str, Any] | None = None


class Replayed(Protocol):
    """What is asked of a `qlab.Lab`."""

    @property
    def graph(self) -> fx.GraphModule: ...

    @property
    def data(self) -> str: ...

    @property
    def example_values(self) -> tuple[Any, ...]: ...

    @property
    def example_call(self) -> tuple[Any, ...] | dict[str, Any]: ...

    def calibrate(self) -> Calibration: ...

    def repair_recipes(self) -> list[dict[str, Any]]: ...

    def convert(self, mapping: QConfigMapping, /) -> Any: ...


class Evidence(NamedTuple):
    """By what a conversion is known.

    Attributes:
        model: Fingerprint of the float graph.
        data: Fingerprint of the calibration data.
        result: SHA-256 of the checkpoint.
    """

    model: str
    data: str
    result: str


def evidence(lab: Replayed, mapping: QConfigMapping) -> Evidence:
    """By what a Lab's conversion is known."""
    lab.calibrate()
    checkpoint = checkpoint_bytes(lab.convert(mapping))
    model = combined(graph_fingerprint(lab.graph))
    return Evidence(model, lab.data, hashlib.sha256(checkpoint).hexdigest())


def verify(lab: Replayed, mapping: QConfigMapping, expected: Evidence) -> None:
    """Converts and checks that the checkpoint has the very bytes that it had.

    Raises:
        ArgumentError: It has not; says whether model or data are others, too.
    """
    received = evidence(lab, mapping)
    if received.result == expected.result:
        return
    causes = {"model": "the model is another one", "data": "the calibration data differ"}
    told = [
        text for part, text in causes.items() if getattr(expected, part) != getattr(received, part)
    ]
    raise ArgumentError(
        "The conversion came out differently: "
        + (" and ".join(told) or "model and data are the same, so machine or versions differ"),
        expected=f"a checkpoint with SHA-256 {expected.result}",
        received=received.result,
    )


def replay_script(lab: Replayed, mapping: QConfigMapping, origin: Origin | None) -> bytes:
    """The script.

    It takes the model and its data from its command line, and where an origin is known has it as
    its default. The configuration is a literal in it.

    Raises:
        UnknownNameError: The mapping holds something unregistered.
        UnsupportedError: The model was repaired in a way that nothing but its report remembers.
    """
    recipe = _literal(json.loads(mapping.to_json()))
    repairs = _literal(lab.repair_recipes())
    found = evidence(lab, mapping)
    script = _SCRIPT.format(
        recipe=recipe,
        repairs=repairs,
        model=repr(origin and origin.model),
        data=repr(origin and origin.data),
        samples=repr(origin and origin.samples),
        architecture=repr(origin and origin.architecture),
        images=repr(origin and origin.images),
        evidence=",\n    ".join(f"{name}={value!r}" for name, value in found._asdict().items()),
    )
    return script.encode()


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=96, sort_dicts=False)


_SCRIPT = '''\
"""Repeats a conversion that qlab made: the same model, data and configuration, the same integers.

Usage: python THIS_FILE [MODEL] [--data DATA] [--samples N] [--output FILE.safetensors]

MODEL is a sample model's name, a file (.pt2, or .safetensors with --architecture NAME), or
package.module:factory, a function that returns the float model. DATA is a file, or
package.module:loader, a function that returns calibration batches.
"""

import argparse
import json
import sys

import qlab
from qlab.cli import load_subject
from qlab.io.replay import Evidence, verify

RECIPE = {recipe}
REPAIRS = {repairs}
IMAGES = {images}
EVIDENCE = Evidence(
    {evidence},
)

parser = argparse.ArgumentParser(description="Repeats a conversion that qlab made.")
model = {model}
parser.add_argument("model", nargs="?" if model else None, default=model)
parser.add_argument("--data", default={data})
parser.add_argument("--samples", type=int, default={samples})
parser.add_argument("--architecture", default={architecture})
parser.add_argument("--output")
given = parser.parse_args()

try:
    subject = load_subject(
        given.model,
        given.data,
        given.samples,
        architecture=given.architecture,
        images=IMAGES,
    )
    lab = qlab.Lab(subject.model, subject.example_inputs, subject.calibration)
    lab = lab.repeat_repairs(REPAIRS)
    mapping = qlab.QConfigMapping.from_json(json.dumps(RECIPE))
    verify(lab, mapping, EVIDENCE)
    if given.output:
        print("written to", lab.export(given.output, mapping))
except qlab.QlabError as error:
    sys.exit(str(error))
print("The same integers: SHA-256", EVIDENCE.result)
'''
