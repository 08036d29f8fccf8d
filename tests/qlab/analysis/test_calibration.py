"""Calibration: once over the data, on from where it stopped, more data merged, nothing infinite."""

import math
import pickle
import resource
from dataclasses import replace

import pytest
import torch
from torch import nn

import qlab
import sample_models
from qlab.analysis.calibration import Calibration
from qlab.counting import load
from qlab.errors import ArgumentError, DTypeError, NonFiniteError, UnfinishedError


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def _batches(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 6, generator=generator) * (i + 1) for i in range(count)]


def _lab(data, model: nn.Module | None = None) -> qlab.Lab:
    return qlab.Lab(model or _model(), torch.zeros(1, 6), data)


class Lazy:
    """Batches that exist only while they are read; counts how many were."""

    def __init__(self, count: int, shape: tuple[int, ...] = (4, 6)) -> None:
        self.count, self.shape, self.read = count, shape, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        for i in range(self.count):
            self.read += 1
            yield torch.randn(self.shape, generator=torch.Generator().manual_seed(i))


def test_a_stopped_pass_goes_on_to_the_result_of_an_uninterrupted_one():
    data = _batches(7)
    whole = _lab(data).calibrate()
    lab, done = _lab(data), []
    for stop in (2, 5):
        part = lab.calibrate(lambda *p: done.append(p[:2]), lambda stop=stop: len(done) == stop)
        assert (part.batches, part.complete) == (stop, False)
    assert lab.calibrate(lambda *p: done.append(p[:2])) == whole
    assert done == [(i, 7) for i in range(1, 8)]


@pytest.mark.parametrize("ask", ["compare", "sensitivity", "fidelity"])
def test_a_question_after_a_stopped_calibration_sees_the_rest_of_the_data_first(ask):
    lab = _lab(_batches(7))
    assert not getattr(lab, ask)(should_stop=lambda: True).complete
    assert lab.calibrated.batches == 1
    assert getattr(lab, ask)().complete
    assert lab.calibrated.complete
    assert lab.calibrated == _lab(_batches(7)).calibrate()


class FailsOnce:
    """A loader of unknown length, which fails at batch 3 of the first ``passes`` passes."""

    def __init__(self, data, passes: int) -> None:
        self.data, self.passes = data, passes

    def __iter__(self):
        self.passes -= 1
        for index, batch in enumerate(self.data):
            if index == 3 and self.passes >= 0:
                raise OSError("disk")
            yield batch


def test_a_loader_of_unknown_length_that_fails_leaves_what_was_seen():
    lab = _lab(FailsOnce(_batches(7), 1))
    with pytest.raises(UnfinishedError, match=r"Batch 3 .*OSError: disk.*calibrate\(\) goes on"):
        lab.calibrate()
    assert (lab.calibrated.batches, lab.calibrated.complete) == (3, False)
    assert lab.calibrate() == _lab(_batches(7)).calibrate()


def test_a_stop_is_one_where_the_number_of_batches_is_not_known():
    lab, done = _lab(FailsOnce(_batches(7), 1)), []
    part = lab.calibrate(lambda *p: done.append(p[:2]), lambda: len(done) == 3)
    assert (part.batches, part.complete) == (3, False)
    assert done == [(1, 1), (2, 2), (3, 3)]
    assert lab.calibrate().batches == 7


@pytest.mark.parametrize("ask", ["calibrate", "compare", "sensitivity", "fidelity", "latency"])
@pytest.mark.parametrize("hook", ["on_progress", "should_stop"])
def test_a_hook_that_cannot_be_called_is_refused_before_anything_runs(ask, hook):
    lab = _lab(data := Lazy(3))
    with pytest.raises(DTypeError, match=f"{hook} cannot be called.*a function of .*True"):
        getattr(lab, ask)(**{hook: True})
    assert lab.calibrated is None and not data.read


def test_added_data_is_merged_and_only_it_is_run():
    first, more = _batches(3), Lazy(4)
    lab = _lab(first)
    before, scale = lab.calibrate(), lab.qparams("0", qlab.TensorSpec())
    converted = lab.convert()
    done = []
    after = lab.add_data(more, lambda *p: done.append(p[:2]))
    assert done == [(4, 7), (5, 7), (6, 7), (7, 7)]
    assert more.read == 4
    whole = _lab([*first, *Lazy(4)]).calibrate()
    assert after == replace(whole, seen=(3, 4))
    assert (before.batches, before.samples) == (3, 12)
    assert before.statistics["_0"].count * 7 == after.statistics["_0"].count * 3
    lab.add_data([torch.full((1, 6), 100.0)])
    assert not lab.qparams("0", qlab.TensorSpec()).same_as(scale)
    x = torch.full((1, 6), 50.0)
    assert not torch.equal(lab.convert()(x), converted(x))


