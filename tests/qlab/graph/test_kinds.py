"""Stages of the graph workflow, and the tracer, by the reference's names."""

import torch
from torch import fx, nn

from qlab.nn import intrinsic as nni
from qlab.quantization import get_default_qconfig_mapping
from qlab.quantization.fx.graph_module import (
    FusedGraphModule,
    ObservedGraphModule,
    QuantizedGraphModule,
)
from qlab.quantization.fx.tracer import QuantizationTracer
from qlab.quantization.quantize_fx import convert_fx, convert_to_reference_fx, fuse_fx, prepare_fx

STAGES = (FusedGraphModule, ObservedGraphModule, QuantizedGraphModule)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(3, 4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.linear(x))


def stage(model) -> list[type]:
    return [kind for kind in STAGES if isinstance(model, kind)]


def test_each_stage_is_told_from_the_others():
    model, x = nn.Sequential(Block()).eval(), torch.ones(2, 3)
    assert stage(fuse_fx(model)) == [FusedGraphModule]
    prepared = prepare_fx(model, get_default_qconfig_mapping(), (x,))
    prepared(x)
    assert stage(prepared) == [ObservedGraphModule]
    assert stage(convert_fx(prepared)) == [QuantizedGraphModule]
    assert stage(convert_to_reference_fx(prepared)) == [QuantizedGraphModule]
    assert stage(fx.symbolic_trace(model)) == stage(model) == []


def test_the_tracer_keeps_modules_whole():
    def called(tracer: QuantizationTracer) -> list[str]:
        model = nn.Sequential(Block(), nni.LinearReLU(nn.Linear(4, 4), nn.ReLU()))
        nodes = tracer.trace(model).nodes
        return [node.target for node in nodes if node.op == "call_module"]

    assert called(QuantizationTracer([], [])) == ["0.linear", "0.relu", "1"]
    assert called(QuantizationTracer(["0"], [])) == ["0", "1"]
    assert called(QuantizationTracer([], [Block])) == ["0", "1"]
