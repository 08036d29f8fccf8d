"""A loader that fails in the middle of a question: what was measured before stays."""

import pandas as pd
import pytest
import torch

import qlab
import sample_models
from qlab.analysis.search.search import Verified
from qlab.errors import DTypeError, UnfinishedError
from tests.qlab.analysis.test_hooked import Loops

SAMPLE = sample_models.load("mlp")
CALIBRATION = SAMPLE.calibration(32, 32)
DATA = SAMPLE.evaluation(32)[:3]
FAILING = pytest.mark.parametrize("ask", ["compare", "fidelity"])


class Fails:
    """Batches of which one cannot be read, as long as `broken`."""

    def __init__(self, data, at):
        self.data, self.at, self.broken = data, at, True

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        for index, batch in enumerate(self.data):
            if self.broken and index == self.at:
                raise OSError("disk gone")
            yield batch


def lab_for(evaluation) -> qlab.Lab:
    return qlab.Lab(SAMPLE.model, SAMPLE.example_inputs, CALIBRATION, evaluation)


@FAILING
def test_what_the_batches_before_gave_is_in_the_error(ask):
    lab = lab_for(Fails(DATA, 2))
    with pytest.raises(UnfinishedError, match=r"Batch 2 of the evaluation.*disk gone") as caught:
        getattr(lab, ask)()
    partial, whole = caught.value.partial, getattr(lab_for(DATA[:2]), ask)()
    assert isinstance(caught.value.__cause__, OSError)
    assert not partial.complete and partial.samples == whole.samples == 64
    assert partial.output == whole.output
    table = "layers" if ask == "compare" else "table"
    pd.testing.assert_frame_equal(getattr(partial, table), getattr(whole, table))
    assert not len(lab.runs)


@FAILING
def test_where_the_first_batch_fails_there_is_nothing_to_keep(ask):
    with pytest.raises(UnfinishedError, match="Batch 0 of the evaluation") as caught:
        getattr(lab_for(Fails(DATA, 0)), ask)()
    assert caught.value.partial is None


def test_without_a_graph_it_is_kept_too():
    batches = [torch.randn(4, 8) for _ in range(3)]
    lab = qlab.Lab(Loops().eval(), batches[0], batches, Fails(batches, 1))
    with pytest.raises(UnfinishedError, match="Batch 1 of the evaluation") as caught:
        lab.compare(parts=True)
    partial = caught.value.partial
    assert not partial.complete and partial.samples == 4 and len(partial.layers)
    assert list(partial.activation_only) == list(partial.layers)


def test_points_that_were_verified_before_are_kept():
    evaluation = Fails(DATA, 3)
    search = lab_for(evaluation).search(0.6, points=3)
    known = search.verify([0])
    evaluation.at = 1
    with pytest.raises(UnfinishedError, match=r"Batch 1.*known= to go on") as caught:
        search.verify([0, 1], known=known)
    assert isinstance(caught.value.partial, Verified) and not caught.value.partial.complete
    pd.testing.assert_frame_equal(caught.value.partial.table, known.table)
    with pytest.raises(UnfinishedError) as caught:
        search.verify([1])
    assert caught.value.partial is None
    evaluation.broken = False
    whole = search.verify([0, 1], known=known)
    assert whole.complete and list(whole.table.index) == [0, 1]


def test_what_makes_no_sense_is_refused_before_anything_is_measured():
    search = lab_for(DATA).search(0.6, points=3)
    with pytest.raises(DTypeError, match=r"Not points of the front.*3"):
        search.verify(3)
    with pytest.raises(DTypeError, match=r"Not points of the front.*whole numbers.*1\.5"):
        search.verify([1.5])
    with pytest.raises(DTypeError, match=r"Nothing known of points.*5"):
        search.verify(known=5)
    for hook in ("on_progress", "should_stop"):
        for ask in (search.verify, search.best):
            with pytest.raises(DTypeError, match=f"{hook} cannot be called"):
                ask(**{hook: 5})
