"""`qlab explore` on models as people write them: every page opens, and says what stays in float."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pages.common import models
from qlab import Lab
from tests.pages.harness import metrics, open_page, settle

CODE = """
import torch
from torch import nn
from tests.workflows.architectures import NETS

def seeded(make):
    torch.manual_seed(0)
    return make()

def functional(): return seeded(NETS["functional"][0])
def encoder(): return seeded(NETS["encoder"][0])
def named(): return seeded(NETS["named"][0])
def twice(): return seeded(NETS["twice"][0])
def unsupported(): return seeded(NETS["unsupported"][0])

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.fc(x) if float(x.sum()) > 0 else self.other(self.fc(x))

def branching(): return seeded(Branching)

def bert():
    from transformers import BertConfig, BertForSequenceClassification
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = BertConfig(vocab_size=50, intermediate_size=32, num_labels=3, **small)
    return seeded(lambda: BertForSequenceClassification(config))

def data_of(name, **split):
    torch.manual_seed(1)
    make = NETS[name][1]
    return [make() for _ in range(3)]

def functional_data(): return data_of("functional")
def encoder_data(): return data_of("encoder")
def named_data(): return data_of("named")
def twice_data(): return data_of("twice")
def unsupported_data(): return data_of("unsupported")
def branching_data(): return [torch.rand(4, 6), -torch.rand(4, 6)]

def bert_data():
    torch.manual_seed(1)
    lengths = (7, 9)  # texts of any length, padded
    return [
        {
            "input_ids": torch.randint(0, 50, (4, n)),
            "attention_mask": (torch.arange(n) < n - 2).long().expand(4, n),
            "labels": torch.randint(0, 3, (4,)),
        }
        for n in lengths
    ]
"""
NAMES = ("functional", "encoder", "named", "twice", "unsupported", "branching", "bert")
PAGES = ("overview", "model", "configure", "layer", "calibrate", "convert")


@pytest.fixture
def explored(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A server that `qlab explore` started on a model of a person's own."""
    (tmp_path / "people_write.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("QLAB_EXPLORE_MODEL", f"people_write:{request.param}")
    monkeypatch.setenv("QLAB_EXPLORE_DATA", f"people_write:{request.param}_data")
    models._load_own.cache_clear()
    yield f"people_write:{request.param}"
    models._load_own.cache_clear()
    sys.modules.pop("people_write", None)


@pytest.mark.parametrize("explored", NAMES, indirect=True)
def test_every_page_opens_on_it(explored: str):
    for name in PAGES:
        page = open_page(name, model=explored, samples=8)
        assert page.selectbox(key="model").value == explored
        assert not page.error, (name, [error.value for error in page.error])
        if name == "overview":
            assert "dB" in metrics(page)["Output SQNR ↑"]
    mine = models.load(explored)
    lab = Lab(mine.model, mine.example_inputs, mine.calibration(8))
    for step in lab.plan().steps:
        assert step.quantized or step.reason, step.name


@pytest.mark.parametrize("explored", [n for n in NAMES if n != "branching"], indirect=True)
def test_its_integer_model_is_converted_and_read_back(explored: str):
    page = open_page("convert", model=explored, samples=8)
    settle(page.button(key="convert").click().run())
    assert not page.error, [error.value for error in page.error]
    assert "identical outputs" in page.success[0].value


@pytest.mark.parametrize("explored", ["branching"], indirect=True)
def test_a_model_without_a_graph_says_why_it_has_no_file(explored: str):
    page = open_page("convert", model=explored, samples=8)
    settle(page.button(key="convert").click().run())
    (error,) = page.error
    assert "graph" in error.value


@pytest.mark.parametrize("explored", ["branching"], indirect=True)
def test_a_model_without_a_graph_says_where_tracing_stopped(explored: str):
    page = open_page("model", model=explored, samples=8)
    assert "Where tracing needed help" in [heading.value for heading in page.subheader]
    (told,) = [w.value for w in page.warning if "did not become a graph" in w.value]
    assert re.search(r"line \d+ of \S+\.py", told.replace("\\", "")), told
    assert "quantized one by one" in told
