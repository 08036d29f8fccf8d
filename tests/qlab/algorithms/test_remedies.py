"""Which remedy helps against which cause."""

import inspect

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.algorithms import ALGORITHMS, REMEDIES, Hooks, Stage
from qlab.algorithms.remedies import (
    algorithms_against,
    chosen_remedies,
    diagnosed,
    suggestions,
)
from qlab.analysis import cause_finders, data_causes
from qlab.analysis.causes import Cause
from qlab.errors import UnknownNameError

# Repairs leave these alone: they take another model or more data.
HELPLESS = {"dead channels", "too few samples"}


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    sample = sample_models.load("depthwise")
    evaluation = [(x[:96], y[:96]) for x, y in sample.evaluation()[:1]]
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), evaluation)


def cause(kind: str, tensor: str = "weight") -> Cause:
    return Cause(kind, "layer", tensor, 2.0, 1.0, "It is so.", None, "Do it")


def test_every_algorithm_is_a_remedy_against_something():
    assert {r.name for r in REMEDIES.values() if not r.configures} == set(ALGORITHMS)
    for remedy in REMEDIES.values():
        assert remedy.against or remedy.stage == Stage.LAST_RESORT


def test_remedies_are_against_causes_that_are_found():
    kinds = {kind for remedy in REMEDIES.values() for kind, _ in remedy.against}
    assert len(kinds | HELPLESS) == len(cause_finders.FINDERS)
    text = inspect.getsource(cause_finders) + inspect.getsource(data_causes)
    assert all(f'"{kind}"' in text for kind in kinds | HELPLESS)


def test_causes_name_the_algorithms_that_help(lab):
    found = {(c.kind, c.tensor): c for c in lab.causes("block1.dw.conv", "int8-per-tensor")}
    assert "equalize" in found["channel spread", "weight"].algorithms
    assert found["mean shift", "activation"].algorithms == ("bias_correction",)
    assert algorithms_against(cause("few bits")) == ("awq", "ranges", "gptq", "adaround")
    assert "smoothquant" in algorithms_against(cause("outlier channels", "activation"))
    assert algorithms_against(cause("dead channels")) == ()


def test_changes_of_the_configuration_come_first_and_last_resorts_last(lab):
    mapping = lab.plan("int8-per-tensor"), qlab.presets.get("int8-per-tensor").mapping()
    subject = lab._subject()
    causes = diagnosed(subject, mapping[1], Hooks())
    found = suggestions(subject, mapping[1], causes, REMEDIES)
    names = [s.remedy.name for s in found]
    assert names[0] == "per_channel" and found[0].seconds == 0 and found[0].layers is None
    times = [s.seconds for s in found if s.remedy.stage != Stage.LAST_RESORT]
    assert times == sorted(times) and {"equalize", "bias_correction"} < set(names)
    assert "adaround" not in names  # 8 bits are enough
    made = found[0].mapping
    assert made is not None
    changed = {cause.layer for cause in found[0].causes}
    assert set(made.module_name_qconfigs) == changed and len(changed) > 3
    assert mapping[1].module_name_qconfigs == {}
    assert "layers)" in found[0].why and "ranges differ" in found[0].why


def test_few_bits_are_repaired_where_they_are(lab):
    spec = qlab.presets.get("int4-weights").weight
    mapping = qlab.presets.get("int8").mapping()
    mapping.set_module_name("fc", qlab.qconfig.qconfig_of(None, spec))
    subject = lab._subject()
    causes = diagnosed(subject, mapping, Hooks())
    found = {s.remedy.name: s for s in suggestions(subject, mapping, causes, REMEDIES)}
    assert found["adaround"].layers == ("fc",)
    assert found["adaround"].why.startswith("fc: The weight has 16 codes")


def test_more_bits_are_a_last_resort_and_never_a_free_change():
    torch.manual_seed(0)

    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.a.weight.data *= 50

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.a(x) + self.b(x))

    x = torch.randn(64, 8)
    lab = qlab.Lab(Uneven().eval(), (x,), [x])
    mapping = qlab.presets.get("int8").mapping()
    causes = diagnosed(lab._subject(), mapping, Hooks())
    found = suggestions(lab._subject(), mapping, causes, REMEDIES)
    names = [s.remedy.name for s in found]
    assert names[-1] == "wide_activations"
    for suggestion in found[:-1]:
        assert all(c.kind != "uneven operands" for c in suggestion.causes)


def test_a_person_chooses_among_remedies():
    assert list(chosen_remedies(("equalize", "affine"), False)) == ["affine", "equalize"]
    assert list(chosen_remedies("equalize", False)) == ["equalize"]
    growing = {"keep_in_float", "more_bits", "split"}
    assert set(REMEDIES) - set(chosen_remedies(None, True)) == growing
    with pytest.raises(UnknownNameError, match=r"remedy.*equalise"):
        chosen_remedies(("equalise",), False)
