"""Module paths of the reference that are no files here, and where their names are.

The reference spreads its modules over files such as ``nn/quantized/modules/conv.py``, and public
code imports from them. Each is an entry of `TABLE`; importing one gives a module that holds the
names and nothing else, so that classes have one home and one identity.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_NNQ, _NNQD, _NNQR = "qlab.nn.quantized", "qlab.nn.quantized.dynamic", "qlab.nn.quantized.reference"
_NNI, _NNIQ, _NNIQAT = "qlab.nn.intrinsic", "qlab.nn.intrinsic.quantized", "qlab.nn.intrinsic.qat"
_NNQAT, _NNQA = "qlab.nn.qat", "qlab.nn.quantizable"
_QUANTIZATION, _BACKEND = "qlab.quantization", "qlab.registry.backend"
_CONVS = "Conv1d Conv2d Conv3d"
_ALL_CONVS = f"{_CONVS} ConvTranspose1d ConvTranspose2d ConvTranspose3d"
_ALL = "*"

#: Path → (module that has the names, the names; ``*`` stands for all of its ``__all__``).
TABLE: dict[str, tuple[str, str]] = {
    f"{_NNQ}.modules": (_NNQ, _ALL),
    f"{_NNQ}.modules.activation": (
        _NNQ,
        "ReLU6 Hardswish ELU LeakyReLU Sigmoid Softmax MultiheadAttention PReLU",
    ),
    f"{_NNQ}.modules.batchnorm": (f"{_NNQ}.norm", "_BatchNorm BatchNorm2d BatchNorm3d"),
    f"{_NNQ}.modules.conv": (f"{_NNQ}.conv", f"_ConvNd _ConvTransposeNd {_ALL_CONVS}"),
    f"{_NNQ}.modules.dropout": (_NNQ, "Dropout"),
    f"{_NNQ}.modules.embedding_ops": (
        f"{_NNQ}.embedding",
        "Embedding EmbeddingBag EmbeddingPackedParams",
    ),
    f"{_NNQ}.modules.functional_modules": (_NNQ, "FloatFunctional FXFloatFunctional QFunctional"),
    f"{_NNQ}.modules.linear": (f"{_NNQ}.linear", "Linear LinearPackedParams"),
    f"{_NNQ}.modules.normalization": (
        _NNQ,
        "LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    ),
    f"{_NNQ}.modules.rnn": (_NNQ, "LSTM"),
    f"{_NNQD}.modules": (_NNQD, _ALL),
    f"{_NNQD}.modules.conv": (_NNQD, _ALL_CONVS),
    f"{_NNQD}.modules.linear": (_NNQD, "Linear"),
    f"{_NNQD}.modules.rnn": (
        f"{_NNQD}.rnn",
        "LSTM GRU RNNCell LSTMCell GRUCell RNNBase RNNCellBase",
    ),
    f"{_NNQR}.modules": (_NNQR, _ALL),
    f"{_NNQR}.modules.conv": (_NNQR, _ALL_CONVS),
    f"{_NNQR}.modules.linear": (_NNQR, "Linear"),
    f"{_NNQR}.modules.rnn": (
        _NNQR,
        "RNNCellBase RNNCell LSTMCell GRUCell RNNBase LSTM GRU get_quantized_weight",
    ),
    f"{_NNQR}.modules.sparse": (_NNQR, "Embedding EmbeddingBag"),
    f"{_NNQR}.modules.utils": (_NNQR, "ReferenceQuantizedModule"),
    f"{_NNI}.modules": (_NNI, _ALL),
    f"{_NNI}.modules.fused": (_NNI, f"{_ALL} _FusedModule"),
    f"{_NNQ}.modules.utils": (
        f"{_NNQ}.packed_params",
        "WeightedQuantizedModule _quantize_weight",
    ),
    f"{_NNIQ}.modules": (_NNIQ, _ALL),
    f"{_NNIQ}.modules.bn_relu": (_NNIQ, "BNReLU2d BNReLU3d"),
    f"{_NNIQ}.modules.conv_add": (_NNIQ, "ConvAdd2d ConvAddReLU2d"),
    f"{_NNIQ}.modules.conv_relu": (_NNIQ, "ConvReLU1d ConvReLU2d ConvReLU3d"),
    f"{_NNIQ}.modules.linear_relu": (_NNIQ, "LinearReLU LinearLeakyReLU LinearTanh"),
    f"{_NNIQ}.dynamic.modules": (f"{_NNIQ}.dynamic", _ALL),
    f"{_NNIQ}.dynamic.modules.linear_relu": (f"{_NNIQ}.dynamic", "LinearReLU"),
    f"{_NNIQAT}.modules": (_NNIQAT, _ALL),
    f"{_NNIQAT}.modules.conv_fused": (
        f"{_NNIQAT}.fused",
        "ConvBn1d ConvBnReLU1d ConvReLU1d ConvBn2d ConvBnReLU2d ConvReLU2d ConvBn3d ConvBnReLU3d "
        "ConvReLU3d update_bn_stats freeze_bn_stats _ConvBnNd",
    ),
    f"{_NNIQAT}.modules.linear_fused": (_NNIQAT, "LinearBn1d"),
    f"{_NNIQAT}.modules.linear_relu": (_NNIQAT, "LinearReLU"),
    f"{_NNQAT}.modules": (_NNQAT, _ALL),
    f"{_NNQAT}.modules.conv": (f"{_NNQAT}.layers", f"_ConvNd {_CONVS}"),
    f"{_NNQAT}.modules.embedding_ops": (_NNQAT, "Embedding EmbeddingBag"),
    f"{_NNQAT}.modules.linear": (_NNQAT, "Linear"),
    f"{_NNQAT}.dynamic.modules": (f"{_NNQAT}.dynamic", _ALL),
    f"{_NNQAT}.dynamic.modules.linear": (f"{_NNQAT}.dynamic", "Linear"),
    f"{_NNQA}.modules": (_NNQA, _ALL),
    f"{_NNQA}.modules.activation": (_NNQA, "MultiheadAttention"),
    f"{_NNQA}.modules.rnn": (_NNQA, "LSTM LSTMCell"),
    f"{_QUANTIZATION}._learnable_fake_quantize": (
        "qlab.fake_quantize.learnable",
        "LearnableFakeQuantize _LearnableFakeQuantize",
    ),
    f"{_QUANTIZATION}.fx.graph_module": (
        "qlab.graph.kinds",
        "FusedGraphModule ObservedGraphModule ObservedStandaloneGraphModule QuantizedGraphModule "
        "_is_observed_module _is_observed_standalone_module",
    ),
    f"{_QUANTIZATION}.fx.tracer": ("qlab.graph.kinds", "QuantizationTracer"),
    f"{_QUANTIZATION}.fx.utils": ("qlab.graph.questions", _ALL),
    f"{_QUANTIZATION}.backend_config.backend_config": (
        _BACKEND,
        "BackendConfig BackendPatternConfig DTypeConfig DTypeWithConstraints ObservationType",
    ),
    f"{_QUANTIZATION}.backend_config.executorch": (_BACKEND, "get_executorch_backend_config"),
    f"{_QUANTIZATION}.backend_config.fbgemm": (_BACKEND, "get_fbgemm_backend_config"),
    f"{_QUANTIZATION}.backend_config.native": (
        f"{_BACKEND}.standard",
        "get_test_only_legacy_native_backend_config "
        "get_test_only_legacy_native_backend_config_dict "
        "get_native_backend_config get_native_backend_config_dict default_op_quint8_dtype_config "
        "default_op_fp16_dtype_config default_dynamic_int8_dtype_config "
        "default_dynamic_float16_dtype_config input_output_only_quint8_dtype_config "
        "weight_only_quint8_dtype_config weight_only_quint4x2_dtype_config "
        "weighted_op_quint8_dtype_config",
    ),
    f"{_QUANTIZATION}.backend_config.onednn": (_BACKEND, "get_onednn_backend_config"),
    f"{_QUANTIZATION}.backend_config.qnnpack": (_BACKEND, "get_qnnpack_backend_config"),
    f"{_QUANTIZATION}.backend_config.tensorrt": (
        _BACKEND,
        "get_tensorrt_backend_config get_tensorrt_backend_config_dict",
    ),
    f"{_QUANTIZATION}.backend_config.utils": (
        f"{_BACKEND}.utils",
        "get_pattern_to_dtype_configs get_qat_module_classes get_fused_module_classes "
        "get_root_module_to_quantized_reference_module get_fuser_method_mapping "
        "get_module_to_qat_module pattern_to_human_readable",
    ),
    f"{_QUANTIZATION}.backend_config.x86": (_BACKEND, "get_x86_backend_config"),
}


#: Face → modules whose names its file in the reference imports too, so that code takes them there.
SIBLINGS: dict[str, tuple[str, ...]] = {
    f"{_QUANTIZATION}.fake_quantize": ("qlab.observers",),
    f"{_QUANTIZATION}.qconfig": ("qlab.observers", "qlab.fake_quantize"),
    f"{_QUANTIZATION}.qconfig_mapping": ("qlab.observers", "qlab.fake_quantize", "qlab.qconfig"),
    f"{_QUANTIZATION}.quantize": (
        *("qlab.qconfig", f"{_QUANTIZATION}.quantization_mappings", f"{_QUANTIZATION}.stubs"),
        f"{_QUANTIZATION}.utils",
    ),
    f"{_QUANTIZATION}.quantize_fx": (
        *("qlab.qconfig", _BACKEND, f"{_QUANTIZATION}.fx.custom_config"),
        *(f"{_QUANTIZATION}.fx.graph_module", f"{_QUANTIZATION}.fx.tracer"),
        f"{_QUANTIZATION}.fx.utils",
    ),
    f"{_QUANTIZATION}.quantize_jit": ("qlab.qconfig", f"{_QUANTIZATION}.quant_type"),
    f"{_QUANTIZATION}.fuse_modules": (f"{_QUANTIZATION}.fuser_method_mappings",),
    f"{_QUANTIZATION}.fuser_method_mappings": (f"{_QUANTIZATION}.utils",),
    f"{_QUANTIZATION}.fx.custom_config": (f"{_QUANTIZATION}.quant_type", "qlab.qconfig"),
    f"{_QUANTIZATION}.observer": (f"{_QUANTIZATION}.utils",),
    f"{_QUANTIZATION}.quantization_mappings": (f"{_QUANTIZATION}.stubs", f"{_QUANTIZATION}.utils"),
    f"{_QUANTIZATION}.stubs": ("qlab.qconfig",),
}


def siblings(face: str) -> Callable[[str], object]:
    """A face's ``__getattr__`` that finds the names of its `SIBLINGS`."""

    def get(name: str) -> object:
        for path in SIBLINGS[face]:
            home = importlib.import_module(path)
            if name in home.__all__:
                return getattr(home, name)
        raise AttributeError(f"module {face!r} has no attribute {name!r}")

    return get


