"""Networks that give several tensors: every question counts all of them."""

import math

import pytest
import torch
from torch import nn

import qlab
from qlab.analysis.networks import batch_errors
from qlab.errors import NonFiniteError


class TwoHeads(nn.Module):
    """A trunk and two heads; ``kind`` says how the outputs are packed."""

    def __init__(self, kind: str = "dict") -> None:
        super().__init__()
        self.trunk, self.score, self.box = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 6)
        self.kind = kind

    def forward(self, x):
        hidden = self.trunk(x).relu()
        score, box = self.score(hidden), self.box(hidden)
        if self.kind == "alone":
            return torch.cat([score, box], 1)
        if self.kind == "masked":
            mask = torch.zeros_like(score).masked_fill(score > 0, -math.inf)
            return {"score": score, "mask": mask, "box": box}
        return {"box": box, "logits": score}


def lab_of(kind: str) -> qlab.Lab:
    torch.manual_seed(0)
    model = TwoHeads(kind).eval()
    batches = [torch.randn(16, 8) for _ in range(3)]
    labelled = [(x, torch.arange(16) % 4) for x in batches]
    return qlab.Lab(model, batches[0], batches, labelled)


def test_both_heads_count_as_if_they_were_one_tensor():
    packed, alone = lab_of("dict"), lab_of("alone")
    a, b = packed.sensitivity(), alone.sensitivity()
    ways = [f"{name}_{way}" for name in ("noise", "sqnr") for way in ("on", "off", "estimate")]
    for head in ("score", "box"):
        measured = a.table.loc[(head, "int8"), ways[:2]]
        assert (measured > 0).all()
        assert a.table.loc[(head, "int8"), "noise_on"] == pytest.approx(
            b.table.loc[(head, "int8"), "noise_on"],
            rel=0.1,  # cat makes both share one scale
        )
    report = packed.compare()
    assert report.output["sqnr"] == pytest.approx(a.whole.loc["int8", "sqnr"])


def test_the_errors_of_the_whole_are_the_sum_of_those_of_its_parts():
    lab = lab_of("dict")
    report = lab.compare()
    floats, codes = lab.graph, lab.convert()
    with torch.no_grad():
        pairs = [(floats(x.inputs[0]), codes(x.inputs[0])) for x in lab._evaluation_data]
    noise, signal = (
        sum(float(part(y[name], z[name]).double().square().sum()) for y, z in pairs for name in y)
        for part in (torch.sub, lambda y, _: y)
    )
    assert report.output["nmse"] == pytest.approx(noise / signal, rel=1e-6)
    assert list(report.outputs.index) == ["box", "logits"]
    fidelity = lab.fidelity()
    assert fidelity.output["sqnr_float_integer"] == pytest.approx(report.output["sqnr"])


def test_the_estimate_sees_both_heads():
    table = lab_of("dict").sensitivity(ways=("on", "estimate")).table
    ratio = table["noise_estimate"] / table["noise_on"]
    assert ratio.between(0.5, 2).all()


def test_the_answers_are_those_of_the_logits():
    lab = lab_of("dict")
    right = [
        (lab.graph(batch.inputs[0])["logits"].argmax(1) == batch.labels).float().mean().item()
        for batch in lab._evaluation_data
    ]
    assert lab.compare().output["float_accuracy"] == pytest.approx(100 * sum(right) / len(right))


def test_an_output_that_is_infinite_in_float_counts_for_nothing():
    lab = lab_of("masked")
    report = lab.compare()
    assert report.outputs["sqnr"].isna().tolist() == [False, True, False]
    assert math.isfinite(report.output["sqnr"])
    table = lab.sensitivity(ways=("on", "estimate")).table
    assert (table["noise_on"] > 0).all() and (table["noise_estimate"] > 0).all()
    assert math.isfinite(lab.fidelity().output["sqnr_float_fake"])


def test_infinity_that_quantization_brought_is_an_error_in_every_output():
    x = {"a": torch.ones(2), "b": torch.ones(2)}
    broken = {"a": torch.ones(2), "b": torch.tensor([1.0, math.inf])}
    with pytest.raises(NonFiniteError, match="cannot be measured on NaN or infinity"):
        batch_errors(x, broken)
    masked = batch_errors(broken, broken)["b"]
    assert masked is not None and (masked.count, masked.noise) == (1, 0.0)


def test_a_model_without_a_graph_counts_the_same():
    class Loops(TwoHeads):
        def forward(self, x):
            while x.abs().max() > 100:
                x = x / 2
            return super().forward(x)

    torch.manual_seed(0)
    model, batches = Loops().eval(), [torch.randn(16, 8) for _ in range(2)]
    lab = qlab.Lab(model, batches[0], batches)
    assert not lab.traced
    table = lab.sensitivity(ways=("on",)).table
    assert (table["noise_on"] > 0).all()
