"""Batches cut by samples: what is taken first and what lies beyond are the whole, once each."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.cli.batches import beyond, head, length, limited, pieces


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 30))
def test_what_is_limited_and_what_lies_beyond_are_the_whole(sizes: list[int], samples: int):
    whole = torch.arange(sum(sizes))
    batches = list(whole.split(sizes))
    first, rest = list(limited(batches, samples)), list(beyond(batches, samples))
    assert torch.equal(torch.cat([*first, *rest]), whole)
    assert sum(map(length, first)) == min(samples, len(whole))
    assert all(length(batch) for batch in rest)


def test_dicts_and_labels_are_cut_alike():
    batch = {"x": torch.arange(6).reshape(3, 2), "labels": [0, 1, 2], "scale": torch.tensor(2.0)}
    (rest,) = beyond([batch], 2)
    assert rest["x"].tolist() == [[4, 5]] and rest["labels"] == [2]
    assert rest["scale"] == 2
    assert [length(piece) for piece in pieces([batch], 2)] == [2, 1]
    assert head((batch["x"], 7), 1)[1] == 7
