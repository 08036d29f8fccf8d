import functools
import math
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.analysis.networks import Networks, places_of
from qlab.analysis.sensitivity import MEASURING, kept_in_float, rank_correlation
from qlab.errors import ArgumentError, NonFiniteError, UnknownNameError
from qlab.execution import Program
from qlab.qconfig import QConfigMapping

CONFIGS = ("int8", "int4-weights")


def make_lab(name, **options):
    sample = sample_models.load(name)
    data = sample.evaluation(64)[:2]
    return qlab.Lab(sample.model, sample.example_inputs, sample.calibration(64), data, **options)


lab_for = functools.cache(make_lab)


def measuring(seen):
    """Keeps the progress of measuring, which follows that of calibrating and preparing."""
    return lambda *progress: seen.append(progress) if progress[2] == MEASURING else None


@functools.cache
def measured(name):
    return lab_for(name).sensitivity(CONFIGS)


def test_on_is_the_float_network_with_one_layer_as_deployed():
    lab, table = lab_for("residual"), measured("residual").table
    networks = Networks(lab.graph, lab.convert(), lab.plan())
    program = Program.of(lab.graph)
    places = list(places_of(networks))
    assert [place.step.name for place in places] == list(table.xs("int8", level="config").index)
    for place in places:
        noise, signal = 0.0, 0.0
        for images, _ in sample_models.load("residual").evaluation(64)[:2]:
            values = program.bind((images,))
            with torch.no_grad():
                for instruction in program.instructions[1:]:
                    value = instruction.run(values)
                    if instruction.name == place.step.node:
                        value = place.layer.run([values[name] for name in place.inputs])
                    values[instruction.name] = value
                expected = lab.graph(images)
            noise += (expected - values[program.output]).double().square().sum().item()
            signal += expected.double().square().sum().item()
        row = table.loc[(place.step.name, "int8")]
        assert row.noise_on == pytest.approx(noise, rel=1e-4)
        assert row.sqnr_on == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)


@pytest.mark.parametrize("name", ["residual", "norms"])
def test_off_is_what_a_rule_that_keeps_the_layer_in_float_gives(name):
    lab, found = lab_for(name), measured(name)
    for layer, config in found.table.index:
        mapping = qlab.presets.get(config).mapping().set_module_name(layer, None)
        output = lab.compare(mapping).output
        row = found.table.loc[(layer, config)]
        assert row.sqnr_off == output["sqnr"], layer
        assert row.accuracy_off == output["accuracy"]
    for config in CONFIGS:
        output = lab.compare(config).output
        assert found.whole.loc[config].tolist()[1:] == [output["sqnr"], output["accuracy"]]


def test_four_bits_cost_more_than_eight_and_all_layers_more_than_one():
    found = measured("depthwise")
    by_config = found.table.noise_on.unstack("config")
    weighted = [name for name in by_config.index if "add" not in name]
    assert (by_config.loc[weighted, "int4-weights"] > by_config.loc[weighted, "int8"]).all()
    assert found.whole.noise["int8"] > by_config["int8"].max()
    assert (found.metric, found.samples, found.complete) == ("accuracy", 128, True)
    assert found.float_accuracy == lab_for("depthwise").compare().output["float_accuracy"]


@pytest.mark.parametrize("name", sample_models.names(trained=True))
def test_the_estimate_ranks_the_layers_as_the_measurement_does(name):
    found = lab_for(name).sensitivity(CONFIGS, ways=("on", "estimate"))
    assert found.rank_correlation > 0.9
    assert (found.table.sqnr_estimate - found.table.sqnr_on).abs().median() < 1.5


def test_the_estimate_is_exact_where_the_network_is_linear_with_one_output():
    torch.manual_seed(0)
    x = torch.randn(32, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 1))
    table = qlab.Lab(model, x, [x]).sensitivity().table
    ratio = table.noise_estimate / table.noise_on
    assert ratio.tolist() == pytest.approx([1.0] * 3, rel=1e-3)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_results_do_not_depend_on_the_executor(kind):
    with kind(2) as executor:
        found = lab_for("norms").sensitivity(CONFIGS, executor=executor)
    pd.testing.assert_frame_equal(found.table, measured("norms").table, check_exact=True)
    pd.testing.assert_frame_equal(found.whole, measured("norms").whole, check_exact=True)
    assert found.rank_correlation == measured("norms").rank_correlation


@pytest.mark.parametrize("budget", [0, 200_000])
def test_results_do_not_depend_on_the_memory_budget(budget):
    found = make_lab("residual", memory_budget=budget).sensitivity(CONFIGS)
    pd.testing.assert_frame_equal(found.table, measured("residual").table, check_exact=True)


