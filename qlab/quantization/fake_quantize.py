"""Face of `torch.ao.quantization.fake_quantize`: see `qlab.fake_quantize`."""

from qlab.aliases import siblings
from qlab.fake_quantize import *  # noqa: F403

__getattr__ = siblings(__name__)
