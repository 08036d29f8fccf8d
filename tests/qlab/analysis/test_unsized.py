"""Loaders that do not say how many batches they have, endless ones among them."""

import functools
import itertools

import pandas as pd
import pytest
from torch.utils.data import DataLoader, IterableDataset

import qlab
from qlab.analysis.sensitivity import MEASURING
from qlab.execution import Program, RunStore
from tests.qlab.analysis.test_hooked import BATCHES, Loops, core


class Unsized:
    """Batches without a length; endless where told so."""

    def __init__(self, batches, endless=False):
        self.batches, self.endless, self.read = batches, endless, 0

    def __iter__(self):
        for batch in itertools.cycle(self.batches) if self.endless else self.batches:
            self.read += 1
            assert self.read < 99, "read on and on"
            yield batch


def after(count):
    """A stop that is asked for at the nth question."""
    asked = itertools.count(1)
    return lambda: next(asked) >= count


@functools.cache
def model_of(graph):
    return core() if graph else Loops().eval()


def lab_of(graph, data, evaluation=None):
    return qlab.Lab(model_of(graph), BATCHES[0], data, evaluation)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("endless", [True, False])
def test_calibration_reads_no_more_than_until_the_stop(graph, stop, endless):
    data, told = Unsized(BATCHES, endless), []
    lab = lab_of(graph, data)
    found = lab.calibrate(lambda *p: told.append(p), after(stop))
    assert (found.batches, found.complete) == (stop, False)
    assert data.read <= stop + 1
    assert told == [(n, n, "calibrating") for n in range(1, stop + 1)]


@pytest.mark.parametrize(
    ("ask", "graph"), [("compare", True), ("compare", False), ("fidelity", True)]
)
def test_a_comparison_reads_no_more_than_until_the_stop(ask, graph):
    data, told = Unsized(BATCHES, endless=True), []
    lab = lab_of(graph, BATCHES, data)
    lab.calibrate()
    found = getattr(lab, ask)(on_progress=lambda *p: told.append(p[:2]), should_stop=after(2))
    assert not found.complete and found.samples == sum(map(len, BATCHES[:2]))
    assert data.read <= 3 and told == [(1, 1), (2, 2)]


@pytest.mark.parametrize("graph", [True, False])
def test_sensitivity_reads_no_more_than_until_the_stop(graph):
    data, told = Unsized(BATCHES, endless=True), []
    lab = lab_of(graph, BATCHES, data)
    lab.calibrate()

    def begun():
        return bool(told) and told[-1][2] == MEASURING

    found = lab.sensitivity(on_progress=lambda *p: told.append(p), should_stop=begun)
    assert not found.complete and data.read <= 2
    assert all(done <= total for done, total, _ in told)


@pytest.mark.parametrize("graph", [True, False])
def test_the_answers_are_those_of_a_loader_that_says_its_length(graph):
    data, evaluation = Unsized(BATCHES), Unsized(BATCHES)
    lab, same = lab_of(graph, data, evaluation), lab_of(graph, BATCHES, [*BATCHES])
    assert lab.calibrate().complete and data.read == len(BATCHES)
    assert lab.calibrated.statistics == same.calibrate().statistics
    first = lab.sensitivity(should_stop=after(30), ways=("on",))
    found, expected = lab.sensitivity(since=first), same.sensitivity()
    assert found.complete and lab.compare().complete
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
    assert lab.compare().output == same.compare().output
    again = lab.sensitivity(since=found)
    assert again.complete
    pd.testing.assert_frame_equal(again.table, expected.table, check_exact=True)


def test_a_stopped_calibration_goes_on_and_added_data_does_not_start_anew():
    data = Unsized(BATCHES)
    lab, whole = lab_of(True, data), lab_of(True, BATCHES)
    lab.calibrate(should_stop=after(1))
    assert lab.calibrate().statistics == whole.calibrate().statistics
    read, more = data.read, Unsized(BATCHES)
    assert lab.add_data(more).batches == 2 * len(BATCHES)
    assert (data.read, more.read) == (read, len(BATCHES))
    assert lab.calibrated.seen == (len(BATCHES), len(BATCHES))


def test_a_loader_of_an_iterable_dataset_is_read_once():
    class Stream(IterableDataset):
        read = 0

        def __iter__(self):
            for sample in BATCHES[0]:
                self.read += 1
                yield sample

    stream = Stream()
    assert lab_of(True, DataLoader(stream, batch_size=2)).calibrate().complete
    assert stream.read == len(BATCHES[0])


def test_a_store_of_an_unknown_number_of_batches_stays_within_its_budget():
    program = Program.of(lab_of(True, BATCHES).graph)
    alone = RunStore(program, 2**30)
    alone.get(0, None, (BATCHES[0],))
    for budget, kept in ((3 * alone.bytes, 3), (2 * alone.bytes, 1)):
        store = RunStore(program, budget)
        made = [store.get(i, None, (BATCHES[0] + i,)) for i in range(3)]
        assert store.bytes <= budget
        again = [store.get(i, None, (BATCHES[0] + i,)) for i in (2, 1, 0)][::-1]
        assert sum(a is b for a, b in zip(made, again, strict=True)) == kept
        assert store.bytes <= budget
