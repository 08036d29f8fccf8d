"""Switches of the learnable fake quantizer, and what it refuses."""

import pytest
import torch

import qlab
from qlab.errors import ArgumentError
from qlab.fake_quantize.learnable import LearnableFakeQuantize
from qlab.observers import MovingAverageMinMaxObserver


def made(**arguments) -> LearnableFakeQuantize:
    return LearnableFakeQuantize(MovingAverageMinMaxObserver, dtype=qlab.quint8, **arguments)


def test_it_follows_the_observer_until_it_learns():
    fake, x = made(), torch.tensor([-1.0, 0.5, 3.0])
    assert fake.enable_static_observation()(x) is x
    fake.enable_static_estimate()(x)
    assert fake.scale.item() == pytest.approx(4 / 255)
    assert not fake.scale.requires_grad
    fake.enable_param_learning()(x * 100)
    assert fake.scale.item() == pytest.approx(4 / 255)
    assert fake.scale.requires_grad and fake.zero_point.requires_grad
    fake.enable_observer()
    fake(x * 100)
    assert fake.scale.item() > 4 / 255


def test_a_step_of_training_moves_the_scale_toward_less_error():
    torch.manual_seed(0)
    fake, x = made(quant_max=15), torch.randn(1000)
    fake(x)
    fake.enable_param_learning()
    optimizer = torch.optim.SGD([fake.scale], lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (fake(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_scales_stay_positive_and_the_zero_point_a_code():
    fake = made().enable_param_learning()
    with torch.no_grad():
        fake.scale.fill_(-1.0)
        fake.zero_point.fill_(300.4)
    fake(torch.ones(3))
    qparams = fake.qparams()
    assert qparams.scale_value > 0 and qparams.zero_point_value == 255


def test_a_number_of_channels_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="channel_len is a number of channels"):
        made(channel_len=0)
    with pytest.raises(ArgumentError):
        made(quant_min=5, quant_max=5)