def test_equal_layers_of_two_candidates_are_measured_once():
    lab, seen = lab_for("mlp"), []
    lab.calibrate()
    mapping = qlab.presets.get("int8").mapping()
    other = mapping.copy().set_module_name("fc1", None)
    for candidates in ([mapping], [mapping, mapping.copy()], {"all": mapping, "less": other}):
        found = lab.sensitivity(candidates, ways=("on",), on_progress=measuring(seen))
    assert {total for _, total, _ in seen} == {6}
    one, less = (found.table.xs(name, level="config") for name in ("all", "less"))
    assert "fc1" not in less.index
    pd.testing.assert_frame_equal(less, one.loc[less.index])


@pytest.mark.parametrize("threads", [0, 2])
def test_it_stops_within_a_batch_and_keeps_what_it_had(threads):
    seen, each = [], len(measured("vit").table) // 2
    options = {
        "ways": ("on",),
        "on_progress": measuring(seen),
        "should_stop": lambda: len(seen) >= 3,
    }
    if threads:
        with ThreadPoolExecutor(threads) as executor:
            found = lab_for("vit").sensitivity(executor=executor, **options)
    else:
        found = lab_for("vit").sensitivity(**options)
    assert not found.complete
    assert found.samples == 64
    assert len(found.table) == each
    assert 3 <= found.table.noise_on.notna().sum() < each
    assert [done for done, *_ in seen] == list(range(1, len(seen) + 1))


def test_a_stop_while_it_calibrates_first_is_heard_there():
    lab, seen = make_lab("mlp"), []
    found = lab.sensitivity(
        ways=("on",), on_progress=lambda *p: seen.append(p), should_stop=lambda: True
    )
    assert [label for *_, label in seen] == ["calibrating"]
    assert not lab.calibrated.complete
    assert (found.complete, found.samples) == (False, 0)
    assert len(found.table) == 3 and found.table.noise_on.isna().all()


def test_a_stop_between_batches_gives_the_finished_ones():
    lab, seen = lab_for("mlp"), []
    whole = lab.sensitivity(ways=("on",), on_progress=measuring(seen))
    each = seen[-1][1] // 2
    seen.clear()
    found = lab.sensitivity(
        ways=("on",),
        on_progress=measuring(seen),
        should_stop=lambda: len(seen) == each + 1,
    )
    assert (found.complete, found.samples, whole.samples) == (False, 64, 128)
    assert (found.table.noise_on < whole.table.noise_on).all()


def test_what_was_stopped_goes_on_where_it_was_and_ends_the_same():
    lab, seen, again = make_lab("residual"), [], []
    lab.calibrate()
    stopped = lab.sensitivity(
        CONFIGS, on_progress=measuring(seen), should_stop=lambda: len(seen) == 7
    )
    assert not stopped.complete
    found = lab.sensitivity(CONFIGS, since=stopped, on_progress=measuring(again))
    assert again[0][0] == 8 and again[-1][0] == again[-1][1] == 7 + len(again)
    whole = measured("residual")
    assert found.complete and found.samples == whole.samples
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    pd.testing.assert_frame_equal(found.whole, whole.whole, check_exact=True)


def test_the_measurement_goes_on_from_the_estimate_alone():
    lab, seen = make_lab("mlp"), []
    estimate = lab.sensitivity("int8", ways=("estimate",))
    found = lab.sensitivity("int8", since=estimate, on_progress=measuring(seen))
    assert seen[0][0] == 3  # two batches were estimated
    pd.testing.assert_series_equal(
        found.table.noise_estimate, estimate.table.noise_estimate, check_exact=True
    )
    assert found.table.notna().all(axis=None) and found.rank_correlation is not None
    less = lab.sensitivity("int8", ways=("on",), since=found)
    assert less.samples == found.samples
    pd.testing.assert_series_equal(less.table.noise_on, found.table.noise_on, check_exact=True)


@pytest.mark.parametrize("other", ["candidates", "ways", "statistics"])
def test_an_answer_to_another_question_is_not_gone_on_from(other):
    lab, seen = make_lab("mlp"), []
    stopped = lab.sensitivity(
        "int8", ways=("on",), on_progress=measuring(seen), should_stop=lambda: bool(seen)
    )
    assert not stopped.complete and len(seen) == 1
    seen.clear()
    asked = {"mappings": "int8", "ways": ("on",), "since": stopped}
    if other == "statistics":
        lab.add_data([torch.zeros(4, 1, 8, 8)])
    else:
        asked |= {"mappings": "int4-weights"} if other == "candidates" else {"ways": ("off",)}
    lab.sensitivity(**asked, on_progress=measuring(seen))
    assert seen[0][0] == 1


