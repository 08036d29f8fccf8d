"""A state dict whose tensors do not fit leaves a quantized model as it was."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import qlab
import qlab.nn.quantized as nnq
from qlab import quantization as q
from qlab.errors import StateError
from qlab.nn.quantized.whole import loads_as_a_whole
from qlab.quantization.quantize_fx import convert_fx, convert_to_reference_fx, prepare_fx


def eager(outputs: int, qconfig=q.default_qconfig) -> nn.Module:
    model = q.QuantWrapper(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, outputs))).eval()
    model.qconfig = qconfig
    prepared = q.prepare(model)
    prepared(torch.randn(5, 3) * outputs)
    return q.convert(prepared)


def graph(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, outputs)).eval()
    x = torch.randn(5, 3) * outputs
    prepared = prepare_fx(model, q.get_default_qconfig_mapping(), (x,))
    prepared(x)
    return convert_fx(prepared)


def same(model: nn.Module) -> nn.Module:
    return model


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize(
    ("make", "twin"),
    [
        (eager, same),
        (graph, same),
        (eager, copy.deepcopy),
        (graph, copy.deepcopy),
        (eager, pickled),  # torch.fx keeps no hooks in the pickle of a graph
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(make, twin):
    torch.manual_seed(0)
    model, other, x = twin(make(5)), make(7), torch.randn(2, 3)
    before = copy.deepcopy(model.state_dict())
    y = model(x)
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=r"size mismatch for .*1.weight_codes"):
            model.load_state_dict(other.state_dict(), assign=assign)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(model(x), y)
    model.load_state_dict(make(5).state_dict())
    assert not torch.equal(model(x), y)


def test_other_granularities_of_a_weight_are_forgotten_too():
    torch.manual_seed(0)
    model, x = eager(5), torch.randn(2, 3)
    y = model(x)
    channels = q.QConfig(q.default_observer, q.default_per_channel_weight_observer)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(eager(7, channels).state_dict())
    assert torch.equal(model(x), y)


def prepared(qat: bool) -> nn.Module:
    model = q.QuantWrapper(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))).train(qat)
    model.qconfig = q.get_default_qat_qconfig() if qat else q.get_default_qconfig()
    model = (q.prepare_qat if qat else q.prepare)(model)
    model(torch.randn(5, 3))
    return model


def prepared_graph() -> nn.Module:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).eval(), torch.randn(5, 3)
    made = prepare_fx(model, q.get_default_qconfig_mapping(), (x,))
    made(x)
    return made


MODELS = {
    "eager": lambda: eager(5),
    "graph": lambda: graph(5),
    "dynamic": lambda: q.quantize_dynamic(nn.Sequential(nn.Linear(3, 4)), {nn.Linear}),
    "prepared": lambda: prepared(False),
    "for training": lambda: prepared(True),
    "prepared graph": prepared_graph,
}


def state_of(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model, and the state of another, whose numbers are all different."""
    model = MODELS[name]()
    return model, dict(MODELS[name]().state_dict())


