"""Whether repairs keep their word: the same function, the same result, no trace; see `repairs`."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch

import qlab
from benchmarks import results
from benchmarks.repair_subjects import FOUR_BITS, ONE_SCALE, lab_of
from qlab.algorithms import ALGORITHMS
from sample_models.digits import load_digits

ABOUT = (
    "Each repair with its defaults, but for AdaRound of 250 steps and fine-tuning of 40."
    " Difference: the largest of the float networks' outputs before and after, relative to the"
    " largest output, where the mathematics says that there is none. With ReLU6 kept, as in the"
    " depthwise network, it says so as far as calibration saw; the repair's notes tell the rest."
    " Twice: whether two runs with one seed give the same bits. Stopped: whether the network has"
    " the same bits after the repair was stopped half-way. Left: layers that were left as they"
    " were, and how many of these have a reason, and the parameters that they had."
)
SAMPLES = ("depthwise", "conv_bn_relu", "vit")
SAME = ("equalize", "smoothquant")
QUICK: dict[str, dict[str, Any]] = {"adaround": {"steps": 250}}


def lines() -> list[str]:
    """A row for each algorithm and sample."""
    rows = []
    for sample in SAMPLES:
        lab = lab_of(sample)[1]
        for name in ALGORITHMS:
            rows.append([name, sample, *_kept_word(lab, name)])
        rows.append(["finetune", sample, *_trained(lab)])
    heads = ["repair", "sample", "difference, calibration", "difference, test images"]
    heads += ["twice, same bits", "stopped, same bits", "left, with reason"]
    return results.table(heads, rows)


def _kept_word(lab: qlab.Lab, name: str) -> list[str]:
    mapping, settings = ONE_SCALE if name in SAME else FOUR_BITS, QUICK.get(name, {})

    def run(should_stop: Any = None) -> Any:
        return lab.repair_with(name, mapping, should_stop=should_stop, **settings)

    made = run()
    differences = ["", ""]
    if name in SAME:
        after = lab.apply(made)
        differences = [_difference(lab, after, part) for part in ("calibration", "test")]
    return [*differences, *_cells(lab, run, made)]


def _trained(lab: qlab.Lab) -> list[str]:
    data = load_digits("train")
    loader = list(zip(data.images.split(32), data.labels.split(32), strict=True))

    def run(should_stop: Any = None) -> Any:
        return lab.finetune(FOUR_BITS, loader, steps=40, should_stop=should_stop)

    return ["", "", *_cells(lab, run, run())]


def _cells(lab: qlab.Lab, run: Any, made: Any) -> list[str]:
    same = _digest(made) == _digest(run())
    before, asked = _bits(lab.graph), 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    run(count)
    left, half = asked // 2, 0

    def stop() -> bool:
        nonlocal half
        half += 1
        return half > left

    stopped = run(stop)
    untouched = _bits(lab.graph) == before == _bits(stopped.model) and not stopped.report.complete
    refused = made.report.refusals
    told = sum(bool(reason.strip()) and not _changed(lab, made, n) for n, reason in refused.items())
    return ["yes" if same else "no", "yes" if untouched else "no", f"{len(refused)}, {told}"]


def _changed(lab: qlab.Lab, made: Any, name: str) -> bool:
    """Whether a layer that is said to be as it was has other parameters."""
    (path,) = {str(n.target) for n in lab.graph.graph.nodes if n.meta.get("name") == name}
    return _bits(lab.graph.get_submodule(path)) != _bits(made.model.get_submodule(path))


def _difference(lab: qlab.Lab, after: qlab.Lab, part: Literal["calibration", "test"]) -> str:
    images = load_digits(part).images
    with torch.no_grad():
        was, now = lab.graph(images), after.graph(images)
    return f"{float((was - now).abs().max() / was.abs().max()):.1e}"


def _digest(made: Any) -> str:
    return _bits(made.model) + made.mapping.to_json()


def _bits(graph: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in graph.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
