"""`backend_config=` decides what the graph workflow fuses and quantizes."""

import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab.errors import DTypeError, UnsupportedError
from qlab.nn import intrinsic as nni
from qlab.quantization import (
    QConfig,
    QConfigMapping,
    default_dynamic_qconfig,
    default_observer,
    default_weight_observer,
    default_weight_only_qconfig,
    float16_static_qconfig,
    get_default_qat_qconfig_mapping,
    get_default_qconfig_mapping,
)
from qlab.quantization.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
    ObservationType,
    get_tensorrt_backend_config,
    get_x86_backend_config,
)
from qlab.quantization.backend_config.native import get_test_only_legacy_native_backend_config
from qlab.quantization.fx.custom_config import PrepareCustomConfig
from qlab.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx, prepare_qat_fx

INT8 = DTypeConfig(qlab.quint8, qlab.quint8, qlab.qint8, torch.float)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.linear, self.sigmoid = nn.Linear(4, 3), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv(x)))
        return self.sigmoid(self.linear(y.mean((2, 3))))


def inputs() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def prepared(backend, mapping=None):
    torch.manual_seed(0)
    mapping = mapping or get_default_qconfig_mapping("x86")
    made = prepare_fx(Network().eval(), mapping, (inputs(),), backend_config=backend)
    made(inputs())
    return made


def of(*patterns: BackendPatternConfig) -> BackendConfig:
    return BackendConfig("mine").set_backend_pattern_configs(patterns)


def only(pattern, *dtypes: DTypeConfig) -> BackendPatternConfig:
    return BackendPatternConfig(pattern).set_dtype_configs(dtypes)


def reasons(model) -> dict[str, str]:
    return model.meta["plan"].to_frame()["reason"].to_dict()


def test_x86_allows_what_is_allowed_without_it():
    free, bound = prepared(None), prepared(get_x86_backend_config())
    assert reasons(free) == reasons(bound)
    given = get_x86_backend_config().to_dict()
    assert torch.equal(
        convert_fx(free)(inputs()), convert_fx(bound, backend_config=given)(inputs())
    )


def test_only_what_is_described_is_quantized():
    model = prepared(of(only(nn.Linear, INT8)))
    frame = model.meta["plan"].to_frame()
    assert frame.loc["linear", "execution"] == "integer"
    assert frame.loc["conv", "reason"] == "mine does not describe it"
    assert list(frame.index) == ["conv", "norm", "relu", "mean", "linear", "sigmoid"]
    assert isinstance(convert_fx(model).get_submodule("norm"), nn.BatchNorm2d)


def test_only_chains_that_are_described_are_fused():
    chain = (nn.Conv2d, nn.BatchNorm2d)
    backend = of(BackendPatternConfig(chain))
    assert isinstance(fuse_fx(Network().eval(), None, backend).get_submodule("relu"), nn.ReLU)
    assert isinstance(fuse_fx(Network().eval()).get_submodule("conv"), nni.ConvReLU2d)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"quant_min_lower_bound": 0, "quant_max_upper_bound": 100}, "codes from 0 to 100"),
        ({"scale_min_lower_bound": 2**-12}, "scales of at least 0.000244"),
        ({"scale_exact_match": 0.5, "zero_point_exact_match": 0}, "fixes scale and zero point"),
    ],
)
def test_a_qconfig_that_breaks_a_constraint_leaves_the_layer_in_float(limits, reason):
    types = DTypeWithConstraints(qlab.quint8, **limits)
    model = prepared(of(only(nn.Linear, DTypeConfig(types, types, qlab.qint8))))
    assert reason in reasons(model)["linear"]
    kept = {"scale_min_lower_bound": 1e-9, "quant_min_lower_bound": 0, "quant_max_upper_bound": 255}
    types = DTypeWithConstraints(qlab.quint8, **kept)
    model = prepared(of(only(nn.Linear, DTypeConfig(types, types, qlab.qint8))))
    assert model.meta["plan"].step("linear").execution == "integer"


