"""Import paths of the reference that are no files of qlab."""

import importlib
import pickle
import subprocess
import sys

import pytest

import qlab.nn.intrinsic as nni
import qlab.nn.quantized as nnq
from qlab.aliases import SIBLINGS, TABLE, AliasFinder, install


@pytest.mark.parametrize("path", TABLE)
def test_a_path_has_the_names_of_its_source_and_no_others(path):
    source, names = TABLE[path]
    module, home = importlib.import_module(path), importlib.import_module(source)
    every, _, further = names.partition("*")
    wanted = [*(home.__all__ if every != names else every.split()), *further.split()]
    assert module.__all__ == wanted
    assert all(getattr(module, name) is getattr(home, name) for name in wanted)


def test_both_forms_of_import_work_in_a_fresh_process():
    lines = [
        "import qlab.nn.quantized.modules.conv",
        "assert qlab.nn.quantized.modules.conv.Conv2d is qlab.nn.quantized.Conv2d",
        "from qlab.nn.intrinsic.modules.fused import ConvReLU2d",
        "from qlab.nn.quantized.dynamic.modules.rnn import LSTM",
        "from qlab.quantization.backend_config.native import get_native_backend_config",
        "import qlab.nn.qat.dynamic.modules.linear as m; m.Linear",
        "from qlab.nn.quantized.modules import *; Conv1d, FloatFunctional",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)


def test_importing_qlab_is_enough_as_importing_torch_is():
    lines = [
        "import qlab",
        "assert qlab.quantization.quantize_dynamic and qlab.quantization.quantize_fx.prepare_fx",
        "assert qlab.nn.quantized.dynamic.Linear and qlab.nn.intrinsic.qat.freeze_bn_stats",
        "assert qlab.ns and qlab.quantization.observer.MinMaxObserver",
        "assert not hasattr(qlab, 'nothing') and not hasattr(qlab.quantization, 'nothing')",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)


def test_paths_are_attributes_too():
    lines = [
        "import qlab.nn.quantized as nnq, qlab.nn.intrinsic as nni, qlab.quantization as tq",
        "assert nnq.modules.conv.Conv2d is nnq.Conv2d and nnq.dynamic.modules.linear.Linear",
        "assert nni.modules.fused.ConvReLU2d is nni.ConvReLU2d and nni.qat.modules.conv_fused",
        "assert tq.fx.custom_config.PrepareCustomConfig and tq.fx.graph_module",
        "assert tq.backend_config.native.get_native_backend_config",
        "assert not hasattr(nnq, 'nothing') and not hasattr(nnq.modules, 'nothing')",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)


@pytest.mark.parametrize("path", SIBLINGS)
def test_a_face_has_the_names_that_its_file_imports(path: str):
    face = importlib.import_module(path)
    for home in map(importlib.import_module, SIBLINGS[path]):
        for name in home.__all__:
            assert getattr(face, name) is not None
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {path} import nothing")


def test_imports_of_public_code():
    from qlab.nn.quantized import Conv2d
    from qlab.nn.quantized.modules.utils import WeightedQuantizedModule
    from qlab.observers import MinMaxObserver
    from qlab.quantization import qconfig, quantize_fx
    from qlab.quantization.fake_quantize import MovingAverageMinMaxObserver
    from qlab.quantization.quantize import default_dynamic_qconfig, get_default_qat_module_mappings

    assert issubclass(Conv2d, WeightedQuantizedModule)
    assert qconfig.MinMaxObserver is MinMaxObserver
    assert issubclass(MovingAverageMinMaxObserver, MinMaxObserver)
    assert default_dynamic_qconfig.weight and get_default_qat_module_mappings()
    assert quantize_fx.PrepareCustomConfig and quantize_fx.ObservedGraphModule


def test_what_was_imported_by_a_path_is_pickled_by_its_home():
    from qlab.nn.quantized.modules.linear import Linear

    assert Linear.__module__ == "qlab.nn.quantized.linear"
    assert isinstance(pickle.loads(pickle.dumps(Linear(3, 4))), nnq.Linear)


def test_a_path_of_a_pickle_made_before_still_leads_to_the_class():
    assert pickle.loads(b"cqlab.nn.intrinsic.modules\nConvReLU2d\n.") is nni.ConvReLU2d


def test_other_paths_are_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"quantized\.modules\.nothing"):
        importlib.import_module("qlab.nn.quantized.modules.nothing")


@pytest.mark.parametrize("path", TABLE)
def test_a_name_that_a_path_lacks_is_an_attribute_error(path):
    assert not hasattr(importlib.import_module(path), "nothing")


def test_it_is_installed_once():
    install()
    assert sum(isinstance(finder, AliasFinder) for finder in sys.meta_path) == 1
