import copy
import functools
import json
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qlab.qconfig
from qlab.dtypes import qint8, quint8
from qlab.errors import ArgumentError, DTypeError, FormatError, UnknownNameError, UnsupportedError
from qlab.fake_quantize import FusedMovingAvgObsFakeQuantize
from qlab.granularity import PerAxis, PerGroup
from qlab.object_types import (
    describe_object_type,
    object_type_from_dict,
    object_type_to_dict,
    register_object_type,
)
from qlab.observers import HistogramObserver, MinMaxObserver, PlaceholderObserver
from qlab.qconfig import (
    BACKENDS,
    QConfig,
    QConfigMapping,
    default_dynamic_qconfig,
    default_qat_qconfig,
    default_qconfig,
    float16_static_qconfig,
    get_default_qat_qconfig,
    get_default_qat_qconfig_mapping,
    get_default_qconfig,
    get_default_qconfig_mapping,
    qconfig_from_dict,
    qconfig_of,
    qconfig_to_dict,
    resolve,
)
from qlab.ranges import MSE, Fixed, MinMax, Percentile, TensorSpec

DEFAULTS = {
    name: value
    for name in qlab.qconfig.__all__
    if isinstance(value := getattr(qlab.qconfig, name), QConfig)
}


def numbered(i):
    """One of several different qconfigs."""
    spec = TensorSpec(quint8, policy=Percentile(90.0 + i))
    return qconfig_of(spec, TensorSpec.int8_weight())


def test_a_qconfig_is_a_named_tuple_of_factories():
    qconfig = QConfig(activation=MinMaxObserver, weight=MinMaxObserver.with_args(dtype=qint8))
    activation, weight = qconfig
    assert qconfig._fields == ("activation", "weight")
    assert activation is qconfig.activation is MinMaxObserver
    assert weight().dtype is qint8
    assert qconfig == QConfig(MinMaxObserver, MinMaxObserver.with_args(dtype=qint8))
    assert qlab.qconfig.qconfig_equals(qconfig, copy.deepcopy(qconfig))
    assert pickle.loads(pickle.dumps(qconfig)) == qconfig
    assert qconfig._replace(weight=MinMaxObserver) == QConfig(MinMaxObserver, MinMaxObserver)


