"""Face of `torch.ao.quantization.observer`: see `qlab.observers`."""

from qlab.aliases import siblings
from qlab.eager.questions import is_activation_post_process
from qlab.observers import *  # noqa: F403
from qlab.observers.factories import Partial as _PartialWrapper  # noqa: F401
from qlab.observers.factories import with_args as _with_args  # noqa: F401
from qlab.observers.factories import with_callable_args as _with_callable_args  # noqa: F401

_is_activation_post_process = is_activation_post_process
"""The reference's private name, which code imports."""

__getattr__ = siblings(__name__)
