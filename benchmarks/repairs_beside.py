"""Repairs beside peers that have the same ones: the same network, images and process.

See `repairs`; `repair_peers` runs the peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import qlab
import sample_models
from benchmarks import repair_images, repair_peers, results
from benchmarks.repair_subjects import CONVOLUTIONAL, ONE_SCALE, SEEDS, lab_of, quality
from qlab.dtypes import integer
from qlab.granularity import Granularity, PerAxis, PerTensor
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import MSE, TensorSpec

STEPS = 1000
HEADS = ["network", "repair", "tool", "accuracy, 500 images", "accuracy, 10,000 images", "SQNR"]
HEADS += ["qlab - peer, 500", "qlab - peer, 10,000", "time", "qlab / peer"]

Network = Callable[[Tensor], Tensor]


@dataclass
class Side:
    """What a tool made, once for each seed, and how long each took [s]; no time of a start."""

    tool: str
    networks: list[Network] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, network: Network, seconds: float) -> None:
        self.networks.append(network)
        self.seconds.append(seconds)


def weights_alone(bits: int, scales: Granularity) -> QConfigMapping:
    spec = TensorSpec(integer(bits, signed=True), True, scales, MSE())
    return QConfigMapping().set_global(qconfig_of(None, spec))


def aimet_lines() -> list[str]:
    """Equalization and AdaRound."""
    rows = _equalized("depthwise", ONE_SCALE, "int8, one scale")
    for name in ("conv_bn_relu", "residual"):
        mapping = weights_alone(4, PerTensor())
        rows += _equalized(name, mapping, "4-bit weights, one scale")
    for name in CONVOLUTIONAL:
        rows += _rounded(name)
    return results.table(HEADS, rows)


def nncf_lines() -> list[str]:
    """Bias correction."""
    return results.table(HEADS, [row for name in CONVOLUTIONAL for row in _bias_corrected(name)])


class Whole(nn.Module):
    """A network that peers may hang modules of their own on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def _bias_corrected(name: str) -> list[list[str]]:
    """NNCF does all in one call; timed is the way from the float network to the corrected one."""
    sample, lab = lab_of(name)
    images, where = torch.cat(sample.calibration()), f"{name}, int8, one scale"
    starts, ours = [Side("qlab", [lab.convert(ONE_SCALE)])], Side("qlab")
    peers = [Side("NNCF"), Side("NNCF, no limit")]
    if repair_peers.has_nncf():
        start = repair_peers.nncf_one_scale(Whole(lab.graph), images, False)
        starts.append(Side("NNCF", [start]))
    for _ in SEEDS:  # the same result each time; the least time counts
        if repair_peers.has_nncf():
            for peer, limit in zip(peers, (None, 1e9), strict=True):
                given = Whole(lab.graph), images, True, limit
                peer.add(*_timed(repair_peers.nncf_one_scale, *given))
        ours.add(*_timed(_by_qlab, sample))
    if not repair_peers.has_nncf():
        return list(_rows(lab, (where, "bias correction"), starts, ours, peers[0]))
    means = [float(repair_images.right(peer.networks[:1]).mean()) for peer in peers]
    best = peers[means.index(max(means))]
    (other,) = (peer for peer in peers if peer is not best)
    row = [where, "bias correction", other.tool, *_found(lab, other)[0], "", "", _least(other), ""]
    rows = list(_rows(lab, (where, "bias correction"), starts, ours, best))
    return [*rows[: len(starts)], row, *rows[len(starts) :]]


def _by_qlab(sample: sample_models.SampleModel) -> Network:
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration())
    repaired = lab.repair_with("bias_correction", ONE_SCALE)
    return lab.apply(repaired).convert(repaired.mapping)


def _timed(make: Callable[..., Network], *given: Any) -> tuple[Network, float]:
    began = time.perf_counter()
    made = make(*given)
    return made, time.perf_counter() - began


def _equalized(name: str, mapping: QConfigMapping | str, bits: str) -> list[list[str]]:
    """What either makes of the float network is quantized by qlab, in the same way."""
    sample, lab = lab_of(name)
    ours, peer = Side("qlab"), Side("AIMET")
    for _ in SEEDS:
        if repair_peers.has_aimet():
            model = sample_models.load(name).model
            began = time.perf_counter()
            repair_peers.aimet_equalize(model, sample.example_inputs)
            seconds = time.perf_counter() - began
            data = sample.calibration(), sample.evaluation()
            peer.add(qlab.Lab(model, sample.example_inputs, *data).convert(mapping), seconds)
        repaired = lab.repair_with("equalize", mapping)
        ours.add(lab.apply(repaired).convert(repaired.mapping), repaired.report.seconds)
    starts = [Side("qlab", [lab.convert(mapping)])]
    return list(_rows(lab, (f"{name}, {bits}", "equalization"), starts, ours, peer))


def _rounded(name: str) -> list[list[str]]:
    """AdaRound at 4 bits per channel, activations in float, the same number of steps."""
    sample, lab = lab_of(name)
    images, mapping = torch.cat(sample.calibration()), weights_alone(4, PerAxis(0))
    ours, peer = Side("qlab"), Side("AIMET")
    for seed in SEEDS:
        if repair_peers.has_aimet():
            model = sample_models.load(name).model
            peer.add(*_timed(repair_peers.aimet_adaround, model, images, STEPS, seed))
        repaired = lab.repair_with("adaround", mapping, steps=STEPS, seed=seed)
        ours.add(lab.apply(repaired).convert(repaired.mapping), repaired.report.seconds)
    starts = [Side("qlab", [lab.convert(mapping)])]
    where = f"{name}, 4-bit weights, per channel"
    return list(_rows(lab, (where, "AdaRound"), starts, ours, peer))


def _rows(
    lab: qlab.Lab, what: tuple[str, str], starts: Sequence[Side], ours: Side, peer: Side
) -> Iterator[list[str]]:
    """A row for each start, for the peer where it is there, and for qlab."""
    where, repair = what
    for start in starts:
        yield [where, "none", start.tool, *_found(lab, start)[0], "", "", "", ""]
    if not peer.networks:
        yield [where, repair, "qlab", *_found(lab, ours)[0], "", "", _least(ours), ""]
        return
    (said, theirs, far), (told, mine, near) = _found(lab, peer), _found(lab, ours)
    yield [where, repair, peer.tool, *said, "", "", _least(peer), ""]
    apart = repair_images.share(near - far)
    few = f"{mine - theirs:+.2f} points"
    many = f"{apart.mean:+.2f} ± {apart.half:.2f} points"
    ratio = f"{min(ours.seconds) / min(peer.seconds):.2f}"
    yield [where, repair, "qlab", *told, few, many, _least(ours), ratio]


def _found(lab: qlab.Lab, side: Side) -> tuple[list[str], float, Tensor]:
    """Three cells, the accuracy on the test images, and which drawn images were right."""
    found = [quality(network, lab) for network in side.networks]
    accuracies, sqnr = zip(*found, strict=True)
    drawn = repair_images.right(side.networks)
    mean = sum(accuracies) / len(accuracies)
    cells = [f"{mean:.2f} %{_span(accuracies)}", f"{repair_images.share(drawn)} %"]
    return [*cells, f"{sum(sqnr) / len(sqnr):.1f} dB{_span(sqnr)}"], mean, drawn


def _span(numbers: Sequence[float]) -> str:
    low, high = (f"{n:.1f}" for n in (min(numbers), max(numbers)))
    return "" if low == high else f" ({low} to {high})"


def _least(side: Side) -> str:
    return f"{min(side.seconds):.2f} s"
