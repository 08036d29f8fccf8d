"""Chains that become one only on request: where they do, and where they must not."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlab import ops
from qlab.errors import UnsupportedError
from qlab.graph import convert_fx, convert_to_reference_fx, fuse, prepare_fx, prepare_qat_fx, trace
from qlab.nn import functions
from qlab.nn import intrinsic as nni
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.quantized import reference as nnqr
from qlab.qconfig import QConfigMapping, get_default_qat_qconfig_mapping
from qlab.quantization import default_dynamic_qconfig, get_default_qconfig
from qlab.quantization.backend_config import get_onednn_backend_config, get_x86_backend_config
from qlab.registry import ON_REQUEST, PATTERNS
from tests.qlab.graph.test_fuse import Chain, rank, settled
from tests.qlab.graph.test_lift import types

ALL = (*PATTERNS, *ON_REQUEST)
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ONEDNN = get_onednn_backend_config()


class Block(nn.Module):
    """A residual block; ``end`` says how the two branches come together."""

    def __init__(self, end: Callable[..., Tensor], *, norm: bool = True, shortcut: bool = False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else None
        self.shortcut = nn.Conv2d(4, 4, 1) if shortcut else None
        self.act, self.end = nn.ReLU(), end

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        y = self.second(x)
        y = y if self.norm is None else self.norm(y)
        return self.end(self, y, x if self.shortcut is None else self.shortcut(x), x)


ENDS: dict[str, Callable[..., Tensor]] = {
    "relu": lambda net, y, short, x: F.relu(y + short),
    "relu module": lambda net, y, short, x: net.act(torch.add(short, y)),
    "in place": lambda net, y, short, x: y.add_(short).relu_(),
    "plain": lambda net, y, short, x: y + short,
}


@pytest.mark.parametrize("shortcut", [False, True], ids=["identity", "convolution"])
@pytest.mark.parametrize("norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("end", ENDS)
def test_a_convolution_takes_the_sum_behind_it(end: str, norm: bool, shortcut: bool):
    torch.manual_seed(0)
    model = settled(Block(ENDS[end], norm=norm, shortcut=shortcut))
    fused = fuse(trace(model, X), ALL)
    kind = nni.ConvAdd2d if end == "plain" else nni.ConvAddReLU2d
    found = types(fused)
    assert {name: found[name] for name in ("first", "second")} == {
        "first": nni.ConvReLU2d, "second": kind,
    }  # fmt: skip
    assert found.get("shortcut") is (nn.Conv2d if shortcut else None)
    assert set(found) <= {"first", "second", "shortcut"}
    torch.testing.assert_close(fused(X), model(X), rtol=1e-4, atol=1e-5)
    node = next(n for n in fused.graph.nodes if n.target == "second")
    assert "batch_norm" not in node.meta, "its output is no longer what batch norm gave"


APART: dict[str, Callable[..., Tensor]] = {
    "the residual is read later": lambda net, y, short, x: (y + short).relu() * x,
    "the residual is an output": lambda net, y, short, x: [y + short, x],
    "the convolution is read twice": lambda net, y, short, x: (y + short) * y,
    "the sum has another shape": lambda net, y, short, x: y + short[:, :, :1],
    "twice itself": lambda net, y, short, x: y + y,
    "a number": lambda net, y, short, x: y + 2.0,
    "weighted": lambda net, y, short, x: torch.add(y, short, alpha=2),
    "a product": lambda net, y, short, x: y * short,
}


@pytest.mark.parametrize("why", APART)
def test_where_it_does_not(why: str):
    model = settled(Block(APART[why]))
    fused = fuse(trace(model, X), ALL)
    assert not {nni.ConvAdd2d, nni.ConvAddReLU2d} & set(types(fused).values())
    torch.testing.assert_close(fused(X), model(X), rtol=1e-4, atol=1e-5)


def test_a_parameter_that_is_added_is_needed_again():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shift = nn.Conv2d(3, 4, 1), nn.Parameter(torch.randn(2, 4, 6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.shift

    assert nni.ConvAdd2d not in types(fuse(trace(Shifted().eval(), X), ALL)).values()


@pytest.mark.parametrize(
    "pattern", [p for p in ON_REQUEST if len(p.modules) == 2 or p.modules[0] is nn.Linear],
    ids=lambda p: p.title,
)  # fmt: skip
def test_nothing_of_it_happens_unasked(pattern):
    model = settled(Chain(pattern))
    x = torch.randn(3, 4, *(5,) * rank(pattern))
    traced = trace(model, x)
    assert pattern.fused not in types(fuse(traced)).values()
    if pattern.modules[0] is nn.Linear:
        fused = fuse(traced, ALL)
        assert list(types(fused).values()) == [pattern.fused]
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


class Both(nn.Module):
    """A residual block, pooled, then a linear layer with GELU."""

    def __init__(self, how: str = "none") -> None:
        super().__init__()
        self.block = Block(ENDS["relu"])
        self.fc, self.gelu, self.head = nn.Linear(4, 8), nn.GELU(how), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gelu(self.fc(self.block(x).mean((2, 3)))))


@pytest.fixture(params=["none", "tanh"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return settled(Both(request.param))


def prepared(model: nn.Module, mapping="int8", backend=ONEDNN):
    made = prepare_fx(model, mapping, X, backend_config=backend)
    made(X)
    return made


def kinds(model: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules()}


FUSED = {nniq.ConvAddReLU2d, nniq.LinearGELU}


def test_a_backend_that_describes_them_has_them(model: nn.Module):
    calibrated = prepared(model)
    made = convert_fx(calibrated)
    assert kinds(made) >= FUSED
    ops.reset_counts()
    y = made(X)
    assert {("conv2d_add"), ("linear_gelu")} <= {operator for operator, _ in ops.counts()}
    assert not {"add", "gelu"} & {operator for operator, _ in ops.counts()}
    assert (y - model(X)).norm() / model(X).norm() < 0.05
    for backend in (None, get_x86_backend_config()):
        assert not kinds(convert_fx(prepared(model, backend=backend))) & FUSED


def test_no_range_is_observed_between_the_parts(model: nn.Module):
    plan = prepared(model).meta["plan"]
    assert {step.name: step.fused for step in plan.steps if step.row in (
        "conv_add_relu2d", "linear_gelu")} == {
        "block.second": ("block.norm", "block.add", "block.relu"), "fc": ("gelu",),
    }  # fmt: skip
    assert {value.name for value in plan.values if value.observed} == {
        "x", "block.first", "block.second", "fc", "head",
    }  # fmt: skip


def test_the_reference_form_says_the_same(model: nn.Module):
    calibrated = prepared(model)
    step = float(convert_fx(calibrated).get_submodule("head").scale)
    difference = convert_fx(calibrated)(X) - convert_to_reference_fx(calibrated)(X)
    assert difference.abs().max() <= 2.01 * step


def of_types(*kinds: object) -> QConfigMapping:
    mapping = QConfigMapping()
    for kind in kinds:
        mapping.set_object_type(kind, get_default_qconfig())
    return mapping


GLOBAL = QConfigMapping().set_global(get_default_qconfig())


@pytest.mark.parametrize(
    "mapping",
    [
        of_types(nn.Conv2d, nn.Linear),
        QConfigMapping.from_dict({
            "": get_default_qconfig(),
            "module_name": [("block.add", None), ("gelu", None)],
        }),
        QConfigMapping.from_dict({
            "": get_default_qconfig(),
            "object_type": [(operator.add, None), (nn.GELU, None)],
        }),
        QConfigMapping.from_dict({
            "": get_default_qconfig(),
            "module_name": [("block.add", get_default_qconfig("qnnpack")),
                            ("gelu", get_default_qconfig("qnnpack"))],
        }),
        QConfigMapping().set_global(default_dynamic_qconfig),
        QConfigMapping().set_global(None),
    ],
    ids=["layers only", "by name", "by type", "other qconfigs", "dynamic", "float"],
)  # fmt: skip
def test_parts_of_which_different_things_are_asked_stay_apart(
    model: nn.Module, mapping: QConfigMapping
):
    calibrated = prepared(model, mapping)
    assert {"block.add", "gelu"} <= {step.name for step in calibrated.meta["plan"].steps}
    assert not kinds(convert_fx(calibrated)) & FUSED


def test_the_same_asked_of_all_parts_fuses_them(model: nn.Module):
    mapping = of_types(nn.Conv2d, nn.Linear, nn.ReLU, F.relu, operator.add, nn.GELU, torch.mean)
    every = get_default_qconfig()
    for kind in list(mapping.object_type_qconfigs):
        mapping.set_object_type(kind, every)
    assert kinds(convert_fx(prepared(model, mapping))) >= FUSED


def test_a_backend_given_to_convert_must_describe_them_too(model: nn.Module):
    with pytest.raises(UnsupportedError, match=r"'block.second'.*x86 does not fuse its parts"):
        convert_fx(prepared(model), backend_config=get_x86_backend_config())


def test_in_training_the_parts_stay_apart(model: nn.Module):
    made = prepare_qat_fx(
        model.train(), get_default_qat_qconfig_mapping(), X, backend_config=ONEDNN
    )
    made(X)
    converted = convert_fx(made.eval())
    assert not kinds(converted) & FUSED and nniq.AddReLU in kinds(converted)


def test_the_reference_form_keeps_what_stands_behind_the_layer(model: nn.Module):
    made = convert_to_reference_fx(prepared(model))
    assert made.get_submodule("fc")[1].approximate == model.gelu.approximate
    assert [type(part) for part in made.get_submodule("block.second")] == [
        nnqr.Conv2d, functions.Add, nn.ReLU,
    ]  # fmt: skip

    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaky = nni.LinearLeakyReLU(nn.Linear(3, 3), nn.LeakyReLU(0.37))

        def forward(self, x: Tensor) -> Tensor:
            return self.leaky(x)

    x = torch.randn(4, 3)
    calibrated = prepare_fx(Leaky().eval(), "int8", x)
    calibrated(x)
    assert convert_to_reference_fx(calibrated).leaky[1].negative_slope == 0.37
