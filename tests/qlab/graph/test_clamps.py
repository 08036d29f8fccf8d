"""What only a clamp reads takes the clamp's range: codes beyond the bounds would be wasted."""

import torch
from torch import Tensor, nn

from qlab import presets
from qlab.graph import annotate, convert_fx, fuse, prepare_fx, trace
from qlab.qparams import QParams

MAPPING = presets.get("int8-minmax").mapping()
X = torch.linspace(-8, 8, 64).reshape(2, 4, 8)


class Clamped(nn.Module):
    """A norm before a clamp; ``again`` reads the norm's output a second time."""

    def __init__(self, first: nn.Module, *, again: bool = False) -> None:
        super().__init__()
        self.first = first
        self.clamp = nn.Hardtanh(0.0, 0.25)
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.clamp(x) + x if self.again else self.clamp(x)


def sources(model: nn.Module) -> dict[str, str]:
    plan = annotate(fuse(trace(model.eval(), (X,))), MAPPING)
    return {value.node: value.source for value in plan.values}


def output_scale(model: nn.Module) -> QParams:
    prepared = prepare_fx(model.eval(), MAPPING, (X,))
    prepared(X)
    return convert_fx(prepared).get_submodule("first").output_qparams


def test_the_norm_takes_the_clamps_range():
    model = Clamped(nn.GroupNorm(2, 4))
    assert sources(model)["first"] == "clamp"
    assert output_scale(model).scale_value == torch.tensor(0.25 / 255).item()


def test_a_second_reader_needs_the_whole_range():
    model = Clamped(nn.GroupNorm(2, 4), again=True)
    assert sources(model)["first"] == "first"
    assert output_scale(model).scale_value * 255 > 2


def test_a_range_fixed_by_mathematics_stays():
    assert sources(Clamped(nn.Sigmoid()))["first"] == "first"
    assert output_scale(Clamped(nn.Sigmoid())).scale_value == 1 / 256


def test_only_what_the_clamp_itself_reads():
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.MaxPool1d(1), nn.Hardtanh(-1.0, 1.0))
    assert sources(model)["_0"] == "_0"  # the pooling reads it first
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Hardtanh(-1.0, 1.0))
    assert sources(model)["_0"] == "_1"
