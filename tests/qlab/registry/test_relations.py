"""Which operators are the same one: derived from the table, with nothing left out."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

from qlab.nn import intrinsic as nni
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic import qat as nniqat
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.quantized import dynamic as nnqd
from qlab.registry import PATTERNS, ROWS
from qlab.registry.relations import base_rows, forms, related_operators


def test_a_convolution_and_all_that_is_made_of_it_are_one():
    conv = related_operators()["conv2d"]
    fused = {nni.ConvBn2d, nni.ConvReLU2d, nniqat.ConvBnReLU2d, nniq.ConvReLU2d, nniq.Conv2dReLU6}
    assert {nn.Conv2d, nnq.Conv2d, F.conv2d, *fused} <= conv
    assert not {nn.Conv1d, nn.Linear, nn.ReLU} & conv


def test_functions_methods_and_dynamic_modules_are_in():
    sets = related_operators()
    assert {torch.add, operator.add, "add", nni.AddReLU} <= sets["add"]
    assert {nnqd.Linear, nniq.LinearReLU, nn.Linear} <= sets["linear"]
    assert {nn.LSTM, nnqd.LSTM, nnq.LSTM} <= sets["lstm"]


def test_every_form_of_every_row_is_in_one_set():
    sets = related_operators().values()
    for row in ROWS:
        assert any(forms(row) <= known for known in sets), row.name


def test_what_patterns_fuse_goes_with_their_first_layer():
    bases = base_rows()
    rows = {module: row.name for row in ROWS for module in (*row.modules, *row.qat)}
    for pattern in PATTERNS:
        assert bases[rows[pattern.fused]] == rows[pattern.modules[0]]


def test_a_caller_may_change_what_it_gets():
    related_operators()["linear"].clear()
    assert nn.Linear in related_operators()["linear"]