def test_a_lab_with_more_data_leaves_the_one_it_came_from():
    lab, more = _lab(_batches(3)), Lazy(4)
    before, scale = lab.calibrate(), lab.qparams("0", qlab.TensorSpec())
    converted = lab.convert()
    grown = lab.with_data(more)
    assert more.read == 4
    assert grown.calibrated == replace(_lab([*_batches(3), *Lazy(4)]).calibrate(), seen=(3, 4))
    assert lab.calibrated is before and lab.calibrate() is before
    assert lab.qparams("0", qlab.TensorSpec()).same_as(scale)
    x = torch.full((1, 6), 50.0)
    assert torch.equal(lab.convert()(x), converted(x))
    assert not torch.equal(grown.convert()(x), converted(x))
    wide = grown.with_data([torch.full((1, 6), 100.0)])
    assert not wide.qparams("0", qlab.TensorSpec()).same_as(scale)
    assert grown.subject == lab.subject and grown.runs is lab.runs
    part = lab.with_data(Lazy(4), should_stop=lambda: True)
    assert part.calibrated is not None and part.calibrated.seen == (3, 1)
    assert part.calibrate() == grown.calibrated


def test_added_data_that_was_stopped_is_gone_on_with():
    lab = _lab(_batches(2))
    lab.calibrate()
    part = lab.add_data(_batches(3, seed=1), should_stop=lambda: True)
    assert (part.batches, part.complete, part.seen) == (3, False, (2, 1))
    assert (
        lab.calibrate().statistics == _lab(_batches(2) + _batches(3, seed=1)).calibrate().statistics
    )


def test_data_added_first_follows_the_calibration_data():
    lab = _lab(_batches(2))
    assert lab.add_data(_batches(1, seed=1)).batches == 3


def test_calibrations_of_two_processes_merge():
    data = _batches(6)
    parts = [_lab(data[:2]).calibrate(), _lab(data[2:]).calibrate()]
    merged = parts[0].merge(parts[1])
    whole = _lab(data).calibrate()
    assert merged.statistics == whole.statistics
    assert (merged.batches, merged.samples, merged.complete) == (6, 24, True)
    assert parts[1].batches == 4
    assert Calibration(complete=True).merge(parts[0]).statistics == parts[0].statistics
    assert parts[0].merge(Calibration(complete=True)).statistics == parts[0].statistics
    other_way = parts[1].merge(parts[0])
    for node, stats in whole.statistics.items():
        assert torch.equal(stats.histogram().counts, other_way.statistics[node].histogram().counts)


def test_a_lab_takes_in_what_another_saw():
    data = _batches(6)
    lab = _lab(data[:2])
    merged = lab.merge(_lab(data[2:]).calibrate())
    assert merged.statistics == _lab(data).calibrate().statistics
    assert lab.calibrate() is merged
    with pytest.raises(ArgumentError, match="different models do not merge"):
        lab.merge(_lab(data, nn.Sequential(nn.Linear(6, 2))).calibrate())


def test_another_model_of_the_same_names_is_refused():
    data = _batches(4)
    lab, same = _lab(data[:2]), _lab(data[2:]).calibrate()
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    nudged, leaky = _model(), nn.Sequential(*_model())
    with torch.no_grad():
        nudged[2].weight[1, 2] += 1e-3
    leaky[1] = nn.LeakyReLU()
    before = lab.calibrate()
    for model in (other, nudged):
        with pytest.raises(ArgumentError, match=r"different models do not merge.*other weights"):
            lab.merge(_lab(data[2:], model.eval()).calibrate())
    with pytest.raises(ArgumentError, match="different models do not merge"):
        lab.merge(_lab(data[2:], leaky.eval()).calibrate())
    assert lab.calibrated is before
    sent = pickle.loads(pickle.dumps(same))  # as a worker process returns it
    assert lab.merge(sent).batches == 4
    old = replace(_lab(_batches(2, 1)).calibrate(), model="")  # of an older version
    assert lab.merge(old).batches == 6


def test_data_that_was_seen_is_not_merged_again():
    data, refused = _batches(6), pytest.raises(ArgumentError, match=r"saw the same data.*twice")
    lab, other = _lab(data[:2]), _lab(data[2:4]).calibrate()
    own = lab.calibrate()
    merged = lab.merge(other)
    more = lab.with_data(data[4:])
    twins = pickle.loads(pickle.dumps((own, other, merged)))
    for seen in (own, other, merged, *twins, _lab(data[:2]).calibrate(), more.calibrated):
        with refused:
            lab.merge(seen)
    for seen in (own, other, merged):
        with refused:
            more.merge(seen)
    with refused:
        other.merge(merged)
    assert lab.calibrated is merged and merged.batches == 4
    assert lab.merge(_lab(data[4:]).calibrate()).statistics == _lab(data).calibrate().statistics


def test_a_calibration_that_nothing_was_added_to_merges():
    data = _batches(4)
    lab = _lab(data[:2])
    lab.calibrate(should_stop=lambda: True)
    lab.calibrate()
    lab.calibrate()
    assert lab.merge(_lab(data[2:]).calibrate()).batches == 4


class Divides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.second(self.first(x) * 1e38 * 1e38)


