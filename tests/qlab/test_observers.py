import copy
import functools
import io
import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qlab
import qlab.observers as observers
from qlab.dtypes import float8_e4m3fn, integer, qint8, qint32, quint8
from qlab.errors import (
    ArgumentError,
    DTypeError,
    FormatError,
    ShapeError,
    UncalibratedError,
    UnknownNameError,
    UnsupportedError,
)
from qlab.granularity import (
    PerAxis,
    PerGroup,
    PerTensor,
    QScheme,
    per_channel_affine,
    per_channel_affine_float_qparams,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
)
from qlab.observers import (
    EntropyObserver,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    NoopObserver,
    ObserverBase,
    Partial,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
    SpecObserver,
    factory_from_dict,
    factory_to_dict,
    get_observer_state_dict,
    load_observer_state_dict,
    observer_for,
    spec_of,
)
from qlab.qparams import EPS
from qlab.ranges import (
    MSE,
    Entropy,
    Fixed,
    MinMax,
    MovingAverage,
    Percentile,
    TensorSpec,
    measured_error,
)
from qlab.stats import TensorStats

RANGE = (MinMaxObserver, MovingAverageMinMaxObserver)
CHANNEL = (PerChannelMinMaxObserver, MovingAveragePerChannelMinMaxObserver)
STATS = (HistogramObserver, MSEObserver, PercentileObserver, EntropyObserver)
DEFAULTS = {name: getattr(observers, name) for name in observers.__all__ if "default_" in name}


def batches(count=3, shape=(6, 4, 5)):
    return [torch.randn(shape) * (i + 1) for i in range(count)]


def observed(observer, xs):
    for x in xs:
        assert observer(x) is x
    return observer


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("dtype", [quint8, qint8, integer(4, signed=True), qint32])
def test_minmax_covers_all_data(dtype, symmetric):
    xs = batches()
    scheme = per_tensor_symmetric if symmetric else per_tensor_affine
    observer = observed(MinMaxObserver(dtype=dtype, qscheme=scheme), xs)
    whole = torch.cat(xs)
    assert observer.min_val == whole.min()
    assert observer.max_val == whole.max()
    qparams = observer.qparams()
    assert qparams.same_as(observer.spec.qparams(TensorStats.of(whole)))
    scale, zero_point = observer.calculate_qparams()
    assert scale.tolist() == [qparams.scale_value]
    assert zero_point.tolist() == [qparams.zero_point_value]


def test_moving_average_follows_the_batches():
    first, second = torch.tensor([-1.0, 3.0]), torch.tensor([-2.0, 1.0])
    observer = observed(MovingAverageMinMaxObserver(averaging_constant=0.25), [first, second])
    assert observer.min_val == -1.25
    assert observer.max_val == 2.5


@given(constant=st.floats(1e-3, 1.0), count=st.integers(1, 8))
def test_moving_average_is_that_of_its_policy(constant, count):
    xs = batches(count)
    observer = observed(MovingAverageMinMaxObserver(averaging_constant=constant), xs)
    stats = TensorStats()
    for x in xs:
        stats.update(x)
    assert observer.qparams().same_as(observer.spec.qparams(stats))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channels_are_observed_apart(axis):
    xs = batches()
    cumulative = observed(PerChannelMinMaxObserver(ch_axis=axis), xs)
    average = observed(MovingAveragePerChannelMinMaxObserver(0.5, axis), xs)
    channels = xs[0].shape[axis]
    scale, zero_point = cumulative.calculate_qparams()
    assert scale.shape == zero_point.shape == (channels,)
    assert cumulative.qparams().granularity == PerAxis(axis)
    for i in range(channels):
        alone = [x.select(axis, i) for x in xs]
        one = observed(MinMaxObserver(), alone)
        assert (scale[i], zero_point[i]) == (one.qparams().scale, one.qparams().zero_point)
        one = observed(MovingAverageMinMaxObserver(0.5), alone)
        assert average.min_val[i] == one.min_val
        assert average.max_val[i] == one.max_val


