"""The logger of means."""

import torch

import qlab
from qlab.quantization._correct_bias import MeanShadowLogger


def test_it_keeps_the_means_over_calls_in_real_numbers():
    logger = MeanShadowLogger()
    assert logger.stats == {"float": None, "quantized": None}
    for value in (1.0, 2.0, 6.0):
        x = torch.full((2, 2), value)
        logger(qlab.quantize_per_tensor(x, 1.0, 0, qlab.quint8), x / 2)
    assert logger.count == 3
    assert torch.equal(logger.stats["quantized"], torch.full((2, 2), 3.0))
    assert torch.equal(logger.stats["float"], torch.full((2, 2), 1.5))
    logger.clear()
    assert logger.count == 0 and logger.stats == {"float": None, "quantized": None}


def test_what_it_was_given_stays_as_it_is():
    logger, x = MeanShadowLogger(), torch.ones(2, requires_grad=True)
    logger(x, x)
    logger(x, x)
    assert x.detach().tolist() == [1.0, 1.0] and not logger.stats["float"].requires_grad
