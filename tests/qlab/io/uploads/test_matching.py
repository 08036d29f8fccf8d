"""Data goes to the inputs that it is for, or the message says what does not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sample_models
from qlab.errors import ArgumentError, QlabError, ShapeError, UnsupportedError
from qlab.io.uploads import (
    Limits,
    UploadedData,
    UploadedInput,
    UploadedModel,
    batch_of,
    made_up,
    matched,
    open_model,
)
from qlab.io.uploads.models import assemble, unpack
from tests.upload_files import Small, export, nested_archive, weights

IDS = UploadedInput("ids", (None, None), torch.int64, 7)
MASK = UploadedInput("mask", (None, None), torch.bool)
IMAGE = UploadedInput("x", (None, 3, 4, 4), torch.float32)


def opened(content: bytes) -> UploadedModel:
    return assemble(*unpack(content, Limits()), Limits())


def test_names_decide_and_others_are_left_out() -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.int32), torch.ones(2, 3, dtype=torch.bool)
    data = UploadedData({"more": torch.ones(2), "mask": mask, "ids": ids})
    found = matched(data, (IDS, MASK)).inputs
    assert list(found) == ["ids", "mask"] and found["ids"].dtype == torch.int64


def test_one_array_is_the_one_input() -> None:
    x = torch.ones(5, 3, 4, 4, dtype=torch.float64)
    found = matched(UploadedData({"anything": x}), (IMAGE,)).inputs
    assert found["x"].dtype == torch.float32


def test_shapes_and_dtypes_tell_which_is_which() -> None:
    a, b = torch.full((2, 3), 6), torch.ones(2, 3, 4, 4)
    found = matched(UploadedData({"arr_0": b, "arr_1": a}), (IDS, IMAGE)).inputs
    assert torch.equal(found["ids"], a) and torch.equal(found["x"], b)
    two = (
        UploadedInput("a", (None, 2), torch.float32),
        UploadedInput("b", (None, 2), torch.float32),
    )
    same = UploadedData({"p": torch.ones(3, 2), "q": torch.ones(3, 2)})
    with pytest.raises(ArgumentError, match=r"does not say which.*savez\(path, a=…, b=…\)"):
        matched(same, two)


def test_an_input_may_be_called_as_labels_are() -> None:
    y = UploadedInput("y", (None,), torch.int64)
    data = UploadedData({"x": torch.ones(2, 3, 4, 4)}, torch.tensor([1, 2]), label="y")
    found = matched(data, (IMAGE, y))
    assert found.labels is None and found.inputs["y"].tolist() == [1, 2]
    assert matched(data, (IMAGE,)).labels is not None


@pytest.mark.parametrize(
    ("tensors", "inputs", "kind", "message"),
    [
        (
            {"x": torch.ones(2, 3, 4, 5)},
            (IMAGE,),
            ShapeError,
            r"of the input x.*N, 3, 4, 4.*4, 5\)",
        ),
        ({"x": torch.ones(2, 3)}, (IMAGE,), ShapeError, "shape of the input x"),
        ({"q": torch.ones(2, 3)}, (IDS,), UnsupportedError, "ids takes whole numbers"),
        ({"ids": torch.tensor([[7]])}, (IDS,), UnsupportedError, r"table lacks.*0 to 6.*7 to 7"),
        ({"ids": torch.tensor([[-1]])}, (IDS,), UnsupportedError, "table lacks"),
        ({"m": torch.tensor([[2]])}, (MASK,), UnsupportedError, "True and False alone"),
        ({"x": torch.ones(2, 1)}, (IDS, MASK), ArgumentError, r"lacks inputs.*ids int64 \(N, \*\)"),
        (
            {"x": torch.ones(2, 1)},
            (UploadedInput("x", (4, 1), torch.float32),),
            ShapeError,
            "fewer samples than the model takes at once",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    tensors: dict[str, Tensor], inputs: tuple, kind: type[QlabError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        matched(UploadedData(tensors), inputs)


@given(st.integers(1, 9), st.sampled_from([torch.float16, torch.float64, torch.int32, torch.uint8]))
def test_made_up_and_matching_data_fit_whatever_they_came_as(samples: int, dtype: torch.dtype):
    data = UploadedData({"q": torch.ones(samples, 3, 4, 4, dtype=dtype)})
    (x,) = matched(data, (IMAGE,)).inputs.values()
    assert x.dtype == torch.float32 and bool((x == 1).all())


def test_made_up_data_is_what_the_model_takes() -> None:
    model = opened(nested_archive())
    data = made_up(model, 3)
    assert [str(each) for each in model.inputs] == ["ids int64 (N, *)", "mask bool (N, *)"]
    assert data.inputs["ids"].shape == (3, 5) and 0 < data.inputs["ids"].max() < 7
    assert matched(data, model.inputs).inputs.keys() == {"ids", "mask"}
    assert model.model(*data.inputs.values())["logits"].shape == (3, 5, 1)
    assert torch.equal(made_up(model, 3).inputs["ids"], data.inputs["ids"])


def test_a_model_of_one_batch_size_gets_whole_batches() -> None:
    model = opened(export(Small().eval(), (torch.randn(4, 1, 6, 6),)))
    assert batch_of(model.inputs) == 4
    assert len(made_up(model, 1)) == 4
    assert batch_of((IMAGE, IDS)) is None


def test_a_model_of_nested_tensors_gets_no_arrays() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, pair: list[Tensor]) -> Tensor:
            return self.fc(pair[0] + pair[1])

    model = opened(export(Sum().eval(), ([torch.ones(2, 3), torch.ones(2, 3)],)))
    with pytest.raises(UnsupportedError, match="inside lists or dicts"):
        made_up(model, 2)


def test_weights_come_with_what_the_architecture_takes() -> None:
    sample = sample_models.load("residual")
    model = open_model(weights(sample.model), "residual")
    assert [str(each) for each in model.inputs] == ["input float32 (N, 1, *, *)"]
    assert model.example_inputs[0].shape == (1, 1, 8, 8)
    x = sample.calibration(2)[0]
    assert torch.equal(model.model(x), sample.model(x))
    assert open_model(weights(Small()), Small()).inputs == ()