def test_float_zero_points_start_at_the_smallest_value():
    observer = PerChannelMinMaxObserver(qscheme=per_channel_affine_float_qparams)
    observer(torch.tensor([[1.0, 3.0], [-0.5, 0.0], [2.0, 2.0]]))
    scale, zero_point = observer.calculate_qparams()
    assert torch.equal(scale, torch.tensor([2 / 255, 0.5 / 255, 1.0]))
    assert torch.allclose(zero_point, torch.tensor([-127.5, 255.0, -2.0]))


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({"reduce_range": True}, (0, 127)),
        ({"dtype": qint8, "reduce_range": True}, (-64, 63)),
        ({"quant_min": 0, "quant_max": 15}, (0, 15)),
        ({"quant_min": 0, "quant_max": 255, "reduce_range": True}, (0, 127)),
        ({"dtype": torch.int8, "quant_min": -127, "quant_max": 127}, (-127, 127)),
        ({"dtype": "qint4"}, (-8, 7)),
        ({"dtype": torch.uint16}, (0, 65535)),
    ],
    ids=["reduced", "reduced int8", "4 bits", "both", "int8", "qint4", "uint16"],
)
def test_codes_in_use(arguments, limits):
    observer = MinMaxObserver(**arguments)
    assert (observer.quant_min, observer.quant_max) == limits
    observer(torch.tensor([-1.0, 2.0]))
    qparams = observer.qparams()
    assert (qparams.quant_min, qparams.quant_max) == limits
    assert qparams.scale_value == pytest.approx(3 / (limits[1] - limits[0]))


@pytest.mark.parametrize(
    ("arguments", "zero_point"),
    [({}, 128), ({"quant_min": 0, "quant_max": 255}, 127), ({"quant_min": 0, "quant_max": 15}, 7)],
    ids=["own codes", "codes given", "4 bits"],
)
def test_middle_code_of_symmetric_unsigned_codes(arguments, zero_point):
    observer = MinMaxObserver(qscheme=per_tensor_symmetric, **arguments)
    observer(torch.tensor([-1.0, 2.0]))
    assert observer.calculate_qparams()[1].item() == zero_point


def test_scale_is_at_least_eps():
    observer = observed(MinMaxObserver(eps=2**-12), [torch.tensor([0.0, 1e-6])])
    assert observer.qparams().scale_value == 2**-12
    assert observer.eps.tolist() == [2**-12]
    assert observed(MinMaxObserver(), [torch.zeros(3)]).qparams().scale_value == EPS


@pytest.mark.parametrize("cls", [*RANGE, *CHANNEL, *STATS])
def test_nothing_seen_is_an_error_that_says_what_to_do(cls):
    observer = cls()
    observer(torch.empty(0, 4))
    with pytest.raises(UncalibratedError, match=rf"{cls.__name__} has seen no data.*calibration"):
        observer.calculate_qparams()
    observed(observer, batches(1))
    observer.calculate_qparams()
    observer.reset_min_max_vals()
    with pytest.raises(UncalibratedError, match="has seen no data"):
        observer.qparams()


@pytest.mark.parametrize("cls", [*RANGE, *CHANNEL, *STATS])
def test_nan_and_infinity_are_left_out(cls):
    xs = batches(1)
    dirty = xs[0].clone()
    dirty[0, 0, :2] = torch.tensor([torch.nan, torch.inf])
    clean = xs[0].clone()
    clean[0, 0, :2] = xs[0][0, 0, 2]
    assert observed(cls(), [dirty]).min_val.tolist() == observed(cls(), [clean]).min_val.tolist()


def test_moving_average_ignores_a_batch_without_finite_values():
    observer = observed(MovingAverageMinMaxObserver(), [torch.tensor([-1.0, 2.0])])
    observer(torch.full((3,), torch.nan))
    assert (observer.min_val, observer.max_val) == (-1.0, 2.0)
    late = observed(MovingAverageMinMaxObserver(), [torch.tensor([torch.nan]), torch.ones(1)])
    assert late.max_val == 1.0


def test_number_of_channels_stays():
    observer = observed(PerChannelMinMaxObserver(), [torch.randn(3, 2)])
    with pytest.raises(ShapeError, match="number of channels changed"):
        observer(torch.randn(4, 2))
    with pytest.raises(ShapeError, match="no axis 2"):
        PerChannelMinMaxObserver(ch_axis=2)(torch.randn(3, 2))


