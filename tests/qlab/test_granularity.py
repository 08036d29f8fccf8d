"""Granularity: from a tensor's shape to its scales, and back to its elements."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.errors import ArgumentError, ShapeError, UnknownNameError
from qlab.granularity import (
    Granularity,
    PerAxis,
    PerGroup,
    PerTensor,
    QScheme,
    granularities_of,
    granularity_from_dict,
    granularity_to_dict,
)


@st.composite
def shapes_and_granularities(draw) -> tuple[tuple[int, ...], Granularity]:
    shape = list(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    group = draw(st.integers(1, 3))
    granularity = draw(st.sampled_from([PerTensor(), PerAxis(axis), PerGroup(group, axis)]))
    if isinstance(granularity, PerGroup):
        shape[axis] *= group
    return tuple(shape), granularity


class TestEvery:
    @given(shapes_and_granularities())
    def test_rows_and_expand_agree(self, case):
        shape, granularity = case
        x = torch.rand(shape)
        scale_shape = granularity.scale_shape(shape)
        rows = granularity.rows(x)
        assert rows.shape[0] * rows.shape[1] == x.numel()
        largest = rows.amax(1).reshape(scale_shape)
        expanded = granularity.expand(largest, shape)
        assert bool((x <= expanded).all())
        # Each scale is reached by one of its own elements.
        reached = granularity.rows((x == expanded).expand(shape).float())
        assert bool((reached.amax(1) == 1).all())

    @pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(-2), PerGroup(32, 0)], ids=repr)
    def test_survives_json(self, granularity: Granularity):
        again = granularity_from_dict(json.loads(json.dumps(granularity_to_dict(granularity))))
        assert again == granularity
        assert hash(again) == hash(granularity)

    def test_values_of_another_shape_are_refused(self):
        PerAxis(1).check_values(torch.ones(3), (2, 3), "scale")
        with pytest.raises(ShapeError, match=r"scale does not fit.*\(2, 3\).*shape \(3,\).*\(2,\)"):
            PerAxis(1).check_values(torch.ones(2), (2, 3), "scale")


def test_scale_shapes():
    shape = (8, 6, 5, 5)
    assert PerTensor().scale_shape(shape) == ()
    assert PerAxis().scale_shape(shape) == (8,)
    assert PerAxis(-1).scale_shape(shape) == (5,)
    assert PerGroup(3).scale_shape(shape) == (8, 2, 5, 5)
    assert PerGroup(4, 0).scale_shape(shape) == (2, 6, 5, 5)


def test_rows_gather_what_shares_a_scale():
    x = torch.arange(12.0).reshape(2, 6)
    assert PerTensor().rows(x).tolist() == [list(range(12))]
    assert PerAxis(1).rows(x).tolist() == [[i, i + 6] for i in range(6)]
    assert PerGroup(3).rows(x).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert PerGroup(2, 0).rows(x).tolist() == [[i, i + 6] for i in range(6)]


def test_rows_of_empty_tensors_have_a_shape():
    assert PerAxis(0).rows(torch.zeros(0, 5)).shape == (0, 5)
    assert PerAxis(1).rows(torch.zeros(0, 5)).shape == (5, 0)
    assert PerTensor().rows(torch.zeros(0, 5)).shape == (1, 0)
    assert PerGroup(5).rows(torch.zeros(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("granularity", [PerAxis(2), PerAxis(-3), PerGroup(1, 2)], ids=repr)
def test_a_missing_axis_is_refused(granularity: Granularity):
    x = torch.ones(2, 4)
    for use in (
        lambda: granularity.scale_shape(x.shape),
        lambda: granularity.rows(x),
        lambda: granularity.expand(torch.ones(1), x.shape),
    ):
        with pytest.raises(ShapeError, match=r"has no axis.*from -2 to 1.*\(2, 4\)"):
            use()


def test_groups_must_divide_the_axis():
    with pytest.raises(ShapeError, match=r"divisible by 3.*length 4.*PerAxis"):
        PerGroup(3).rows(torch.ones(2, 4))
    with pytest.raises(ArgumentError, match=r"must be positive.*0"):
        PerGroup(0)


def test_unknown_json_is_refused():
    with pytest.raises(UnknownNameError, match="per_tensor, per_axis, per_group"):
        granularity_from_dict({"kind": "per_row"})
    with pytest.raises(UnknownNameError, match="granularity 'Odd'"):
        granularity_to_dict(type("Odd", (), {})())


class TestQScheme:
    @pytest.mark.parametrize(
        ("name", "symmetric", "granularity"),
        [
            ("per_tensor_affine", False, PerTensor()),
            ("per_tensor_symmetric", True, PerTensor()),
            ("per_channel_affine", False, PerAxis(1)),
            ("per_channel_symmetric", True, PerAxis(1)),
            ("per_channel_affine_float_qparams", False, PerAxis(1)),
        ],
    )
    def test_means_granularity_and_symmetry(self, name: str, symmetric: bool, granularity):
        scheme = QScheme.parse(name)
        assert scheme.symmetric is symmetric
        assert scheme.granularity(1) == granularity
        assert scheme.per_channel is isinstance(granularity, PerAxis)
        assert repr(scheme) == f"qlab.{name}"
        # The constants of torch that go by these names.
        assert QScheme.parse(f"torch.{name}") is QScheme.parse(scheme) is scheme

    def test_unknown_names_are_refused(self):
        with pytest.raises(UnknownNameError, match=r"scheme 'per_row'.*per_tensor_affine"):
            QScheme.parse("per_row")


@given(shapes_and_granularities())
def test_a_granularity_is_among_those_of_its_shapes(case):
    shape, granularity = case
    found = granularities_of(shape, granularity.scale_shape(shape))
    same = [other for other in found if other.scale_shape(shape) == granularity.scale_shape(shape)]
    assert found == same
    assert found


def test_square_weights_may_have_scales_along_either_axis():
    assert granularities_of((3, 3), (3,)) == [PerAxis(0), PerAxis(1)]
    assert granularities_of((3, 4), ()) == [PerTensor()]
    assert granularities_of((3, 4), (5,)) == []
