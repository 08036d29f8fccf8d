"""What backends run: derived from the registry, to and from dicts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qlab
from qlab.errors import ArgumentError, DTypeError, UnknownNameError
from qlab.nn import intrinsic as nni
from qlab.nn import qat as nnqat
from qlab.nn.quantized import reference as nnqr
from qlab.quantization import backend_config as face
from qlab.quantization.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
    ObservationType,
)
from qlab.registry import PATTERNS, ROWS
from qlab.registry.backend import standard, utils

GETTERS = [name for name in face.__all__ if name.endswith("_backend_config")]


@pytest.mark.parametrize("getter", GETTERS)
def test_a_backend_survives_its_dict_form(getter):
    config = getattr(face, getter)()
    given = config.to_dict()
    assert config.name == getter.removeprefix("get_").removesuffix("_backend_config")
    assert BackendConfig.from_dict(given).to_dict() == given
    assert len({str(entry["pattern"]) for entry in given["configs"]}) == len(config.configs)


def test_the_native_backend_describes_everything_that_is_quantized():
    config = face.get_native_backend_config()
    described = set(utils.get_pattern_to_dtype_configs(config))
    for row in ROWS:
        if row.static is not None and row.name not in ("dequantize", "float_functional"):
            assert set(row.modules) | set(row.functions) | set(row.methods) <= described, row.name
    assert {pattern.modules for pattern in PATTERNS} <= described


def test_what_a_pattern_says_is_what_the_registry_says():
    config = face.get_x86_backend_config()
    linear = config.config_of(nn.Linear)
    assert linear.root_module is nn.Linear
    assert linear.qat_module is nnqat.Linear
    assert linear.reference_quantized_module is nnqr.Linear
    assert [c.is_dynamic for c in linear.dtype_configs] == [None, True, True]
    assert linear.dtype_configs[0].weight_dtype == qlab.qint8
    shared = ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
    assert config.config_of(nn.MaxPool2d).observation_type is shared
    assert config.config_of(F.linear).root_module is nn.Linear
    assert config.config_of("view").observation_type is shared
    output = config.config_of(nn.Sigmoid).dtype_configs[0].output_dtype_with_constraints
    assert (output.scale_exact_match, output.zero_point_exact_match) == (1 / 256, 0)
    assert config.config_of(nn.Embedding).dtype_configs[1].weight_dtype == qlab.quint4x2


def test_questions_about_a_backend():
    config = face.get_native_backend_config()
    assert nnqat.Conv2d in utils.get_qat_module_classes(config)
    assert nni.ConvReLU2d in utils.get_fused_module_classes(config)
    roots = utils.get_root_module_to_quantized_reference_module(config)
    assert roots[nn.Conv1d] is nnqr.Conv1d
    assert utils.get_module_to_qat_module(config)[nn.Linear] is nnqat.Linear
    chain = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)
    assert utils.pattern_to_human_readable(chain) == ("Conv2d", "BatchNorm2d", "ReLU")
    fuse = utils.get_fuser_method_mapping(config)[chain]
    parts = [nn.Conv2d(1, 2, 1).eval(), nn.BatchNorm2d(2).eval(), nn.ReLU().eval()]
    assert isinstance(fuse(False, *parts), nni.ConvReLU2d)
    assert isinstance(fuse(True, *(part.train() for part in parts)), nni.ConvBnReLU2d)
    with pytest.raises(ArgumentError, match="in another mode than is_qat says"):
        fuse(False, *parts)


def test_types_with_constraints_survive_their_dict_form():
    limited = DTypeWithConstraints(qlab.qint8, -127, 127, 2**-12)
    config = DTypeConfig("quint8", torch.float, limited, torch.float, is_dynamic=True)
    assert (config.input_dtype, config.output_dtype) == (qlab.quint8, torch.float)
    assert config.weight_dtype_with_constraints is limited
    assert DTypeConfig.from_dict(config.to_dict()) == config
    plain = DTypeConfig.from_dict(
        {"input_dtype": "quint8", "weight_dtype": {"dtype": "qint8", "quant_min_lower_bound": -127}}
    )
    assert plain.weight_dtype_with_constraints.quant_min_lower_bound == -127
    assert plain.weight_dtype_with_constraints.quantized
    assert DTypeConfig().to_dict() == {}


def test_a_pattern_is_configured_step_by_step():
    made = (
        BackendPatternConfig()
        .set_pattern(nn.Linear)
        .set_observation_type(ObservationType.INPUT_OUTPUT_NOT_OBSERVED)
        .add_dtype_config(standard.default_op_fp16_dtype_config)
        .set_root_module(nn.Linear)
        .set_qat_module(nnqat.Linear)
        .set_reference_quantized_module(nnqr.Linear)
        .set_fused_module(None)
        .set_fuser_method(None)
    )
    again = BackendPatternConfig.from_dict(made.to_dict())
    assert again.to_dict() == made.to_dict()
    assert repr(again) == repr(made)
    config = BackendConfig("a").set_name("mine").set_backend_pattern_configs([made])
    assert "mine" in repr(config)
    assert config.configs == [made]
    assert config.config_of(nn.ReLU) is None


def test_what_makes_no_sense_is_refused():
    with pytest.raises(DTypeError, match="Not the config of a pattern"):
        BackendConfig().set_backend_pattern_config(nn.Linear)
    with pytest.raises(ArgumentError, match="has no pattern"):
        BackendConfig().set_backend_pattern_config(BackendPatternConfig())
    with pytest.raises(UnknownNameError, match=r"entry of BackendConfig.*nmae"):
        BackendConfig.from_dict({"nmae": "a"})
    with pytest.raises(UnknownNameError, match="entry of DTypeConfig"):
        DTypeConfig.from_dict({"input": "quint8"})
    with pytest.raises(UnknownNameError, match="quint9"):
        DTypeConfig("quint9")
