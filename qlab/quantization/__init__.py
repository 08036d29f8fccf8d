"""Face of `torch.ao.quantization`: its names, from where qlab has them. Nothing is defined here."""

from qlab.aliases import submodules
from qlab.quantization import backend_config as backend_config
from qlab.quantization import fx as fx
from qlab.quantization.fake_quantize import *  # noqa: F403
from qlab.quantization.fuse_modules import *  # noqa: F403
from qlab.quantization.fuser_method_mappings import *  # noqa: F403
from qlab.quantization.observer import *  # noqa: F403
from qlab.quantization.qconfig import *  # noqa: F403
from qlab.quantization.qconfig_mapping import *  # noqa: F403
from qlab.quantization.quant_type import *  # noqa: F403
from qlab.quantization.quantization_mappings import *  # noqa: F403
from qlab.quantization.quantize import *  # noqa: F403
from qlab.quantization.quantize_jit import *  # noqa: F403
from qlab.quantization.stubs import *  # noqa: F403
from qlab.quantization.utils import Pattern as Pattern
from qlab.quantization.utils import get_combined_dict as get_combined_dict

__getattr__ = submodules(__name__)
