"""`qlab.migrate` on stand-ins: what it keeps, what it refuses, and that it changes nothing."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import qlab
from qlab.errors import ArgumentError, DTypeError, UnsupportedError
from qlab.nn import quantized as nnq
from tests.golden.recorded import Quantized, Recording

PATH = Path(__file__).parents[2] / "golden" / "migrate.safetensors"


def theirs(name: str, home: str, **attributes) -> nn.Module:
    """A module whose class is called as one of the reference's."""
    made = type(name, (nn.Module,), {"__module__": home})()
    vars(made).update(attributes)
    return made.eval()


def tensor(codes: torch.Tensor, **told) -> Quantized:
    usual = {"dtype": "torch.qint8", "shape": list(codes.shape), "codes": "c"}
    scheme = {"qscheme": "torch.per_tensor_affine", "scale": 0.5, "zero_point": 3}
    return Quantized({**usual, **scheme, **told}, {"c": codes}.__getitem__)


def linear(**attributes) -> nn.Module:
    weight = tensor(torch.tensor([[1, -2], [3, 4]], dtype=torch.int8))
    given = {
        "in_features": 2, "out_features": 2, "scale": 0.25, "zero_point": 7,
        "weight": lambda: weight, "bias": lambda: torch.tensor([0.5, -0.5]), **attributes,
    }  # fmt: skip
    return theirs("Linear", "torch.ao.nn.quantized.modules.linear", **given)


def test_a_layer_keeps_its_integers():
    made = qlab.migrate(linear())
    assert type(made) is nnq.Linear and not made.training
    assert made.weight().int_repr().tolist() == [[1, -2], [3, 4]]
    assert (made.weight().q_scale(), made.weight().q_zero_point()) == (0.5, 3)
    assert made.bias().tolist() == [0.5, -0.5]
    assert (made.output_qparams.scale_value, made.output_qparams.zero_point_value) == (0.25, 7)


def test_a_quantized_tensor_becomes_a_qtensor():
    made = qlab.migrate(tensor(torch.tensor([5, 3], dtype=torch.int8)))
    assert isinstance(made, qlab.QTensor)
    assert made.dequantize().tolist() == [1.0, 0.0]


def test_four_bits_are_unpacked_low_half_first():
    packed = torch.tensor([0xB7, 0x7C, 0x0F], dtype=torch.uint8)
    made = qlab.migrate(tensor(packed, dtype="torch.quint4x2", shape=[1, 5]))
    assert made.int_repr().tolist() == [[7, 11, 12, 7, 15]]


def test_ones_own_modules_are_copied_shared_parts_stay_shared_and_nothing_is_changed():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = linear()
            self.free = nn.Linear(2, 2)
            self.tied = self.free.weight
            self.register_buffer("count", torch.tensor(3))
            self.note, self.qconfig = ["kept"], theirs("QConfig", "torch.ao.quantization.qconfig")

        def forward(self, x):
            return x

    own, calls = Own(), []
    own.register_forward_hook(lambda *_: calls.append(1))
    own._modules.pop("qconfig")
    before = copy.deepcopy(dict(own.state_dict()))
    made = qlab.migrate(own)
    assert type(made) is Own and made.first is made.second and type(made.first) is nnq.Linear
    assert made.tied is made.free.weight and made.free.weight is not own.free.weight
    assert type(own.first).__module__.startswith("torch.ao")
    made.count += 1
    made.free.weight.data.zero_()
    made(torch.zeros(1))
    assert len(calls) == 1
    assert all(torch.equal(own.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (theirs("MinMaxObserver", "torch.ao.quantization.observer"), "prepared; convert it first"),
        (
            theirs("Linear", "torch.ao.nn.qat.modules.linear", weight_fake_quant=nn.Identity()),
            "prepared for training, not converted",
        ),
        (
            theirs("Conv2d", "torch.ao.nn.quantized.reference.modules.conv"),
            "converted in reference form; call convert_fx",
        ),
        (theirs("Strange", "torch.ao.nn.quantized.modules.strange"), "no module of qlab"),
        (linear(scale=None), "no scale and zero point"),
        (linear(in_features="two"), "positive whole numbers"),
        (linear(weight=lambda: 3), "not quantized"),
        (linear(bias=lambda: "none"), "bias cannot be used.*'none'"),
        (linear(weight=lambda: tensor(torch.zeros(3, 3, dtype=torch.int8))), "wrong shape"),
        (
            linear(weight=lambda: tensor(torch.zeros(2, 2, dtype=torch.int8), qscheme="torch.odd")),
            "scheme that is not known",
        ),
    ],
)
def test_what_cannot_be_migrated_is_named(part: nn.Module, message: str):
    model = nn.Sequential(nn.ReLU(), nn.Sequential(part))
    with pytest.raises(UnsupportedError, match=rf"migrate: '1\.0' \(torch\.ao.*{message}"):
        qlab.migrate(model)