def test_any_callable_is_a_factory_and_json_names_what_it_cannot_hold():
    def mine():
        return MinMaxObserver()

    qconfig = QConfig(mine, functools.partial(MinMaxObserver, dtype=qint8))
    assert qconfig.activation().spec == TensorSpec()
    assert qconfig.weight_spec.dtype is qint8
    with pytest.raises(UnknownNameError, match=r"mine.*makes no registered observer"):
        qconfig_to_dict(qconfig)
    with pytest.raises(UnknownNameError, match=r"mine.*makes no registered observer"):
        QConfigMapping().set_global(qconfig).to_json()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QConfig(MinMaxObserver(), None), "activation is an observer that already exists"),
        (lambda: QConfig(None, MinMaxObserver()), "weight is an observer that already exists"),
        (lambda: QConfig(TensorSpec(), None), "activation cannot be called.*qconfig_of"),
    ],
)
def test_mistaken_factories(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("qconfig", DEFAULTS.values(), ids=DEFAULTS)
def test_defaults_are_hashable_and_have_a_json_form(qconfig):
    assert hash(qconfig) == hash(copy.deepcopy(qconfig))
    assert qconfig_from_dict(json.loads(json.dumps(qconfig_to_dict(qconfig)))) == qconfig


@pytest.mark.parametrize(
    ("name", "activation", "weight"),
    [
        ("default_qconfig", "in codes 0 to 127, min-max", "int8 symmetric per tensor, min-max"),
        ("default_per_channel_qconfig", "in codes 0 to 127, min-max", "symmetric per channel"),
        ("default_debug_qconfig", None, "int8 symmetric per tensor"),
        ("default_dynamic_qconfig", None, "int8 symmetric per tensor"),
        ("per_channel_dynamic_qconfig", None, "int8 symmetric per channel"),
        ("float16_dynamic_qconfig", None, None),
        ("float16_static_qconfig", None, None),
        ("float_qparams_weight_only_qconfig", None, "uint8 affine per channel with float zero"),
        ("default_qat_qconfig", "codes 0 to 127, moving average", "symmetric per tensor, moving"),
        ("default_qat_qconfig_v2", "uint8 affine per tensor, moving", "symmetric per tensor, mov"),
        ("default_weight_only_qconfig", None, "int8 symmetric per tensor, moving average"),
        ("default_activation_only_qconfig", "uint8 affine per tensor in codes 0 to 127", None),
    ],
)
def test_defaults_mean_what_the_reference_says(name, activation, weight):
    qconfig = DEFAULTS[name]
    for spec, words in ((qconfig.activation_spec, activation), (qconfig.weight_spec, weight)):
        if words is None:
            assert spec is None
        else:
            assert words in spec.describe()


def test_dynamic_and_float16_are_said_by_the_placeholder():
    assert default_dynamic_qconfig.activation().is_dynamic
    assert float16_static_qconfig.weight().dtype == torch.float16


@pytest.mark.parametrize("activation", [None, TensorSpec(policy=MSE())], ids=["float", "uint8"])
@pytest.mark.parametrize(
    "weight", [None, TensorSpec(qint8, True, PerAxis(0)), TensorSpec(qint8, True, PerGroup(16))]
)
def test_qconfigs_of_specs(activation, weight):
    qconfig = qconfig_of(activation, weight)
    assert (qconfig.activation_spec, qconfig.weight_spec) == (activation, weight)
    assert qconfig_from_dict(qconfig_to_dict(qconfig)) == qconfig


@pytest.mark.parametrize("backend", BACKENDS)
def test_default_qconfig_of_a_backend(backend):
    reduced = backend in ("x86", "fbgemm")
    per_tensor = backend == "qnnpack"
    after, during = get_default_qconfig(backend), get_default_qat_qconfig(backend)
    assert after.activation_spec == TensorSpec(policy=MSE(), reduce_range=reduced)
    assert after.weight_spec.describe().startswith(
        "int8 symmetric per tensor" if per_tensor else "int8 symmetric per channel"
    )
    assert during.activation.func is FusedMovingAvgObsFakeQuantize
    assert during.activation_spec.limits == ((0, 127) if reduced else (0, 255))
    older = get_default_qat_qconfig(backend, version=0)
    assert older.activation_spec == during.activation_spec
    assert older.weight_spec == during.weight_spec


def test_default_backend_uses_all_codes():
    assert get_default_qconfig() == get_default_qconfig("onednn")
    assert get_default_qconfig().activation_spec.limits == (0, 255)


def test_unknown_backends_and_versions():
    with pytest.raises(UnknownNameError, match=r"Unknown quantization backend 'qnnpck'.*qnnpack"):
        get_default_qconfig("qnnpck")
    with pytest.raises(ArgumentError, match="No such version"):
        get_default_qat_qconfig_mapping("onednn", 7)


class Block(nn.Module):
    pass


def every_rule():
    return (
        QConfigMapping()
        .set_global(numbered(0))
        .set_object_type(nn.Conv2d, numbered(1))
        .set_object_type(torch.add, numbered(2))
        .set_object_type("relu", None)
        .set_module_name_regex("foo.*bar.*conv[0-9]+", numbered(3))
        .set_module_name_regex("foo.*", numbered(4))
        .set_module_name("block1", numbered(5))
        .set_module_name("block1.inner.conv", None)
        .set_module_name_object_type_order("block2", F.linear, 1, numbered(6))
    )


@pytest.mark.parametrize(
    ("name", "object_type", "index", "expected", "rule"),
    [
        ("other", nn.Linear, 0, 0, "global"),
        ("conv", nn.Conv2d, 0, 1, "type Conv2d"),
        ("add", torch.add, 0, 2, "function torch.add"),
        ("relu", "relu", 0, None, "method relu"),
        ("foo.bar.conv0", nn.Conv2d, 0, 3, "regex 'foo.*bar.*conv[0-9]+'"),
        ("foo.baz", nn.Conv2d, 0, 4, "regex 'foo.*'"),
        ("not.foo", nn.Conv2d, 0, 1, "type Conv2d"),
        ("block1", Block, 0, 5, "module name 'block1'"),
        ("block1.inner.linear", nn.Conv2d, 0, 5, "module name 'block1'"),
        ("block1.inner.conv", nn.Conv2d, 0, None, "module name 'block1.inner.conv'"),
        ("block1.add", torch.add, 0, 5, "module name 'block1'"),
        ("block10", nn.Linear, 0, 0, "global"),
        ("block2.linear", F.linear, 0, 0, "global"),
        ("block2.linear_1", F.linear, 1, 6, "number 1 of function .*linear in 'block2'"),
        ("block1.conv", (Block, nn.Conv2d), 0, 5, "module name 'block1'"),
        ("x.conv", (Block, nn.Conv2d), 0, 1, "type Conv2d"),
    ],
)
def test_precedence(name, object_type, index, expected, rule):
    qconfig, words = resolve(every_rule(), name, object_type, index=index)
    assert qconfig == (None if expected is None else numbered(expected))
    if ".*linear in" in rule:
        assert words.startswith("number 1 of function")
        assert words.endswith("in 'block2'")
    else:
        assert words == rule


def test_scope_can_be_given():
    mapping = QConfigMapping().set_module_name_object_type_order("", nn.Linear, 0, numbered(1))
    assert resolve(mapping, "head", nn.Linear, index=0).qconfig == numbered(1)
    assert resolve(mapping, "a.head", nn.Linear, scope="", index=0).qconfig == numbered(1)
    assert resolve(mapping, "a.head", nn.Linear, index=0) == (None, "no rule")


def test_resolutions_name_rules_of_the_list():
    words = [str(rule) for rule in every_rule().rules()]
    assert len(words) == len(set(words)) == 9
    assert words[-1] == "global"
    assert resolve(every_rule(), "foo.x", nn.Linear).rule in words


def test_none_keeps_in_float_and_an_empty_mapping_has_no_rule():
    assert resolve(QConfigMapping(), "a", nn.Linear) == (None, "no rule")
    mapping = QConfigMapping().set_global(default_qconfig).set_object_type(nn.Linear, None)
    assert resolve(mapping, "a", nn.Linear) == (None, "type Linear")
    assert QConfigMapping().rules() == ()


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(rules=st.dictionaries(NAMES, st.integers(0, 5), max_size=6), name=NAMES)
def test_the_longest_module_name_wins(rules, name):
    mapping = QConfigMapping()
    for key, number in rules.items():
        mapping.set_module_name(key, numbered(number))
    inside = [key for key in rules if f"{name}.".startswith(f"{key}.")]
    found = resolve(mapping, name, nn.Linear)
    if inside:
        assert found.qconfig == numbered(rules[max(inside, key=len)])
    else:
        assert found == (None, "no rule")


def test_later_settings_replace_earlier_ones_in_place():
    mapping = every_rule().set_module_name_regex("foo.*bar.*conv[0-9]+", numbered(9))
    assert next(iter(mapping.module_name_regex_qconfigs)) == "foo.*bar.*conv[0-9]+"
    assert resolve(mapping, "foo.bar.conv1", nn.Conv2d).qconfig == numbered(9)


def test_mappings_compare_by_content():
    assert every_rule() == every_rule()
    assert hash(every_rule()) == hash(every_rule())
    assert every_rule() != every_rule().set_global(None)
    assert every_rule() != "mapping"
    a = QConfigMapping().set_module_name("a", None).set_module_name("b", None)
    b = QConfigMapping().set_module_name("b", None).set_module_name("a", None)
    assert a == b
    a = QConfigMapping().set_module_name_regex("a", None).set_module_name_regex("b", None)
    b = QConfigMapping().set_module_name_regex("b", None).set_module_name_regex("a", None)
    assert a != b


def test_copies_are_apart():
    mapping = every_rule()
    for twin in (mapping.copy(), copy.deepcopy(mapping)):
        assert twin == mapping
        twin.set_module_name("new", None)
        assert twin != mapping


def test_dict_form_is_that_of_the_reference():
    data = every_rule().to_dict()
    assert data[""] == numbered(0)
    assert data["object_type"][0] == (nn.Conv2d, numbered(1))
    assert data["module_name_regex"][1] == ("foo.*", numbered(4))
    assert data["module_name"][1] == ("block1.inner.conv", None)
    assert data["module_name_object_type_order"] == [("block2", F.linear, 1, numbered(6))]
    assert QConfigMapping.from_dict(data) == every_rule()
    assert QConfigMapping.from_dict({}) == QConfigMapping()
    with pytest.raises(FormatError, match=r"no such kind of rule.*'modules'"):
        QConfigMapping.from_dict({"modules": []})


@pytest.mark.parametrize(
    "mapping",
    [
        every_rule(),
        QConfigMapping(),
        get_default_qconfig_mapping(),
        get_default_qat_qconfig_mapping("x86"),
        QConfigMapping().set_object_type(operator.add, default_qat_qconfig),
        QConfigMapping().set_global(qconfig_of(None, TensorSpec(qint8, True, PerGroup(32)))),
    ],
)
def test_json_keeps_everything(mapping):
    text = mapping.to_json(indent=1)
    read = QConfigMapping.from_json(text)
    assert read == mapping
    assert read.to_json() == mapping.to_json()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", FormatError, "Not the JSON of a QConfigMapping"),
        ("[]", FormatError, "Not the JSON of a QConfigMapping"),
        ('{"version": 2, "rules": []}', FormatError, "Not the JSON"),
        ('{"version": 1, "rules": [{}]}', FormatError, "Not a rule"),
        ('{"version": 1, "rules": 3}', FormatError, "Not the JSON"),
        (
            '{"version": 1, "integer_biases": 1, "rules": []}',
            FormatError,
            "'integer_biases' is no truth value",
        ),
        (
            '{"version": 1, "rules": [{"style": "shape", "key": "", "qconfig": null}]}',
            FormatError,
            "Not a rule",
        ),
        (
            '{"version": 1, "rules": [{"style": "global", "key": "", "qconfig": {"a": 1}}]}',
            FormatError,
            "Not a qconfig",
        ),
        (
            '{"version": 1, "rules": [{"style": "object_type", "key": {"function": "os.system"},'
            ' "qconfig": null}]}',
            UnknownNameError,
            "Unknown class or function 'os.system'",
        ),
        (
            '{"version": 1, "rules": [{"style": "object_type", "key": {"type": "torch.load"},'
            ' "qconfig": null}]}',
            UnknownNameError,
            "Unknown class or function 'torch.load'",
        ),
        (
            '{"version": 1, "rules": [{"style": "object_type", "key": {"x": "y"},'
            ' "qconfig": null}]}',
            FormatError,
            "Not an object type",
        ),
        (
            '{"version": 1, "rules": [{"style": "module_name_regex", "key": "(",'
            ' "qconfig": null}]}',
            ArgumentError,
            "not a regular expression",
        ),
    ],
)
def test_json_that_is_no_mapping(text, error, message):
    with pytest.raises(error, match=message):
        QConfigMapping.from_json(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m.set_global(MinMaxObserver), "A rule gives a QConfig"),
        (lambda m: m.set_module_name("a", {"weight": 1}), "A rule gives a QConfig"),
        (lambda m: m.set_object_type(nn.ReLU(), None), "takes a class, not a module"),
        (lambda m: m.set_object_type(3, None), "set_object_type takes a class, a function or a n"),
        (lambda m: m.set_object_type(None, None), "takes a class, a function or a name"),
        (lambda m: m.set_object_type((nn.Conv2d, nn.ReLU), None), "takes a class, a function or"),
        (lambda m: m.set_module_name(3, None), "set_module_name: the path cannot be used"),
        (lambda m: m.set_module_name(nn.ReLU, None), "set_module_name: the path cannot be used"),
        (lambda m: m.set_module_name_object_type_order(3, nn.ReLU, 0, None), "the path cannot be"),
        (lambda m: m.set_module_name_object_type_order("", 3, 0, None), "order takes a class, a"),
        (lambda m: m.set_module_name_object_type_order("", nn.ReLU, -1, None), "counts from 0"),
        (lambda m: m.set_module_name_object_type_order("", nn.ReLU, "0", None), "counts from 0"),
        (lambda m: m.set_module_name_object_type_order("", nn.ReLU, True, None), "counts from 0"),
        (lambda m: m.set_module_name_regex("[", None), "not a regular expression"),
    ],
)
def test_mistaken_rules(make, message):
    mapping = QConfigMapping()
    with pytest.raises((ArgumentError, DTypeError), match=message):
        make(mapping)
    assert not mapping.rules()


