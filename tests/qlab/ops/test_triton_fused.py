"""conv2d_add and linear_gelu on Triton's sums: the codes of the reference kernel on the CPU."""

import pytest
import torch

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.qparams import QParams
from tests.qlab.ops.examples import X, assert_equal, codes, compared, moved, per_channel

OTHER, Y = QParams.per_tensor(0.3, 90, quint8), QParams.per_tensor(0.9, 120, quint8)


@pytest.mark.parametrize("relu", [False, True])
def test_a_sum_is_the_reference_bit_by_bit(triton_device: torch.device, relu: bool):
    torch.manual_seed(0)
    x, weight, other = (
        codes(quint8, 2, 5, 7, 6),
        codes(qint8, 9, 5, 3, 3),
        codes(quint8, 2, 9, 7, 6),
    )
    arguments = x, X, weight, per_channel(9), torch.randn(9), other, OTHER, Y
    assert_equal("triton", "conv2d_add", triton_device, *arguments, padding=1, relu=relu)


def test_a_packed_sum_is_bound_to_its_device(triton_device: torch.device):
    torch.manual_seed(0)
    x, weight, other = (
        codes(quint8, 2, 5, 7, 6),
        codes(qint8, 9, 5, 3, 3),
        codes(quint8, 2, 9, 7, 6),
    )
    arguments = x, X, weight, per_channel(9), None, other, OTHER, Y
    with ops.use("reference"):
        wanted = ops.conv2d_add(*arguments, padding=1)
    there, packed = moved(arguments, triton_device), ops.PackedWeight()
    with ops.use("triton"):
        for _ in range(2):
            assert torch.equal(ops.conv2d_add(*there, padding=1, packed=packed).cpu(), wanted)
    assert packed.ready_sum is not None
    serves = packed.ready_sum.serves(there[0], there[5], "triton", there[2], None)
    assert serves and not packed.ready_sum.serves(there[0], there[5], None, there[2], None)


@pytest.mark.parametrize("how", ["none", "tanh"])
def test_gelu_is_within_a_step_on_few(triton_device: torch.device, how: str):
    torch.manual_seed(0)
    x, weight = codes(quint8, 30, 40), codes(qint8, 50, 40)
    arguments = x, X, weight, per_channel(50), None, QParams.per_tensor(0.05, 9, quint8)
    difference = compared("triton", "linear_gelu", triton_device, *arguments, approximate=how)
    assert difference.abs().max() <= 1 and difference.count_nonzero() <= 1
