"""Pairs of operator and qconfig that cannot be: reported once, with path, qconfig and reason."""

import warnings

import pytest
import torch
from torch import nn

import qlab
from qlab import quantization as tq
from qlab.graph import convert_fx, prepare_fx
from qlab.nn.intrinsic import quantized as nniq
from qlab.qconfig import QConfigMapping
from qlab.quantization.backend_config import get_onednn_backend_config
from qlab.quantization.fx.custom_config import PrepareCustomConfig
from qlab.quantization.quantize_fx import prepare_qat_fx

X = torch.randn(4, 3)
TABLE = torch.tensor([1])
WEIGHTS_ONLY = qlab.qconfig_of(None, qlab.TensorSpec.int8_weight())


def report(layers, mapping, x=X, **options):
    """What prepare_fx says of a chain of layers, once."""
    with pytest.warns(UserWarning, match="prepare_fx") as caught:
        prepare_fx(nn.Sequential(*layers).eval(), mapping, (x,), **options)
    assert len(caught) == 1
    return str(caught[0].message)


@pytest.mark.parametrize(
    ("layer", "x", "qconfig", "reason"),
    [
        (nn.LSTM(3, 3), torch.randn(2, 1, 3), tq.default_qconfig, "no integer form of LSTM"),
        (nn.Embedding(3, 3), TABLE, tq.default_qconfig, "only a weight-only qconfig"),
        (nn.Softplus(), X, tq.default_qconfig, "no integer form of Softplus"),
        (nn.Conv1d(3, 3, 1), torch.randn(1, 3, 4), tq.default_dynamic_qconfig, "a dynamic qconfig"),
        (nn.Linear(3, 3), X, tq.float16_static_qconfig, "leaves activations in float"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("rule", ["module_name", "object_type", "order", "regex"])
def test_a_layer_that_a_rule_names_and_that_stays_in_float(layer, x, qconfig, reason, rule):
    mapping, kind = QConfigMapping(), type(layer)
    if rule == "module_name":
        mapping.set_module_name("0", qconfig)
    elif rule == "object_type":
        mapping.set_object_type(kind, qconfig)
    elif rule == "order":
        mapping.set_module_name_object_type_order("", kind, 0, qconfig)
    else:
        mapping.set_module_name_regex("0", qconfig)
    said = report([layer], mapping, x)
    assert f"'0' ({kind.__name__}) stays in float: " in said
    assert reason in said and f"asks for {qconfig}" in said


def test_every_pair_is_in_one_warning():
    mapping = QConfigMapping().set_global(tq.default_qconfig)
    mapping.set_module_name("1", tq.default_qconfig).set_module_name("nope", None)
    mapping.set_object_type(nn.Mish, tq.default_qconfig)
    said = report([nn.Linear(3, 3), nn.Softplus(), nn.Mish()], mapping)
    assert "'1' (Softplus)" in said and "'2' (Mish)" in said
    assert said.endswith("nothing matches module name 'nope'")


def test_training_is_warned_of_by_its_name():
    mapping = QConfigMapping().set_module_name("0", tq.get_default_qat_qconfig())
    with pytest.warns(UserWarning, match=r"prepare_qat_fx: '0' \(Softplus\) stays in float"):
        prepare_qat_fx(nn.Sequential(nn.Softplus()).train(), mapping, (X,))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Softplus())

    def forward(self, x):
        return self.block(x)


@pytest.mark.parametrize(
    "mapping",
    [
        tq.get_default_qconfig_mapping(),
        tq.get_default_qconfig_mapping("x86"),
        QConfigMapping().set_global(tq.default_qconfig),
        QConfigMapping().set_module_name("block", tq.default_qconfig),
        QConfigMapping().set_module_name_regex("block.*", tq.default_qconfig),
        QConfigMapping().set_global(tq.default_qconfig).set_object_type(nn.Softplus, None),
        QConfigMapping().set_global(tq.default_qconfig).set_object_type(nn.LSTM, None),
        QConfigMapping().set_global(tq.default_qconfig).set_module_name("block.1", None),
        QConfigMapping().set_module_name("block.2", tq.QConfig(nn.Identity, nn.Identity)),
    ],
    ids=range(9),
)
def test_rules_for_many_operators_and_for_float_are_silent(mapping):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_fx(Block().eval(), mapping, (X,))


def test_rules_inside_a_standalone_module_are_not_looked_for_outside():
    custom = PrepareCustomConfig().set_standalone_module_name("block", None, (X,), None, None)
    mapping = QConfigMapping().set_module_name("0", tq.default_qconfig)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_fx(Block().eval(), mapping, (X,), prepare_custom_config=custom)


class TestIntegerBiases:
    """What ignores `QConfigMapping.set_integer_biases` says so in the plan."""

    @pytest.mark.parametrize(
        ("layer", "qconfig", "why"),
        [
            (nn.Linear(3, 3), tq.default_qconfig, None),
            (nn.Linear(3, 3, bias=False), tq.default_dynamic_qconfig, None),
            (nn.Conv1d(1, 2, 1), tq.default_qconfig, None),
            (nn.ConvTranspose1d(1, 2, 1), tq.default_qconfig, "runtimes of this operator"),
            (nn.Linear(3, 3), tq.default_dynamic_qconfig, "the scale of each call's input"),
            (nn.Linear(3, 3), WEIGHTS_ONLY, "float arithmetic adds it"),
        ],
        ids=["linear", "without bias", "convolution", "transposed", "dynamic", "weights"],
    )
    def test_a_bias_that_stays_real_has_its_reason(self, layer, qconfig, why):
        inputs = X[:, None] if layer._get_name().startswith("Conv") else X
        mapping = QConfigMapping().set_object_type(type(layer), qconfig)
        lab = qlab.Lab(nn.Sequential(layer).eval(), inputs, [inputs])
        (step,) = lab.plan(mapping).steps
        mapping.set_integer_biases()
        (told,) = lab.plan(mapping).steps
        words = "; its bias stays real: "
        assert words not in step.reason
        assert told.reason.startswith(step.reason) and (words in told.reason) == (why is not None)
        assert (why or "") in told.reason
        held = lab.convert(mapping).get_submodule(step.name)
        integer = getattr(held, "integer_bias", False)
        assert integer == (why is None and layer.bias is not None)

    def test_a_convolution_that_adds_sums_real_numbers(self):
        class Sum(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(2, 2, 1)

            def forward(self, x):
                return self.conv(x) + x

        x = torch.randn(4, 2, 3, 3)
        mapping = QConfigMapping().set_global(tq.default_qconfig).set_integer_biases()
        backend = get_onednn_backend_config()
        prepared = prepare_fx(Sum().eval(), mapping, (x,), backend_config=backend)
        prepared(x)
        (step,) = prepared.meta["plan"].steps
        assert step.row == "conv_add2d" and "runtimes of this operator" in step.reason
        layer = convert_fx(prepared).get_submodule(step.name)
        assert isinstance(layer, nniq.ConvAdd2d) and not layer.integer_bias
        assert not layer.hold_integer_bias() and not layer.integer_bias
