"""What qconfigs ask, read from factories of qlab's observers, of others', and of none."""

import pytest
import torch
from torch import nn

from qlab.errors import DTypeError
from qlab.fake_quantize import default_fake_quant
from qlab.granularity import PerAxis
from qlab.observers import MinMaxObserver, PerChannelMinMaxObserver, PlaceholderObserver
from qlab.ranges import Fixed, MinMax, TensorSpec
from qlab.registry import OBSERVED, SIGNED_UNIT_INTERVAL, UNIT_INTERVAL
from qlab.registry.asked import Asked, asked_by, output_spec


class Foreign(nn.Module):
    """An observer that knows nothing of qlab."""

    def __init__(self, qscheme="per_channel_symmetric"):
        super().__init__()
        self.dtype, self.qscheme, self.ch_axis = torch.int8, qscheme, 1

    def calculate_qparams(self):
        return torch.ones(3), torch.zeros(3, dtype=torch.int32)


def test_factories_of_qlab():
    assert asked_by(MinMaxObserver) == Asked(TensorSpec("quint8"))
    assert asked_by(PerChannelMinMaxObserver.with_args(ch_axis=1)).spec.granularity == PerAxis(1)
    assert asked_by(default_fake_quant).spec.dtype == TensorSpec().dtype


@pytest.mark.parametrize("factory", [None, nn.Identity, PlaceholderObserver])
def test_what_leaves_a_tensor_in_float(factory):
    assert asked_by(factory) == Asked(None)


def test_dynamic_factories():
    assert asked_by(PlaceholderObserver.with_args(dtype="quint8", is_dynamic=True)).dynamic


def test_observers_of_others():
    assert asked_by(Foreign) == Asked(TensorSpec("qint8", True, PerAxis(1), MinMax()))
    assert asked_by(lambda: Foreign("per_tensor_affine")) == Asked(TensorSpec("qint8"))


@pytest.mark.parametrize("factory", [dict, lambda: 3, nn.ReLU])
def test_what_is_no_observer_is_refused(factory):
    with pytest.raises(DTypeError, match="makes no observer"):
        asked_by(factory)


def test_an_output_range_that_is_known_is_taken():
    asked, fixed = TensorSpec("quint8"), TensorSpec("quint8", policy=Fixed(0.5, 0))
    assert output_spec(OBSERVED, asked) == asked
    assert output_spec(UNIT_INTERVAL, asked).policy == Fixed(1 / 256, 0)
    assert output_spec(SIGNED_UNIT_INTERVAL, TensorSpec("qint8")).policy == Fixed(2 / 256, 0)
    assert output_spec(UNIT_INTERVAL, fixed) == fixed