@pytest.mark.parametrize("cls", STATS)
def test_ranges_from_statistics_follow_the_policy(cls):
    xs = batches()
    observer = observed(cls(), xs)
    stats = TensorStats()
    for x in xs:
        stats.update(x)
    assert observer.stats == stats
    assert observer.qparams().same_as(observer.spec.qparams(stats))
    assert (observer.min_val, observer.max_val) == (stats.min_val, stats.max_val)


def test_histogram_observer_beats_minmax_where_there_is_an_outlier():
    x = torch.cat([torch.randn(20_000), torch.tensor([60.0])])
    histogram, minmax = HistogramObserver(dtype="quint4"), MinMaxObserver(dtype="quint4")
    errors = [measured_error(x, observed(o, [x]).qparams()).total for o in (histogram, minmax)]
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize(
    ("cls", "arguments", "policy"),
    [
        (HistogramObserver, {"bins": 128}, MSE()),
        (MSEObserver, {}, MSE()),
        (PercentileObserver, {"percent": 99.0}, Percentile(99.0)),
        (EntropyObserver, {"bins": 512}, Entropy(512)),
        (MovingAverageMinMaxObserver, {"averaging_constant": 0.1}, MovingAverage(0.1)),
    ],
)
def test_policies(cls, arguments, policy):
    assert cls(**arguments).policy == policy


def test_fixed_parameters_need_no_data():
    observer = FixedQParamsObserver(1 / 256, 0)
    x = torch.randn(3)
    assert observer(x) is x
    assert [t.tolist() for t in observer.calculate_qparams()] == [[1 / 256], [0]]
    assert observer.qparams().same_as(observer.spec.qparams(TensorStats()))


def test_recording_keeps_copies():
    observer, x = RecordingObserver(), torch.zeros(2)
    observer(x)
    x += 1
    observer(x)
    assert [t.tolist() for t in observer.get_tensor_value()] == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "cls", [PlaceholderObserver, NoopObserver, ReuseInputObserver, RecordingObserver]
)
def test_passive_observers_have_no_parameters(cls):
    observer, x = cls(), torch.randn(2)
    assert observer(x) is x
    assert observer.spec is None
    with pytest.raises(UnsupportedError, match=f"{cls.__name__} has no scale"):
        observer.calculate_qparams()
    with pytest.raises(UnsupportedError, match="keeps no range"):
        observer.reset_min_max_vals()


def test_placeholder_carries_its_arguments():
    observer = PlaceholderObserver(torch.float16, compute_dtype=quint8)
    assert (observer.dtype, observer.is_dynamic) == (torch.float16, True)
    observer = observers.default_dynamic_quant_observer()
    assert (observer.dtype, observer.quant_max, observer.is_dynamic) == (quint8, 255, True)
    assert observer.qscheme is per_tensor_affine


@pytest.mark.parametrize("cls", RANGE + STATS)
def test_per_tensor_observers_refuse_channels(cls):
    with pytest.raises(UnsupportedError, match=f"{cls.__name__} does not do this .* scheme"):
        cls(qscheme=per_channel_affine)