def test_without_labels_the_metric_is_the_output_sqnr():
    x = torch.randn(32, 6)
    found = qlab.Lab(nn.Sequential(nn.Linear(6, 3)), x, [x]).sensitivity()
    assert (found.metric, found.float_accuracy, found.rank_correlation) == ("sqnr", None, None)
    assert list(found.table) == [
        "noise_on", "sqnr_on", "noise_off", "sqnr_off", "noise_estimate", "sqnr_estimate"
    ]  # fmt: skip
    assert found.table.sqnr_off.tolist() == [math.inf]


def test_a_layer_that_does_not_reach_the_output_costs_nothing():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.one(x), self.two(x).argmax(-1)

    x = torch.randn(32, 6)
    table = qlab.Lab(Unused(), x, [x]).sensitivity().table.droplevel("config")
    assert table.noise_estimate["two"] == table.noise_on["two"] == 0
    assert table.noise_on["one"] > 0


def test_the_frame_for_people_starts_with_the_most_sensitive_layer():
    for ways in (("on",), ("estimate",)):
        frame = lab_for("mlp").sensitivity(ways=ways).to_frame()
        assert list(frame)[:2] == ["layer", "config"]
        assert frame[f"noise_{ways[0]}"].is_monotonic_decreasing
    frame = lab_for("mlp").sensitivity(ways=("off",)).to_frame()
    assert frame.noise_off.is_monotonic_increasing


def test_a_rule_for_one_call_is_overruled_too():
    lab = lab_for("residual")
    int8 = qlab.presets.get("int8").mapping()
    layer = next(layer for layer in lab.layers if layer.type == "Conv2d")
    scope = layer.name.rpartition(".")[0]
    mapping = int8.copy().set_module_name_object_type_order(
        scope, nn.Conv2d, 0, int8.global_qconfig
    )
    step = lab.plan(mapping).step(layer.name)
    assert "Conv2d" in step.rule
    kept = lab.plan(kept_in_float(mapping, step)).step(layer.name)
    assert (kept.weight, kept.output) == (None, None)
    assert lab.plan(mapping).step(layer.name).quantized


def test_nothing_to_measure_is_refused():
    lab = lab_for("mlp")
    with pytest.raises(UnknownNameError, match="Unknown way to measure sensitivity 'around'"):
        lab.sensitivity(ways=("around",))
    with pytest.raises(ArgumentError, match=r"nothing to measure.*at least one configuration"):
        lab.sensitivity({})
    with pytest.raises(ArgumentError, match="nothing to measure"):
        lab.sensitivity(ways=())
    with pytest.raises(UnknownNameError, match="int7"):
        lab.sensitivity(["int8", "int7"])
    with pytest.raises(ArgumentError, match="memory budget is a number of bytes"):
        make_lab("mlp", memory_budget=-1)


def test_a_mapping_that_quantizes_nothing_gives_no_rows():
    found = lab_for("mlp").sensitivity({"float": QConfigMapping()})
    assert found.table.empty
    assert found.whole.sqnr.tolist() == [math.inf]


def test_an_error_in_a_worker_comes_through():
    x = torch.randn(8, 6)
    lab = qlab.Lab(nn.Linear(6, 3), x, [x], [torch.full((8, 6), math.nan)])
    with ThreadPoolExecutor(1) as executor, pytest.raises(NonFiniteError):
        lab.sensitivity(executor=executor)


def test_work_is_pickled_once_and_kept_where_it_arrives():
    captured = []

    class Recording(ThreadPoolExecutor):
        def submit(self, fn, task):
            captured.append(task.work)
            return super().submit(fn, task)

    with Recording(1) as executor:
        lab_for("mlp").sensitivity(executor=executor)
    data = pickle.dumps(captured[0])
    assert pickle.loads(data) is pickle.loads(pickle.dumps(captured[0]))
    assert pickle.loads(data) is not captured[0]


def test_the_rank_correlation_is_that_of_spearman():
    table = pd.DataFrame(
        {"noise_on": [1.0, 2.0, 3.0, 4.0], "noise_estimate": [1.0, 30.0, 2.0, 400.0]}
    )
    assert rank_correlation(table) == pytest.approx(0.8)
    assert rank_correlation(table.head(1)) is None
    assert rank_correlation(table[["noise_on"]]) is None
