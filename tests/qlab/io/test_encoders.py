"""Transformer encoders of a public library: traced, quantized, exported to ONNX, verified."""

import runpy
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

import qlab
from qlab import PerGroup, QConfigMapping, TensorSpec, qconfig_of
from qlab.cli import load_subject
from qlab.dtypes import integer
from qlab.io.onnx_file import onnx_bytes
from qlab.io.replay import Origin
from tests.alone import results_alone

_SHARED = {"vocab_size": 99, "max_position_embeddings": 64}


def _bert() -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    return BertModel(BertConfig(**sizes, num_attention_heads=4, **_SHARED))


def _distilbert() -> nn.Module:
    return DistilBertModel(
        DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **_SHARED)
    )


def _inputs() -> dict[str, torch.Tensor]:
    mask = torch.ones(8, 16, dtype=torch.long)
    mask[:, 12:] = torch.randint(0, 2, (8, 1))
    return {"input_ids": torch.randint(0, 99, (8, 16)), "attention_mask": mask}


def _four_bit_weights() -> QConfigMapping:
    weight = TensorSpec(integer(4, signed=True), symmetric=True, granularity=PerGroup(16))
    return QConfigMapping().set_object_type(nn.Linear, qconfig_of(None, weight))


@pytest.mark.parametrize("build", [_bert, _distilbert])
@pytest.mark.parametrize("mapping", ["int8", _four_bit_weights()], ids=["w8a8", "w4"])
def test_an_encoder_goes_in_and_out(build, mapping):
    model = build().eval()
    lab = qlab.Lab(model, _inputs(), [_inputs() for _ in range(2)])
    assert lab.traced
    converted = lab.convert(mapping)
    batch = _inputs()
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
        found = converted(*batch.values())
        assert torch.allclose(lab.graph(*batch.values())["last_hidden_state"], expected, atol=1e-5)
    if mapping == "int8":  # what 8 bits cost: everything but look-ups and attention is integer
        steps = lab.plan(mapping).to_frame()
        left = set(steps.type[steps.execution == "float"])
        assert left <= {"Embedding", "scaled_dot_product_attention"}
        assert 20.0 < lab.compare(mapping).output["sqnr"] < 45.0
    assert not torch.equal(found["last_hidden_state"], expected)
    check = lab.check_onnx(onnx_bytes(converted, lab.example_values), mapping)
    assert check.most_local_steps <= 1
    assert (len(check.table) > 0) == (mapping == "int8")
    assert check.output["sqnr"] > 40.0  # beside the integer model, not the float one


@pytest.fixture
def own_code(tmp_path, monkeypatch) -> Iterator[None]:
    """A module ``encoders`` as a person has it: the same models and data whenever it is asked."""
    (tmp_path / "encoders.py").write_text(_OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("encoders", None)


_OWN_CODE = """
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

def bert():
    torch.manual_seed(0)
    return BertModel(BertConfig(
        vocab_size=99, max_position_embeddings=64, hidden_size=32, num_hidden_layers=1,
        intermediate_size=64, num_attention_heads=4,
    )).eval()

def distilbert():
    torch.manual_seed(1)
    return DistilBertModel(DistilBertConfig(
        vocab_size=99, max_position_embeddings=64, dim=32, n_layers=1, n_heads=4, hidden_dim=64,
    )).eval()

def data():
    chance = torch.Generator().manual_seed(2)
    mask = torch.ones(8, 16, dtype=torch.long)
    mask[:, 12:] = torch.randint(0, 2, (8, 1), generator=chance)
    return [{"input_ids": torch.randint(0, 99, (8, 16), generator=chance), "attention_mask": mask}]
"""


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize("name", ["bert", "distilbert"])
@pytest.mark.parametrize("mapping", ["int8", _four_bit_weights()], ids=["w8a8", "w4"])
def test_an_encoder_comes_back_the_same_from_every_form(
    name, mapping, tmp_path, monkeypatch, capsys
):
    subject = load_subject(f"encoders:{name}", "encoders:data")
    lab = qlab.Lab(subject.model, subject.example_inputs, subject.calibration)
    (batch,) = subject.calibration
    converted = lab.convert(mapping)
    checkpoint = lab.export(tmp_path / "model.safetensors", mapping)
    assert lab.identical(converted, qlab.load_quantized(checkpoint), batch)
    recipe = QConfigMapping.from_json(lab.export(tmp_path / "r.json", mapping).read_text())
    assert lab.identical(converted, lab.convert(recipe), batch)

    origin = Origin(f"encoders:{name}", "encoders:data")
    script = lab.export(tmp_path / "replay.py", mapping, origin=origin)
    again = tmp_path / "again.safetensors"
    monkeypatch.setattr(sys, "argv", ["replay.py", "--output", str(again)])
    runpy.run_path(str(script), run_name="__main__")
    assert again.read_bytes() == checkpoint.read_bytes()
    assert "The same integers" in capsys.readouterr().out

    found = results_alone(lab.export(tmp_path / "m.pt2", mapping).read_bytes(), batch, tmp_path)
    with torch.no_grad():
        expected = converted(*batch.values())
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert (value - expected[key]).square().sum() < 1e-4 * expected[key].square().sum()


class Attention(nn.Module):
    def __init__(self, mask: bool, causal: bool) -> None:
        super().__init__()
        self.project, self.causal = nn.Linear(8, 24), causal
        self.register_buffer("mask", torch.ones(8, 6, 6).tril() > 0 if mask else None)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, is_causal=self.causal
        )


@pytest.mark.parametrize(("mask", "causal"), [(False, False), (True, False), (False, True)])
def test_attention_without_an_axis_of_heads_is_exported(mask, causal):
    x = torch.randn(8, 6, 8)
    lab = qlab.Lab(Attention(mask, causal), x, [x])
    check = lab.check_onnx(onnx_bytes(lab.convert("int8"), lab.example_values), "int8")
    assert check.most_local_steps <= 1 and check.output["sqnr"] > 40.0