def test_other_data_types_stay_in_float():
    assert (
        "does not take these data types"
        in reasons(prepared(get_tensorrt_backend_config()))["linear"]
    )
    signed = QConfig(default_observer.with_args(dtype=qlab.qint8), default_weight_observer)
    mapping = QConfigMapping().set_global(signed)
    model = prepared(get_tensorrt_backend_config(), mapping)
    assert model.meta["plan"].step("linear").execution == "integer"
    assert "does not describe it" in reasons(model)["sigmoid"]


@pytest.mark.parametrize(
    ("qconfig", "dtypes"),
    [
        (default_dynamic_qconfig, DTypeConfig(qlab.quint8, torch.float, qlab.qint8, None, True)),
        (default_weight_only_qconfig, DTypeConfig(torch.float, torch.float, qlab.qint8)),
    ],
)
def test_dynamic_and_weight_only_need_types_of_their_own(qconfig, dtypes):
    mapping = QConfigMapping().set_object_type(nn.Linear, qconfig)
    with pytest.warns(UserWarning, match=r"'linear' \(Linear\) stays in float: mine does not take"):
        refused = prepared(of(only(nn.Linear, INT8)), mapping)
    assert refused.meta["plan"].step("linear").weight is None
    allowed = prepared(of(only(nn.Linear, INT8, dtypes)), mapping)
    assert allowed.meta["plan"].step("linear").weight is not None


def test_what_is_not_to_be_observed_is_not():
    config = only(nn.Linear, INT8).set_observation_type(ObservationType.INPUT_OUTPUT_NOT_OBSERVED)
    assert prepared(of(config)).meta["plan"].step("linear").execution == "float"


def test_training_follows_it_too():
    mapping = get_default_qat_qconfig_mapping("x86")
    backend = of(only(nn.Linear, INT8))
    model = prepare_qat_fx(Network().train(), mapping, (inputs(),), backend_config=backend)
    assert type(model.get_submodule("conv")) is nn.Conv2d
    assert model.meta["plan"].step("linear").execution == "integer"


def test_a_standalone_module_may_have_one_of_its_own():
    custom = PrepareCustomConfig().set_standalone_module_name(
        "0", None, (torch.ones(1, 3),), None, of()
    )
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.Linear(4, 2)).eval()
    mapping = get_default_qconfig_mapping("x86")
    made = prepare_fx(model, mapping, (torch.ones(1, 3),), custom)
    assert made.get_submodule("0").meta["plan"].step("0").execution == "float"
    assert made.meta["plan"].step("1").execution == "integer"


def test_converting_for_another_backend_is_refused():
    model = prepared(None)
    with pytest.raises(UnsupportedError, match=r"'conv'.*tensorrt does not take.*to prepare_fx"):
        convert_fx(model, backend_config=get_tensorrt_backend_config())


def test_what_the_registry_does_not_know_is_refused():
    x = (inputs(),)
    mapping = get_default_qconfig_mapping("x86")
    for config in (
        only(nn.Bilinear, INT8),
        BackendPatternConfig((nn.Linear, nn.Sigmoid)),
        only(nn.Linear, INT8).set_qat_module(nn.Linear),
        only("no_such_method", INT8),
    ):
        with pytest.raises(UnsupportedError, match="describes what qlab has no integer form of"):
            prepare_fx(Network().eval(), mapping, x, backend_config=of(config))
    with pytest.raises(DTypeError, match="not the config of a backend"):
        prepare_fx(Network().eval(), mapping, x, backend_config=3)


def test_float16_is_rounded_to_where_the_backend_says_so():
    mapping = QConfigMapping().set_global(float16_static_qconfig)
    backend = get_test_only_legacy_native_backend_config()
    model = prepared(backend, mapping)
    assert set(model.meta["plan"].to_frame()["execution"]) == {"simulated"}
    half = convert_fx(model)(inputs())
    assert torch.equal(half, half.half().float())
    linear = convert_fx(model).get_submodule("linear")
    assert torch.equal(linear.get_weight(), linear.weight.half().float())
    torch.manual_seed(0)
    torch.testing.assert_close(half, Network().eval()(inputs()), rtol=0, atol=2e-3)
    assert "leaves activations in float" in reasons(prepared(None, mapping))["sigmoid"]
    assert (
        "not take these data types" in reasons(prepared(get_x86_backend_config(), mapping))["conv"]
    )