@pytest.mark.parametrize("cls", CHANNEL)
def test_per_channel_observers_refuse_one_scale(cls):
    with pytest.raises(UnsupportedError, match=f"{cls.__name__} does not do this .* scheme"):
        cls(qscheme=per_tensor_affine)
    with pytest.raises(UnsupportedError, match="does not do dynamic"):
        cls(is_dynamic=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MinMaxObserver(dtype=torch.float16), DTypeError, "Not a quantized data type"),
        (lambda: MinMaxObserver(dtype="int7"), UnknownNameError, "Unknown quantized data type"),
        (lambda: MinMaxObserver(qscheme="per_row"), UnknownNameError, "quantization scheme"),
        (lambda: MinMaxObserver(quant_min=0, quant_max=300), ArgumentError, "does not fit quint8"),
        (lambda: MinMaxObserver(quant_min=1, quant_max=9), ArgumentError, "must include 0"),
        (lambda: MinMaxObserver(eps=0.0), ArgumentError, "eps must be positive"),
        (
            lambda: MinMaxObserver(qscheme=per_tensor_symmetric, reduce_range=True),
            UnsupportedError,
            "would move the middle code",
        ),
        (lambda: MovingAverageMinMaxObserver(0.0), ArgumentError, "constant is a weight"),
        (
            lambda: MovingAverageMinMaxObserver(is_dynamic=True),
            UnsupportedError,
            "looks at one input",
        ),
        (lambda: HistogramObserver(bins=0), ArgumentError, "at least one bin"),
        (lambda: PercentileObserver(30.0), ArgumentError, "upper end above its lower"),
        (lambda: FixedQParamsObserver(-1.0, 0), ArgumentError, "positive and finite"),
        (lambda: FixedQParamsObserver(1.0, 300), ArgumentError, "no code of quint8"),
        (
            lambda: FixedQParamsObserver(1.0, 0, qscheme=per_channel_affine),
            UnsupportedError,
            "one scale, known beforehand",
        ),
        (lambda: MinMaxObserver()(torch.ones(3, dtype=torch.int32)), DTypeError, "real numbers"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_factories_are_values():
    made = MinMaxObserver.with_args(dtype=qint8).with_args(quant_min=-8, quant_max=7)
    same = MinMaxObserver.with_args(quant_max=7, quant_min=-8, dtype=qint8)
    assert made == same
    assert hash(made) == hash(same)
    assert made != MinMaxObserver.with_args(dtype=qint8)
    assert made().quant_min == -8
    assert made(quant_min=-7).quant_min == -7
    assert made() is not made()
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
    assert repr(made) == "MinMaxObserver.with_args(dtype=qlab.qint8, quant_max=7, quant_min=-8)"
    assert (made.p.func, made.p.keywords["quant_max"]) == (MinMaxObserver, 7)


def test_arguments_computed_for_each_instance():
    counter = iter(range(2, 9))
    made = MinMaxObserver.with_callable_args(eps=lambda: next(counter)).with_args(dtype=qint8)
    assert [made().eps.item(), made().eps.item(), made(eps=1.0).eps.item()] == [2, 3, 1.0]
    again = made.with_callable_args(quant_min=lambda: 0)
    assert dict(again.callable_arguments).keys() == {"eps", "quant_min"}
    with pytest.raises(UnsupportedError, match="has no JSON form"):
        factory_to_dict(made)


POLICIES = [MinMax(), MovingAverage(0.1), Percentile(99.5), MSE(), Entropy(256), Fixed(0.5, 3)]
GRANULARITIES = [PerTensor(), PerAxis(0), PerAxis(1), PerGroup(4)]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_specs_and_observers_are_inverse(policy, granularity, symmetric):
    zero = {"quant_min": -7, "quant_max": 7}
    for spec in (
        TensorSpec(qint8, symmetric, granularity, policy, **zero),
        TensorSpec(quint8, symmetric, granularity, policy, quant_min=0, quant_max=255),
        TensorSpec(integer(4, signed=True), symmetric, granularity, policy),
    ):
        factory = observer_for(spec)
        found = spec_of(factory)
        if isinstance(policy, Fixed):  # codes are written out, which changes nothing
            assert (found.policy, found.limits, found.dtype) == (policy, spec.limits, spec.dtype)
        else:
            assert found == spec
        assert factory_from_dict(json.loads(json.dumps(factory_to_dict(factory)))) == factory


def test_specs_keep_eps_reduction_and_float_zero_points():
    for spec in (
        TensorSpec(quint8, eps=2**-12, reduce_range=True),
        TensorSpec(quint8, granularity=PerAxis(0), float_zero_point=True),
        TensorSpec(float8_e4m3fn, True),
    ):
        assert spec_of(observer_for(spec)) == spec


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("policy", POLICIES[:5], ids=lambda policy: policy.name)
def test_observers_of_specs_choose_what_the_spec_says(policy, granularity):
    spec = TensorSpec(qint8, True, granularity, policy)
    weight = torch.randn(8, 8)
    observer = observed(observer_for(spec)(), [weight])
    assert observer.qparams().same_as(spec.qparams_of(weight))


@pytest.mark.parametrize("factory", DEFAULTS.values(), ids=DEFAULTS)
def test_defaults_are_hashable_and_have_a_json_form(factory):
    hash(factory)
    assert factory_from_dict(json.loads(json.dumps(factory_to_dict(factory)))) == factory
    spec = spec_of(factory)
    assert spec is None or spec_of(observer_for(spec)) == spec


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("default_observer", "uint8 affine per tensor in codes 0 to 127, min-max"),
        ("default_histogram_observer", "uint8 affine per tensor in codes 0 to 127, least squared"),
        ("default_weight_observer", "int8 symmetric per tensor, min-max"),
        ("default_per_channel_weight_observer", "int8 symmetric per channel, min-max"),
        ("default_float_qparams_observer", "uint8 affine per channel with float zero points"),
        ("weight_observer_range_neg_127_to_127", "int8 symmetric per tensor in codes -127 to 127"),
        ("default_fixed_qparams_range_0to1_observer", "fixed at scale 0.00390625, zero point 0"),
        ("default_fixed_qparams_range_neg1to1_observer", "at scale 0.0078125, zero point 128"),
    ],
)
def test_defaults_mean_what_the_reference_says(name, description):
    spec = spec_of(getattr(observers, name))
    assert description in spec.describe()


