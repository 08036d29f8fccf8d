import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from qlab.analysis.batches import Batches
from qlab.errors import ArgumentError, DTypeError, ShapeError

CPU = torch.device("cpu")


def _read(source, arity=1):
    return list(Batches(source, arity, CPU, "calibration"))


def test_one_tensor_is_one_batch():
    (batch,) = _read(torch.zeros(3, 2))
    assert batch.samples == 3
    assert batch.labels is None


def test_a_loader_of_pairs_gives_inputs_and_labels():
    loader = DataLoader(TensorDataset(torch.randn(5, 2), torch.arange(5)), batch_size=2)
    batches = _read(loader)
    assert [b.samples for b in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([b.labels for b in batches]), torch.arange(5))
    assert Batches(loader, 1, CPU, "calibration").length == 3


def test_several_inputs_are_not_taken_for_labels():
    (batch,) = _read([(torch.zeros(2, 1), torch.ones(2, 1))], arity=2)
    assert len(batch.inputs) == 2
    assert batch.labels is None


def test_a_generator_is_kept_so_that_it_can_be_read_twice():
    batches = Batches((torch.zeros(1, 2) for _ in range(3)), 1, CPU, "calibration")
    assert len(list(batches)) == len(list(batches)) == batches.length == batches.count() == 3


@pytest.mark.parametrize("labels", [[2, 0, 1], (2, 0, 1)], ids=["list", "tuple"])
def test_labels_may_be_plain_numbers(labels):
    (batch,) = _read([(torch.zeros(3, 2), labels)])
    assert torch.equal(batch.labels, torch.tensor([2, 0, 1]))


def test_what_is_no_list_of_labels_is_left_out():
    assert [b.labels for b in _read([(torch.zeros(3, 2), value) for value in (None, "a", [])])] == [
        None
    ] * 3


def test_a_dict_gives_its_inputs_by_name():
    raw = {"label": [1, 0], "mask": torch.ones(2, 1), "id": "x", "ids": torch.zeros(2, 1)}
    (batch,) = Batches([raw], 2, CPU, "calibration", inputs=("ids", "mask"))
    assert [x.sum().item() for x in batch.inputs] == [0.0, 2.0]
    assert batch.labels.tolist() == [1, 0]


def test_a_dict_that_lacks_an_input_is_refused():
    batches = Batches([{"ids": torch.zeros(2, 1)}], 2, CPU, "calibration", inputs=("ids", "mask"))
    with pytest.raises(ArgumentError, match=r"lacks inputs.*entries ids, mask.*Received ids"):
        list(batches)


@pytest.mark.parametrize(
    ("source", "arity", "error", "message"),
    [
        (3, 1, DTypeError, r"not iterable.*int"),
        ([], 1, ArgumentError, r"calibration data is empty"),
        ([torch.zeros(0, 2)], 1, ShapeError, r"Batch 0 .* holds no samples"),
        ([torch.tensor(1.0)], 1, ShapeError, r"holds no samples"),
        ([torch.zeros(1, 2), "x"], 1, DTypeError, r"Batch 1 .*unknown form.*str"),
        (
            [(torch.zeros(1, 2), ["cat"])],
            1,
            DTypeError,
            r"Batch 0 .*no class indices.*list .*'cat'",
        ),
        ([torch.zeros(1, 2)], 2, ArgumentError, r"lacks inputs.*2 inputs.*1"),
    ],
    ids=["number", "empty", "no samples", "scalar", "string", "words as labels", "too few inputs"],
)
def test_bad_data_is_refused_with_its_place(source, arity, error, message):
    with pytest.raises(error, match=message):
        _read(source, arity)
