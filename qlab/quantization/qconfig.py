"""Face of `torch.ao.quantization.qconfig`: see `qlab.qconfig`."""

from qlab.aliases import siblings
from qlab.eager.prepare import check_qconfig as _assert_valid_qconfig  # noqa: F401
from qlab.qconfig import *  # noqa: F403

__getattr__ = siblings(__name__)