def test_specs_of_other_factories():
    assert spec_of(None) is None
    assert spec_of(nn.Identity) is None
    assert spec_of(functools.partial(MinMaxObserver, dtype=qint8)).dtype is qint8
    assert spec_of(functools.partial(MinMaxObserver.with_args(dtype=qint8))).dtype is qint8


def make_by_hand():
    return MinMaxObserver()


class Unregistered(MinMaxObserver):
    pass


@pytest.mark.parametrize("factory", [make_by_hand, Unregistered, nn.ReLU, Unregistered.with_args()])
def test_what_is_not_registered_is_named(factory):
    name = getattr(factory, "__name__", "Unregistered")
    with pytest.raises(UnknownNameError, match=f"{name}.*makes no registered observer"):
        spec_of(factory)
    with pytest.raises(UnknownNameError, match=f"{name}.*makes no registered observer"):
        factory_to_dict(factory)


def test_registering():
    @observers.register_observer
    class Registered(MinMaxObserver):
        pass

    assert spec_of(Registered) == spec_of(MinMaxObserver)
    assert observers.registered_observers()["Registered"] is Registered
    with pytest.raises(ArgumentError, match="named MinMaxObserver is already registered"):
        observers.register_observer(type("MinMaxObserver", (MinMaxObserver,), {}))


def test_json_of_arguments():
    factory = PlaceholderObserver.with_args(dtype=torch.float16, qscheme=torch.per_tensor_affine)
    data = factory_to_dict(factory)
    assert data["args"] == {
        "dtype": {"torch": "float16"},
        "qscheme": {"qscheme": "per_tensor_affine"},
    }
    assert factory_from_dict(data)().qscheme is per_tensor_affine
    assert factory_to_dict(MinMaxObserver.with_args(dtype=torch.int8))["args"] == {
        "dtype": {"dtype": "qint8"}
    }
    assert factory_to_dict(functools.partial(MinMaxObserver, reduce_range=True)) == {
        "observer": "MinMaxObserver",
        "args": {"reduce_range": True},
    }
    with pytest.raises(UnsupportedError, match="argument 'eps' has no JSON form"):
        factory_to_dict(MinMaxObserver.with_args(eps=torch.ones(1)))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"observer": "Evil"}, UnknownNameError, "Unknown observer 'Evil'"),
        ({"args": {}}, FormatError, "Not an observer"),
        ({"observer": "MinMaxObserver", "code": 1}, FormatError, "Not an observer"),
        ([1], FormatError, "Not an observer"),
        ({"observer": "MinMaxObserver", "args": {"dtype": [1]}}, FormatError, "Not an argument"),
        ({"observer": "MinMaxObserver", "args": {"a": {"b": 1}}}, FormatError, "Not an argument"),
        (
            {"observer": "MinMaxObserver", "args": {"bins": 4}},
            FormatError,
            "MinMaxObserver does not take these arguments.*bins",
        ),
        (
            {"observer": "MinMaxObserver", "args": {"reduce_range": "x", "eps": "y"}},
            FormatError,
            "does not take these arguments",
        ),
        (
            {"observer": "NoopObserver", "args": {"dtype": {"torch": "load"}}},
            UnknownNameError,
            "floating-point type",
        ),
    ],
)
def test_json_that_is_no_observer(data, error, message):
    with pytest.raises(error, match=message):
        factory_from_dict(data)


