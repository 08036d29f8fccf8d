"""Patterns by title, and what is none."""

import pytest
import torch
from torch import nn

import qlab
from qlab.errors import ArgumentError, UnknownNameError
from qlab.nn import intrinsic as nni
from qlab.registry import ON_REQUEST, PATTERNS, patterns_of

EVERY = (*PATTERNS, *ON_REQUEST)


def test_every_pattern_has_a_title_of_its_own_by_which_it_is_found():
    assert patterns_of([pattern.title for pattern in EVERY]) == EVERY
    assert patterns_of((PATTERNS[0], "Linear + GELU")) == (PATTERNS[0], ON_REQUEST[-1])
    assert patterns_of([]) == ()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, ArgumentError, "Patterns come in a sequence.*Received 3"),
        (None, ArgumentError, "Patterns come in a sequence"),
        ({}, ArgumentError, "Patterns come in a sequence"),
        ("Linear + GELU", ArgumentError, r"Expected a tuple of .* titles\. Received 'Linear"),
        (("conv_add",), UnknownNameError, r"Unknown pattern 'conv_add'.*Conv2d \+ Add \+ ReLU"),
        (("Linear+GELU",), UnknownNameError, r"Did you mean 'Linear \+ GELU'"),
        ((3,), ArgumentError, "A pattern is a chain of layers.*Received 3"),
        ((nn.Linear,), ArgumentError, "A pattern is a chain of layers.*Linear"),
    ],
)
def test_what_is_no_pattern_is_named_by_lab_too(given, error, message):
    x = torch.randn(2, 4)
    for ask in (patterns_of, lambda given: qlab.Lab(nn.Linear(4, 3), x, [x], patterns=given)):
        with pytest.raises(error, match=message):
            ask(given)


def test_a_lab_takes_titles():
    torch.manual_seed(0)
    x, model = torch.randn(8, 4), nn.Sequential(nn.Linear(4, 3), nn.GELU()).eval()
    lab = qlab.Lab(model, x, [x], patterns=("Linear + GELU",))
    assert type(lab.graph.get_submodule("0")) is nni.LinearGELU