def test_default_mapping_knows_fixed_output_ranges():
    mapping = get_default_qconfig_mapping()
    assert mapping.global_qconfig == get_default_qconfig()
    for kind, fixed in (
        *((kind, Fixed(1 / 256, 0)) for kind in (nn.Sigmoid, torch.sigmoid, nn.Hardsigmoid)),
        *((kind, Fixed(1 / 256, 0)) for kind in (F.hardsigmoid, "sigmoid", nn.Softmax)),
        *((kind, Fixed(2 / 256, 128)) for kind in (nn.Tanh, torch.tanh, "tanh")),
    ):
        assert resolve(mapping, "x", kind).qconfig.activation_spec.policy == fixed
        during = resolve(get_default_qat_qconfig_mapping(), "x", kind).qconfig
        assert during.activation_spec.policy == fixed
    assert resolve(mapping, "x", nn.LayerNorm).qconfig.weight is PlaceholderObserver
    assert resolve(mapping, "x", nn.PReLU).qconfig.weight_spec == TensorSpec(policy=MinMax())
    assert resolve(mapping, "x", nn.ConvTranspose2d).rule == "global"
    x86 = get_default_qconfig_mapping("x86")
    assert resolve(x86, "x", nn.ConvTranspose2d).qconfig.weight_spec == TensorSpec(qint8, True)
    assert resolve(x86, "x", nn.Conv2d).qconfig.activation.func is HistogramObserver


