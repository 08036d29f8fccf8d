"""linear, convolutions and matmul against 64-bit integer arithmetic."""

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.granularity import PerAxis
from qlab.qparams import QParams


def codes(dtype, *shape: int) -> Tensor:
    return torch.randint(dtype.quant_min, dtype.quant_max + 1, shape, dtype=dtype.storage)


def test_linear_is_bit_equal_to_integer_arithmetic() -> None:
    x, w, b = codes(quint8, 5, 70), codes(qint8, 8, 70), torch.randn(8)
    x_q, y_q = QParams.per_tensor(0.02, 117, quint8), QParams.per_tensor(0.4, 100, quint8)
    w_q = QParams(torch.rand(8) / 50, torch.zeros(8, dtype=torch.int32), qint8, PerAxis(0))
    acc = (x.long() - 117) @ w.long().T
    real = F.relu(acc.float() * (x_q.scale * w_q.scale) + b)
    expected = (real * (1 / y_q.scale) + 100.0).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(ops.linear(x, x_q, w, w_q, b, y_q, relu=True), expected)
