"""ONNX files: what stands in them, and that what cannot is named."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qlab
from qlab import PerGroup, QConfigMapping, TensorSpec, qconfig_of
from qlab.dtypes import integer, quint8
from qlab.errors import ArgumentError, UnsupportedError
from qlab.io.onnx_file import INTEGER_BIASES, onnx_bytes, save_onnx
from qlab.io.portable import LARGEST_BIAS_UNIT
from qlab.ranges import Fixed

_TO_TEN = TensorSpec(quint8, policy=Fixed(10 / 255, 0))


def _lab(model: nn.Module, *inputs: torch.Tensor) -> qlab.Lab:
    return qlab.Lab(model.eval(), tuple(x[:1] for x in inputs), [inputs])


def _written(lab: qlab.Lab, mapping, path) -> onnx.ModelProto:
    return onnx.load(lab.export(path / "model.onnx", mapping))


def _constants(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


@pytest.fixture
def lab() -> qlab.Lab:
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))
    return _lab(model, torch.randn(64, 32))


@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("int8", onnx.TensorProto.INT8),
        ("int8-weights-only", onnx.TensorProto.INT8),
        ("int4-weights", onnx.TensorProto.INT4),
        ("float8", onnx.TensorProto.FLOAT8E4M3FN),
    ],
)
def test_weights_are_constants_of_their_own_type_and_biases_float(lab, preset, kind, tmp_path):
    constants = _constants(_written(lab, preset, tmp_path))
    assert constants["0.weight_codes"].data_type == kind
    assert list(constants["0.weight_codes"].dims) == [16, 32]
    assert list(constants["0.weight_scale"].dims) == [16]
    assert constants["0.bias"].data_type == onnx.TensorProto.FLOAT


def test_codes_are_those_of_the_converted_model(lab, tmp_path):
    found = onnx.numpy_helper.to_array(
        _constants(_written(lab, "int8", tmp_path))["0.weight_codes"]
    )
    expected = lab.convert("int8").get_submodule("0").get_buffer("weight_codes")
    assert np.array_equal(found, expected.numpy())


def test_groups_become_blocks(lab, tmp_path):
    weight = TensorSpec(integer(4, signed=True), symmetric=True, granularity=PerGroup(16))
    mapping = QConfigMapping().set_global(qconfig_of(None, weight))
    proto = _written(lab, mapping, tmp_path)
    node = next(
        n for n in proto.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] == "0.weight_codes"
    )  # fmt: skip
    attributes = {a.name: a.i for a in node.attribute}
    assert attributes["block_size"] == 16 and attributes["axis"] == 1
    assert list(_constants(proto)["0.weight_scale"].dims) == [16, 2]


def test_the_axis_of_samples_stays_free_and_outputs_keep_their_keys(tmp_path):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.fc(values)}

    proto = _written(_lab(Named(), torch.randn(16, 4)), "int8", tmp_path)
    (given,), (result,) = proto.graph.input, proto.graph.output
    assert (given.name, result.name) == ("values", "logits")
    for value in (given, result):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_nothing_of_this_machine_is_in_the_file(lab, tmp_path):
    content = lab.export(tmp_path / "model.onnx", "int8").read_bytes()
    assert str(tmp_path).encode() not in content
    assert b".py" not in content


@pytest.mark.parametrize(("bias", "apart"), [(-0.9, True), (0.0, False)])
def test_a_bias_that_integers_would_round_too_much_is_added_behind(bias, apart, tmp_path):
    """A bias that leaves little for a ReLU makes the output's steps small beside its own unit."""
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 1.0)
    nn.init.constant_(layer.bias, bias)
    lab = _lab(nn.Sequential(layer, nn.ReLU()), torch.rand(64, 1))
    module = lab.convert("int8").get_submodule("0")
    (x,) = module.input_qparams
    unit = x.scale * module.weight_qparams.scale.amax() / module.output_qparams.scale
    written = onnx.load_from_string(onnx_bytes(lab.convert("int8"), lab.example_values))
    assert (float(unit) > LARGEST_BIAS_UNIT) == apart
    assert ("Add" in [node.op_type for node in written.graph.node]) == apart


@pytest.mark.parametrize(("bias", "apart"), [(-0.99, True), (-0.9, False)])
def test_as_deployed_only_what_would_move_by_a_quarter_step_is_added_behind(bias, apart, tmp_path):
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 1.0)
    nn.init.constant_(layer.bias, bias)
    lab = _lab(nn.Sequential(layer, nn.ReLU()), torch.rand(64, 1))
    written = _written(lab, "int8", tmp_path)
    assert ("Add" in [node.op_type for node in written.graph.node]) == apart
    keys = {entry.key for entry in written.metadata_props}
    assert (INTEGER_BIASES in keys) == (not apart)


def test_a_relu6_that_its_codes_exceed_is_a_bound_on_codes(tmp_path):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6())
    nn.init.constant_(layers[0].bias, 8.0)
    lab = _lab(layers, torch.randn(16, 3, 8, 8))
    wide = QConfigMapping().set_global(qconfig_of(_TO_TEN, TensorSpec.int8_weight()))
    path = lab.export(tmp_path / "model.onnx", wide)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.index("Clip") > kinds.index("Relu") > kinds.index("Conv")
    check = lab.check_onnx(path, wide)
    assert check.table["exact_local"].min() == 1.0
    codes = lab.convert(wide)(torch.full((1, 3, 8, 8), 10.0))
    assert float(codes.max()) == pytest.approx(6.0, abs=0.02)


class _Odd(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _WithOdd(nn.Module):
    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.fc, self.inside = nn.Linear(4, 4), nn.ModuleDict({"odd": odd})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside["odd"](self.fc(x))


@pytest.mark.parametrize(
    ("odd", "operator"),
    [
        (_Odd(torch.linalg.matrix_exp), r"aten\.linalg_matrix_exp\.default"),
        (_Odd(torch.linalg.inv), r"aten\.linalg_inv_ex\.default"),
        (_Odd(torch.special.i0), r"prims\.bessel_i0\.default"),
        (nn.FractionalMaxPool2d(2, 2), r"aten\.fractional_max_pool2d\.default"),
    ],
    ids=["as it is called", "a part of it", "a primitive of it", "a layer"],
)
def test_an_operator_that_onnx_lacks_is_named_with_its_module_and_leaves_nothing(
    odd, operator, tmp_path
):
    lab = _lab(_WithOdd(odd), torch.randn(8, 4, 4))
    with pytest.raises(UnsupportedError, match=rf"no form of {operator} in module 'inside\.odd'\."):
        lab.export(tmp_path / "model.onnx", "int8")
    assert [*tmp_path.iterdir()] == []


def test_an_operator_that_the_model_itself_calls_has_no_module(tmp_path):
    lab = _lab(_Odd(torch.linalg.matrix_exp), torch.randn(8, 4, 4))
    with pytest.raises(UnsupportedError, match=r"no form of aten\.linalg_matrix_exp\.default\. "):
        lab.export(tmp_path / "model.onnx", "int8")


def test_only_converted_graphs_are_written():
    with pytest.raises(UnsupportedError, match="Only a converted graph"):
        onnx_bytes(nn.Linear(2, 2), torch.randn(1, 2))


def test_another_suffix_is_refused(lab, tmp_path):
    with pytest.raises(ArgumentError, match=r"a path that ends in \.onnx"):
        save_onnx(lab.convert("int8"), torch.randn(1, 32), tmp_path / "model.pb")