class Masks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("mask", torch.zeros(6).index_fill(0, torch.tensor([5]), -math.inf))

    def forward(self, x):
        scores = self.linear(x) + self.mask
        return torch.softmax(scores.masked_fill(scores < 0, -math.inf), -1)


def test_infinity_names_the_first_layer_that_makes_it_of_finite_numbers():
    with pytest.raises(NonFiniteError, match=r"Infinity .* first layer that produces it is 'mul"):
        _lab(_batches(2), Divides()).calibrate()


def test_infinity_that_was_put_there_is_counted_and_left_out():
    lab = _lab([torch.rand(4, 6)], Masks())
    statistics = lab.calibrate().statistics
    last = list(statistics)[-1]
    assert "softmax" in last
    assert statistics[last].inf_count == 0
    masked = [node for node, stats in statistics.items() if stats.inf_count]
    assert len(masked) >= 3
    assert all(statistics[node].max_val.isfinite() for node in masked)


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (-math.inf, "Infinity")])
def test_what_is_not_finite_in_the_data_names_batch_and_input(value, word):
    data = _batches(3)
    data[2][1, 2] = value
    lab = _lab(data)
    with pytest.raises(NonFiniteError, match=rf"{word} in the data: batch 2 .* input 'input'"):
        lab.calibrate()
    assert lab.calibrated is None


def test_data_that_is_not_finite_leaves_the_lab_as_it_was():
    lab = _lab(_batches(3))
    before = lab.calibrate()
    with pytest.raises(NonFiniteError, match="NaN in the data: batch 4"):
        lab.add_data([torch.ones(2, 6), torch.full((2, 6), math.nan)])
    assert lab.calibrated is before
    assert before == _lab(_batches(3)).calibrate()
    assert lab.add_data(_batches(1, seed=1)).seen == (3, 1)


def test_five_hundred_batches_leave_memory_flat():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
    shape = (8, 3, 32, 32)
    model(torch.zeros(shape))
    lab, peaks = qlab.Lab(model, torch.zeros(shape), Lazy(500, shape)), []
    load()  # the compiled counting, which takes 100 MiB once, whatever there is to count

    def note(done: int, total: int, label: str) -> None:
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    assert lab.calibrate(note).batches == 500
    # All batches together are 47 MiB, their first convolution's outputs 110 MiB.
    assert peaks[-1] - peaks[49] < 8 * 1024  # KiB


def test_batches_may_be_dicts_of_the_model_s_arguments():
    data = _batches(2)
    by_name = [{"labels": [0] * 4, "input": x} for x in data]
    assert _lab(by_name).calibrate() == _lab(data).calibrate()


def test_stops_within_one_batch():
    data = Lazy(50)
    lab = _lab(data)
    lab.calibrate(should_stop=lambda: data.read >= 10)
    assert data.read == 10
    assert lab.calibrated.batches == 10


def test_sample_models_have_statistics_of_every_observed_tensor():
    sample = sample_models.load("residual")
    lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(32))
    lab.calibrate()
    observed = {value.node for value in lab.plan().values if value.observed}
    assert observed <= lab.calibrated.statistics.keys()


class Transposes(nn.Module):
    """Has the samples along axis 1 of four, where images have their channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 6)
        self.out = nn.Linear(2, 2)

    def forward(self, x):
        x = self.fc(x).unflatten(-1, (3, 2)).permute(2, 0, 1, 3)
        return self.out(torch.sigmoid(x)).permute(1, 2, 0, 3)


def test_batches_of_other_sizes_where_channels_were_taken_to_be():
    data = torch.randn(11, 5, 4, generator=torch.Generator().manual_seed(1))
    lab = qlab.Lab(Transposes().eval(), data[:1], list(data.split(4)))
    whole = qlab.Lab(Transposes().eval(), data[:1], [data])
    assert lab.calibrate().samples == 11
    for layer in lab.layers:
        mine, other = lab.statistics(layer.name), whole.statistics(layer.name)
        assert (mine.min_val, mine.max_val) == (other.min_val, other.max_val)
        assert mine.count == other.count
    assert lab.statistics("sigmoid").channel_axis is None
    assert lab.statistics("fc").channels == 6
    table, expected = lab.channels("sigmoid"), whole.channels("sigmoid")
    assert len(table) == 1 and len(expected) == 11
    assert table["max_abs"].iloc[0] == pytest.approx(expected["max_abs"].max(), rel=1e-4)


def test_calibrations_merge_where_channels_were_none():
    data = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(1))
    parts = [qlab.Lab(Transposes().eval(), data[:1], [part]) for part in data.split(4)]
    merged = parts[0].calibrate().merge(parts[1].calibrate()).statistics
    assert merged["sigmoid"].channel_axis is None and merged["fc"].channels == 6
    same = qlab.Lab(Transposes().eval(), data[:1], [data[:4] + 1])
    again = parts[0].calibrate().merge(same.calibrate()).statistics
    assert again["sigmoid"].channels == 4
