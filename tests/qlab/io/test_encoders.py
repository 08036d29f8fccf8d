"""Transformer encoders of a public library: traced, quantized, exported to ONNX, verified."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

import qlab
from qlab import PerGroup, QConfigMapping, TensorSpec, qconfig_of
from qlab.dtypes import integer
from qlab.io.onnx_file import onnx_bytes

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