@pytest.mark.parametrize(
    ("obj", "data", "words"),
    [
        (nn.Conv2d, {"type": "torch.nn.modules.conv.Conv2d"}, "type Conv2d"),
        (torch.add, {"function": "torch.add"}, "function torch.add"),
        (operator.add, {"function": "operator.add"}, "function operator.add"),
        (F.relu, {"function": "torch.nn.functional.relu"}, "function torch.nn.functional.relu"),
        ("add", {"method": "add"}, "method add"),
    ],
)
def test_object_types_have_names(obj, data, words):
    assert object_type_to_dict(obj) == data
    assert object_type_from_dict(data) is obj
    assert describe_object_type(obj) == words


def test_own_classes_are_named_once_registered():
    with pytest.raises(UnknownNameError, match="Block is not known to qlab by name"):
        object_type_to_dict(Block)

    class Mine(nn.Module):
        pass

    register_object_type(Mine)
    assert object_type_from_dict(object_type_to_dict(Mine)) is Mine
    assert describe_object_type(Block).endswith(".Block")


def test_repr_lists_rules():
    text = repr(every_rule())
    assert text.splitlines()[0] == "QConfigMapping("
    assert "  type Conv2d: QConfig(activation=PercentileObserver" in text


def test_arguments_without_a_json_form_are_named():
    qconfig = QConfig(MinMaxObserver.with_args(eps=torch.ones(1)), None)
    with pytest.raises(UnsupportedError, match="MinMaxObserver: the argument 'eps' has no JSON"):
        QConfigMapping().set_global(qconfig).to_json()


def test_integer_biases_are_part_of_a_mapping():
    plain = get_default_qconfig_mapping()
    mapping = plain.copy().set_integer_biases()
    assert mapping.integer_biases and not plain.integer_biases
    assert mapping != plain and hash(mapping) != hash(plain)
    assert mapping.copy() == mapping == QConfigMapping.from_json(mapping.to_json())
    assert QConfigMapping.from_dict(mapping.to_dict()) == mapping
    assert repr(mapping).splitlines()[-2] == "  integer biases"
    assert "integer_biases" not in plain.to_dict() and "integer_biases" not in plain.to_json()
    assert mapping.set_integer_biases(False) == plain
    with pytest.raises(ArgumentError, match="takes True or False, not 1"):
        plain.set_integer_biases(1)  # pyright: ignore[reportArgumentType]
