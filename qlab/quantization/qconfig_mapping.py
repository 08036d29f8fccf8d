"""Face of `torch.ao.quantization.qconfig_mapping`: see `qlab.qconfig`."""

from qlab.aliases import siblings
from qlab.qconfig import (
    QConfigMapping,
    get_default_qat_qconfig_mapping,
    get_default_qconfig_mapping,
)
from qlab.qconfig.default_mapping import (
    symmetric_qnnpack_mapping as _get_symmetric_qnnpack_qconfig_mapping,  # noqa: F401
)
from qlab.qconfig.default_mapping import (
    symmetric_qnnpack_qat_mapping as _get_symmetric_qnnpack_qat_qconfig_mapping,  # noqa: F401
)

# The keys of `QConfigMapping.to_dict`, by the names that code of the reference's day imports.
_GLOBAL_DICT_KEY = ""
_OBJECT_TYPE_DICT_KEY = "object_type"
_MODULE_NAME_REGEX_DICT_KEY = "module_name_regex"
_MODULE_NAME_DICT_KEY = "module_name"
_MODULE_NAME_OBJECT_TYPE_ORDER_DICT_KEY = "module_name_object_type_order"

__getattr__ = siblings(__name__)

__all__ = [
    "QConfigMapping",
    "get_default_qat_qconfig_mapping",
    "get_default_qconfig_mapping",
]
