"""Encoders as a public library builds them go in as .pt2 and out as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
)

import qlab
from qlab.io.uploads import Limits, made_up
from qlab.io.uploads.models import assemble, unpack
from tests.upload_files import export

WORDS = 50


def bert() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=WORDS, intermediate_size=32, num_labels=3, **sizes)
    return BertForSequenceClassification(config)


def distilbert() -> nn.Module:
    return DistilBertModel(
        DistilBertConfig(vocab_size=WORDS, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    )


@pytest.mark.parametrize(("make", "output"), [(bert, "logits"), (distilbert, "last_hidden_state")])
def test_keywords_a_mask_any_length_and_a_dict_of_results(make, output: str, tmp_path: Path):
    torch.manual_seed(0)
    model = make().eval()
    example = {
        "input_ids": torch.randint(0, WORDS, (4, 8)),
        "attention_mask": torch.ones(4, 8).long(),
    }
    free = {name: {0: Dim.AUTO, 1: Dim.AUTO} for name in example}
    content = export(model, (), kwargs=example, dynamic_shapes=free)
    read = assemble(*unpack(content, Limits()), Limits())
    assert [str(each) for each in read.inputs] == [
        "input_ids int64 (N, *)",
        "attention_mask int64 (N, *)",
    ]
    mask = (torch.arange(11) < torch.tensor([[11], [7]])).long()
    batch = {"input_ids": torch.randint(0, WORDS, (2, 11)), "attention_mask": mask}
    with torch.no_grad():
        expected, received = model(**batch)[output], read.model(*batch.values())[output]
    torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-5)

    assert bool((made_up(read, 2).inputs["attention_mask"] == 1).all())
    lab = qlab.Lab(read.model, read.example_inputs, [batch])
    report = lab.compare("int8")
    assert report.output["sqnr"] > 20 and report.coverage.integer > report.coverage.float_
    for preset in ("int8", "int4-weights"):
        path = lab.export(tmp_path / "model.safetensors", preset)
        assert lab.identical(lab.convert(preset), qlab.load_quantized(path), batch)