def test_an_operator_without_a_form_is_named():
    model, _, _ = Recording(PATH).case("graph")
    node = next(n for n in model.graph.nodes if str(n.target) == "quantized.add_relu")
    node.target._text = "quantized.conjure"
    with pytest.raises(UnsupportedError, match=r"no form of quantized\.conjure"):
        qlab.migrate(model)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, DTypeError, "not a model that can be read.*NoneType"),
        ({"weight": torch.zeros(1)}, DTypeError, "Received dict"),
        (torch.zeros(2), DTypeError, "Received Tensor"),
        (nn.Linear(2, 2), ArgumentError, "nothing in this model is quantized"),
    ],
)
def test_what_is_no_quantized_model_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        qlab.migrate(given)


def test_a_script_is_refused():
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(nn.ReLU())
    with pytest.raises(DTypeError, match="a script does not say"):
        qlab.migrate(scripted)


def graph(prefix: str) -> tuple[torch.fx.GraphModule, torch.fx.Node]:
    """The operators' graph inside a model, and its first node of a name."""
    model, _, _ = Recording(PATH).case("operators")
    assert isinstance(model, torch.fx.GraphModule)
    return model, next(n for n in model.graph.nodes if n.name.startswith(prefix))


def change(node: torch.fx.Node, **arguments) -> None:
    node.kwargs = {**node.kwargs, **arguments}


@pytest.mark.parametrize(
    ("name", "break_it", "message"),
    [
        ("leaky_relu", lambda n: change(n, slope=1.0), "arguments are not the operator's: .*slope"),
        ("elu", lambda n: change(n, output_scale="wide"), "an argument is not what it should be"),
        ("elu", lambda n: change(n, scale=2.0), "stretched by factors"),
        ("mul_relu", lambda n: setattr(n, "args", n.args[:1]), "missing a required argument: 'qb'"),
        ("mul_relu_1", lambda n: setattr(n, "args", n.args[:2]), "is not known before"),
        ("conv1d", lambda n: setattr(n, "args", (n.args[0], 3, 1.0, 0)), "no attribute 'unpack'"),
    ],
)
def test_a_node_that_cannot_be_migrated_is_named_with_the_place_of_its_graph(
    name: str, break_it, message: str
):
    inner, node = graph(name)
    break_it(node)
    where = rf"migrate: '{name}\w*' in '1\.0' \(quantized\.\w+\): .*{message}"
    with pytest.raises(UnsupportedError, match=where):
        qlab.migrate(nn.Sequential(nn.ReLU(), nn.Sequential(inner)))


def test_numbers_of_a_migrated_graph_are_shown():
    model, _ = graph("mul")
    made = qlab.migrate(model)
    shown = [repr(part).partition("\n")[0] for part in made.children()]
    assert {"AddNumber(", "MulNumber("} <= set(shown)
    assert "-0.5" in repr(made) and "dropout" in made.code


def test_a_wrapper_keeps_its_stubs_integers():
    model, x, _ = Recording(PATH).case("wrapped")
    made = qlab.migrate(model)
    for wrapper in made:
        assert isinstance(wrapper.quant, nnq.Quantize)
        assert isinstance(wrapper.dequant, nnq.DeQuantize)
    assert made[0].quant(x).q_scale() == pytest.approx(model[0].quant.scale)