class AliasFinder(MetaPathFinder, Loader):
    """Finds and fills the modules of `TABLE`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The spec of a path of `TABLE`; None for any other."""
        if fullname not in TABLE:
            return None
        package = any(other.startswith(f"{fullname}.") for other in TABLE)
        return ModuleSpec(fullname, self, is_package=package)

    def create_module(self, spec: ModuleSpec) -> None:
        """None: an ordinary module object will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Puts the names of its entry into a module."""
        source, names = TABLE[module.__name__]
        home = importlib.import_module(source)
        listed = [n for name in names.split() for n in (home.__all__ if name == _ALL else [name])]
        if hasattr(module, "__path__"):
            vars(module)["__getattr__"] = submodules(module.__name__)
        module.__doc__ = f"Names of `{source}`, where the reference has them."
        vars(module).update({name: getattr(home, name) for name in listed}, __all__=listed)


def submodules(package: str) -> Callable[[str], ModuleType]:
    """A package's ``__getattr__`` that imports its submodules when they are asked for.

    The reference imports them all, so code says ``nnq.modules.conv.Conv2d`` without more ado.
    """

    def get(name: str) -> ModuleType:
        path = f"{package}.{name}"
        if not name.startswith("_") and importlib.util.find_spec(path) is not None:
            return importlib.import_module(path)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get


def install() -> None:
    """Lets the paths of `TABLE` be imported; once is enough."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.append(AliasFinder())