@pytest.mark.parametrize(
    "factory",
    [*RANGE, *CHANNEL, *STATS, SpecObserver.with_args(spec=TensorSpec(granularity=PerGroup(5, 2)))],
    ids=lambda factory: getattr(factory, "__name__", "SpecObserver"),
)
def test_state_is_saved_and_loaded(factory):
    observer = observed(factory(), batches())
    file = io.BytesIO()
    torch.save(observer.state_dict(), file)
    file.seek(0)
    loaded = factory()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.qparams().same_as(observer.qparams())
    assert copy.deepcopy(observer).qparams().same_as(observer.qparams())


def test_state_dict_has_the_names_of_the_reference():
    assert list(MinMaxObserver().state_dict()) == ["eps", "min_val", "max_val"]
    assert list(PerChannelMinMaxObserver().state_dict()) == ["eps", "min_val", "max_val"]


def prepared():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].add_module("activation_post_process", HistogramObserver())
    model[1].add_module("activation_post_process", PerChannelMinMaxObserver(1))
    return model


def test_observer_state_of_a_model():
    source, target = prepared(), prepared()
    for module in source:
        module.activation_post_process(torch.randn(3, 4))
    state = get_observer_state_dict(source)
    assert all("activation_post_process" in name for name in state)
    weight = target[0].weight.clone()
    load_observer_state_dict(target, state)
    for a, b in zip(source, target, strict=True):
        assert a.activation_post_process.qparams().same_as(b.activation_post_process.qparams())
    assert torch.equal(target[0].weight, weight)
    state.pop("1.activation_post_process.eps")
    with pytest.raises(FormatError, match=r"differ.*1\.activation_post_process\.eps"):
        load_observer_state_dict(target, state)


def test_observers_show_their_range():
    observer = observed(MinMaxObserver(), [torch.tensor([-1.0, 2.0])])
    assert repr(observer) == "MinMaxObserver(min_val=-1.0, max_val=2.0)"
    assert "scale=tensor([0.5000])" in repr(FixedQParamsObserver(0.5, 0))
    assert "int8 affine" in repr(SpecObserver(TensorSpec(qint8)))


def test_spec_observer_without_data():
    with pytest.raises(UncalibratedError, match="SpecObserver has seen no data"):
        SpecObserver(TensorSpec()).qparams()


def test_gradients_pass_through_and_are_not_kept():
    x = torch.randn(3, requires_grad=True)
    observer = MinMaxObserver()
    observer(x * 2).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    assert not observer.min_val.requires_grad


def test_half_precision_input():
    observer = observed(MinMaxObserver(), [torch.tensor([0.5, -2.0], dtype=torch.bfloat16)])
    assert observer.min_val.dtype == torch.float32
    assert observer.min_val == -2.0


def test_schemes_of_specs():
    assert observers.scheme_of(TensorSpec(granularity=PerGroup(4))) is None
    assert observers.scheme_of(TensorSpec(qint8, True, PerAxis(0))) is per_channel_symmetric
    assert {scheme for cls in (*RANGE, *CHANNEL) for scheme in cls.schemes} == set(QScheme)


def test_partial_of_a_plain_function():
    assert Partial(make_by_hand)().min_val == torch.inf


def test_an_observer_of_ones_own_needs_no_more_than_calculate_qparams():
    class Mine(ObserverBase):
        def forward(self, x):
            return x

        def calculate_qparams(self):
            return torch.tensor([0.25]), torch.tensor([4])

    made = Mine(dtype=quint8)
    assert made.spec.describe().startswith("uint8 affine per tensor")
    assert (made.qparams().scale_value, made.qparams().zero_point_value) == (0.25, 4)

    class Silent(ObserverBase):
        def forward(self, x):
            return x

    with pytest.raises(UnsupportedError, match="Silent says nothing about scale"):
        Silent(dtype=quint8).qparams()


@pytest.mark.parametrize("scheme", ["per_tensor_affine", "per_tensor_symmetric"])
def test_reduce_range_leaves_32_bits_whole_as_the_reference_does(scheme):
    observer = MinMaxObserver(dtype=qint32, qscheme=getattr(qlab, scheme), reduce_range=True)
    assert (observer.quant_min, observer.quant_max) == (-(2**31), 2**31 - 1)
    halved = MinMaxObserver(qint32, reduce_range=True, quant_min=-128, quant_max=127)
    assert (halved.quant_min, halved.quant_max) == (-64, 63)
