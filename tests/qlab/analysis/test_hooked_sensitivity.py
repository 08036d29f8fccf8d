"""Sensitivity of a model without a graph: what is honoured, and what is refused with a reason."""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

import qlab
from qlab.analysis.sensitivity import MEASURING
from qlab.errors import DTypeError, UnfinishedError, UnsupportedError
from tests.qlab.analysis.test_hooked import BATCHES, Loops, Opaque, ReadsItem, core, lab_of
from tests.qlab.analysis.test_sensitivity import measuring
from tests.qlab.analysis.test_tasks import Breaks

MODELS = [Loops, ReadsItem, lambda: Opaque(core())]


@pytest.fixture(autouse=True)
def no_gradients():
    """A float of what needs a gradient makes torch warn."""
    with torch.no_grad():
        yield


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stop", [1, 3])
def test_what_was_stopped_goes_on_where_it_was_and_ends_the_same(model, stop):
    lab, seen, again = lab_of(model), [], []
    whole = lab.sensitivity(["int8", "int4-weights"])
    stopped = lab.sensitivity(
        ["int8", "int4-weights"],
        on_progress=measuring(seen),
        should_stop=lambda: len(seen) >= stop,
    )
    assert not stopped.complete and len(seen) == stop
    found = lab.sensitivity(["int8", "int4-weights"], since=stopped, on_progress=measuring(again))
    assert again[0][0] == stop + 1 and again[-1][0] == again[-1][1] == stop + len(again)
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    pd.testing.assert_frame_equal(found.whole, whole.whole, check_exact=True)


def test_all_ways_that_it_has_are_answered_if_none_is_given():
    table = lab_of(Loops).sensitivity().table
    assert list(table) == ["noise_on", "sqnr_on", "noise_off", "sqnr_off"]
    assert table.notna().all(axis=None)


@pytest.mark.parametrize("ways", [("estimate",), ("on", "estimate")])
def test_an_estimate_is_refused_with_the_reason(ways):
    with pytest.raises(UnsupportedError, match=r"gradient estimate.*needs the model as one graph"):
        lab_of(Loops).sensitivity(ways=ways)


def test_an_executor_is_refused_with_the_reason():
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(
            UnsupportedError,
            match=r"without a graph is measured in this thread.*ThreadPoolExecutor",
        ),
    ):
        lab_of(Loops).sensitivity(executor=executor)


@pytest.mark.parametrize(
    "lab", [lambda: lab_of(Loops), lambda: qlab.Lab(core(), BATCHES[0], BATCHES)]
)
@pytest.mark.parametrize("since", [3, "before", True])
def test_what_is_no_answer_is_refused(lab, since):
    with pytest.raises(DTypeError, match=r"Not an answer to go on from\. Expected what Lab"):
        lab().sensitivity(since=since)


def test_it_goes_on_from_a_broken_loader():
    lab, again = lab_of(Loops), []
    whole = lab.sensitivity(ways=("on",))
    lab._evaluation_data._source = Breaks(BATCHES, 1)
    with pytest.raises(UnfinishedError, match=r"Batch 1 of .*data could.*disk gone") as caught:
        lab.sensitivity(ways=("on",))
    partial = caught.value.partial
    assert partial.samples == len(BATCHES[0]) and not partial.complete
    found = lab.sensitivity(ways=("on",), since=partial, on_progress=measuring(again))
    assert again[0][0] > 1 and {label for *_, label in again} == {MEASURING}
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)


def test_a_model_that_fails_in_the_middle_is_named_with_its_batch_and_layer():
    class Fails(ReadsItem):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            if type(self).calls > limit:
                raise KeyError("gone")
            return super().forward(x)

    limit = 10**6
    lab = lab_of(Fails)
    lab.calibrate()
    limit = Fails.calls + 3
    with pytest.raises(
        UnfinishedError, match=r"broke off at batch 0, the .*KeyError: 'gone'"
    ) as caught:
        lab.sensitivity()
    assert caught.value.partial.samples == len(BATCHES[0])
