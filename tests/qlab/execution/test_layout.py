"""Convolutions in channels-last order: the same values within rounding, at the same names."""

import pytest
import torch
from torch import nn

import qlab
from qlab.execution import GraphRunner, Program, channels_last
from qlab.nn.intrinsic.fused import FusedModule
from sample_models.untrained import MobileNetV2, build_untrained


class AsksForStrides(nn.Module):
    """`view` refuses channels-last tensors; a convolution reads the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.second(x).mean((2, 3)) + x.view(x.size(0), 4, -1).sum(2)


def _graph(model: nn.Module, x: torch.Tensor):
    return qlab.Lab(model.eval(), x, [x]).graph


def _values(program: Program, x: torch.Tensor):
    names = [i.name for i in program.instructions if ", channels last" not in i.name]
    return GraphRunner(program, names).collect((x,))


@pytest.mark.parametrize("build", [AsksForStrides, lambda: build_untrained(MobileNetV2)])
def test_every_value_is_that_of_the_program_within_rounding(build):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    program = Program.of(_graph(build(), x))
    ordered = channels_last(program)
    (expected, usual), (output, values) = _values(program, x), _values(ordered, x)
    assert values.keys() == usual.keys()
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, usual[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    four = [v for v in values.values() if isinstance(v, torch.Tensor) and v.ndim == 4]
    last = [v for v in four if not v.is_contiguous()]
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no kernels for channels last")
    assert last or build is AsksForStrides


def test_what_asks_for_strides_gets_the_usual_order():
    x = torch.randn(2, 3, 8, 8)
    program = channels_last(Program.of(_graph(AsksForStrides(), x)))
    before = program.by_name["view"].reads[0]
    _, values = _values(program, x)
    assert values[before].is_contiguous()
    assert f"{before}, channels last" in program.by_name


def test_the_model_keeps_its_weights():
    x = torch.randn(1, 3, 8, 8)
    graph = _graph(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x)
    before = [(p.stride(), p.data_ptr()) for p in graph.parameters()]
    channels_last(Program.of(graph)).run((x,))
    assert [(p.stride(), p.data_ptr()) for p in graph.parameters()] == before


def test_without_convolutions_it_is_the_program_itself():
    x = torch.randn(1, 3)
    program = Program.of(_graph(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), x))
    assert channels_last(program) is program


class Residual(nn.Module):
    """A value that is read again after the activation behind the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU6()

    def forward(self, x):
        a = self.act(self.first(x))
        b = torch.relu(self.second(a) + a)
        return torch.relu(b - a) + b


def test_activations_overwrite_only_what_nobody_else_reads():
    x = torch.randn(2, 3, 8, 8)
    graph = _graph(Residual(), x)
    program = channels_last(Program.of(graph))
    (expected, usual), (output, values) = _values(Program.of(graph), x), _values(program, x)
    assert not any(getattr(module, "inplace", False) for module in graph.modules())
    torch.testing.assert_close(output, expected)
    for name, value in usual.items():
        torch.testing.assert_close(values[name], value)
    fused = [i.target for i in program.instructions if isinstance(i.target, FusedModule)]
    assert {type(f).__name__ for f in fused} == {"Conv2dReLU6", "AddReLU"}
    assert all(f[1].inplace for f in fused)
