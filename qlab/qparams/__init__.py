"""Scale and zero point: choosing them, applying them, undoing them.

The only place in qlab where rounding is written. Two orders exist, and they differ on ties only:

- `quantize`: ``clamp(rint(f32(x * (1/s) + z)))`` with product and sum rounded once (a fused
  multiply-add; computed here in float64 and rounded to float32, which gives it on any device).
  It is what the reference's ``quantize_per_tensor`` and ``quantize_per_channel`` do.
- `quantize_round_first`: ``clamp(rint(x * (1/s)) + z)``: the order of fake quantization, of ONNX,
  and of qlab's element-wise operators.

In both, NaN becomes the zero point (it dequantizes to 0) and infinities saturate. Counting NaN
and infinity is the statistics' task.
"""

from qlab.qparams.choose import (
    EPS,
    choose_qparams,
)
from qlab.qparams.dynamic import (
    choose_dynamic_qparams,
)
from qlab.qparams.params import (
    QParams,
    check_quant_range,
    reduced_range,
)
from qlab.qparams.rounding import (
    bias_codes,
    check_float,
    check_tensor,
    dequantize,
    fake_quantize,
    fake_quantize_learned,
    quantize,
    quantize_round_first,
    requantize,
    requantize_whole,
)

__all__ = [
    "EPS",
    "QParams",
    "bias_codes",
    "check_float",
    "check_quant_range",
    "check_tensor",
    "choose_dynamic_qparams",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "fake_quantize_learned",
    "quantize",
    "quantize_round_first",
    "reduced_range",
    "requantize",
    "requantize_whole",
]
