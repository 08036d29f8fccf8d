"""Face of `torch.ao.quantization.fake_quantize`: see `qlab.fake_quantize`."""

from qlab.aliases import siblings
from qlab.eager.questions import is_float_qparams as _is_float_qparams  # noqa: F401
from qlab.eager.questions import is_per_channel as _is_per_channel  # noqa: F401
from qlab.eager.questions import is_per_tensor as _is_per_tensor  # noqa: F401
from qlab.eager.questions import is_symmetric_quant as _is_symmetric_quant  # noqa: F401
from qlab.fake_quantize import *  # noqa: F403

__getattr__ = siblings(__name__)
