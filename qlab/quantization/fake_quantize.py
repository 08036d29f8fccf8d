"""Face of `torch.ao.quantization.fake_quantize`: see `qlab.fake_quantize`."""

from qlab.fake_quantize import *  # noqa: F403