def flat(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A state with what observers keep besides buffers."""
    found = {}
    for key, value in state.items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{name}": part for name, part in inner.items()}
    return found


def refused(model: nn.Module, state: dict[str, Any], message: str, strict: bool = True) -> None:
    before, shown = copy.deepcopy(model.state_dict()), repr(model)
    for assign in (False, True):
        with pytest.raises(StateError, match=f"stays as it was: .*{message}"):
            model.load_state_dict(state, strict=strict, assign=assign)
        after = flat(model.state_dict())
        assert list(flat(before)) == list(after) and repr(model) == shown
        for key, value in flat(before).items():
            torch.testing.assert_close(after[key], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", MODELS)
def test_keys_that_miss_or_are_too_many_change_nothing(name: str):
    model, state = state_of(name)
    first, last = next(iter(state)), list(state)[-1]
    refused(model, {k: v for k, v in state.items() if k != last}, f"{last}: missing")
    refused(model, {**state, "more.weight": torch.ones(1)}, "more.weight: unexpected")
    loaded = model.load_state_dict({first: state[first], "more": torch.ones(1)}, strict=False)
    assert last in loaded.missing_keys and loaded.unexpected_keys == ["more"]
    assert torch.equal(model.state_dict()[first], state[first])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_tensor_changes_nothing(name: str, strict: bool):
    model, state = state_of(name)
    last = list(state)[-1]
    refused(
        model, {**state, last: "0.5"}, rf"{last}: (not a tensor but a str|.*Received str)", strict
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("value", [0.0, -1.0, torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["eager", "graph", "dynamic", "for training"])
def test_a_scale_that_means_nothing_changes_nothing(name: str, value: float, strict: bool):
    model, state = state_of(name)
    for key in [key for key in state if key.rpartition(".")[2].endswith("scale")]:
        wrong = {**state, key: torch.full_like(state[key], value)}
        refused(model, wrong, key.replace(".", r"\."), strict)
    model.load_state_dict(state)


@pytest.mark.parametrize("name", ["eager", "graph", "dynamic"])
def test_a_zero_point_that_is_no_code_changes_nothing(name: str):
    model, state = state_of(name)
    for key in [key for key in state if key.endswith("zero_point")]:
        refused(model, {**state, key: torch.full_like(state[key], 999)}, "zero.point")


def test_a_weight_of_a_type_that_holds_no_codes_changes_nothing():
    model, state = state_of("eager")
    key = "module.0.weight_codes"
    refused(model, {**state, key: state[key].double()}, key)


def test_a_scale_that_became_invalid_is_loaded_over():
    model, state = state_of("eager")
    layer, x = model.module[0], torch.randn(2, 3)
    layer.weight_scale.zero_()
    layer._cache.clear()
    model.load_state_dict(state)
    assert model(x).isfinite().all()


def test_a_model_without_calibration_loads_what_it_saved():
    model = q.QuantWrapper(nn.Linear(3, 4)).eval()
    model.qconfig = q.default_qconfig
    with pytest.warns(UserWarning, match="no calibration data reached"):
        blank = q.convert(q.prepare(model))
    blank.load_state_dict(blank.state_dict())
    assert bool(blank.module.scale.isnan())


def test_a_part_of_a_model_stays_too_and_the_whole_says_why():
    whole = nn.ModuleDict({"a": eager(5)})
    state = {f"a.{key}": value for key, value in eager(5).state_dict().items()}
    before = copy.deepcopy(whole.state_dict())
    state["a.module.1.scale"] = torch.tensor(0.0)
    with pytest.raises(RuntimeError, match=r"a\.module\.1\.scale.*positive"):
        whole.load_state_dict(state)
    assert all(torch.equal(before[key], value) for key, value in whole.state_dict().items())


def test_reference_modules_refuse_other_forms_as_a_whole():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).eval(), torch.randn(5, 3)
    made = prepare_fx(model, q.get_default_qconfig_mapping(), (x,))
    made(x)
    model = convert_to_reference_fx(made)
    state = {key: value + 1 for key, value in model.state_dict().items() if "extra" not in key}
    state["1._extra_state"] = {"other": 1}
    before = copy.deepcopy(flat(model.state_dict()))
    with pytest.raises(StateError, match=r"1\._extra_state: .*about other weights"):
        model.load_state_dict(state)
    for key, value in flat(model.state_dict()).items():
        assert value == before[key] if isinstance(value, dict) else value.equal(before[key])


def test_hooks_are_registered_once():
    model = loads_as_a_whole(eager(5))
    assert len(model._load_state_dict_pre_hooks) == len(model._load_state_dict_post_hooks) == 1


def of_a_code(value):
    return lambda held: torch.full_like(held, value, dtype=torch.int32)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("1.weight_codes", of_a_code(1000), "codes are torch.int8 here, and torch.int32"),
        ("1.weight_codes", lambda held: held.float() + 0.5, "torch.int8 here, and torch.float32"),
        ("1.weight_codes", lambda held: held.double(), "torch.int8 here, and torch.float64"),
        ("1.weight_codes", lambda held: held.bool(), "torch.int8 here, and torch.bool"),
        ("1.zero_point", lambda _: torch.tensor(1.5), "a zero point is a whole number"),
        ("1.zero_point", lambda _: torch.tensor(7.9), "a zero point is a whole number"),
        ("1.zero_point", lambda _: torch.tensor(2**32 + 5), "a zero point is a whole number"),
        ("1.zero_point", lambda _: torch.tensor(torch.nan), "a zero point is a whole number"),
        ("1.weight_zero_point", lambda held: held + 0.25, "a zero point is a whole number"),
        ("1.bias_float", lambda held: torch.full_like(held, torch.nan), "not finite real"),
        ("1.bias_float", lambda held: torch.full_like(held, torch.inf), "not finite real"),
    ],
)
@pytest.mark.parametrize("make", [eager, graph])
def test_values_that_would_be_rounded_or_mean_nothing_change_nothing(make, key, change, message):
    torch.manual_seed(0)
    model, x = make(5), torch.randn(2, 3)
    y, state = model(x), copy.deepcopy(model.state_dict())
    name = next(name for name in state if name.endswith(key))
    for assign in (False, True):
        wrong = {**state, name: change(state[name])}
        with pytest.raises(StateError, match=f"{name}: .*{message}"):
            model.load_state_dict(wrong, assign=assign)
        after = model.state_dict()
        assert all(after[k].dtype == state[k].dtype for k in state)
        assert all(torch.equal(after[k], state[k]) for k in state)
        assert torch.equal(model(x), y)


def test_codes_outside_the_range_of_a_table_change_nothing():
    table = nnq.Embedding(4, 6, dtype=qlab.quint4x2)
    state = copy.deepcopy(table.state_dict())
    codes = torch.full_like(state["weight_codes"], 16)
    with pytest.raises(StateError, match=r"codes lie in \[0, 15\] here, in the state 16 to 16"):
        table.load_state_dict({**state, "weight_codes": codes})
    assert torch.equal(table.get_buffer("weight_codes"), state["weight_codes"])
    table.load_state_dict({**state, "weight_codes": codes - 1})
    assert torch.equal(table.get_buffer("weight_codes"), codes - 1)


def test_a_whole_zero_point_of_any_type_loads():
    model = eager(5)
    state = dict(model.state_dict())
    model.load_state_dict({**state, "module.1.zero_point": torch.tensor(3.0)})
    assert model.module[1].zero_point == 3
    assert model.module[1].zero_point.dtype == torch.int32
