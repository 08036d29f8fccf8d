"""qlab owns its numerics: neither it nor its suite uses torch's deprecated quantization."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bans import banned_uses

ROOT = Path(__file__).parent.parent
#: The only files that may: they made the committed golden vectors.
GENERATORS = "tests/golden/make_*.py"


def python_files(*places: str) -> list[Path]:
    """The Python files in `places`, files or folders of the repository."""
    paths = [ROOT / place for place in places]
    return sorted(
        file
        for path in paths
        for file in ([path] if path.suffix == ".py" else path.rglob("*.py"))
        if file.exists()
    )


PRODUCT = python_files("qlab", "pages", "app.py", "sample_models")
SUITE = [f for f in python_files("tests") if not f.match(GENERATORS)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*PRODUCT, *SUITE], ids=name_of)
def test_no_file_uses_torchs_own_quantization(path: Path):
    uses = [f"line {use.line}: {use.name}" for use in banned_uses(path.read_text())]
    assert not uses, f"{name_of(path)} uses torch's deprecated quantization: {uses}"


@pytest.mark.parametrize(
    "source",
    [
        "import torch.ao",
        "import torch.ao.quantization as tq",
        "from torch.ao.quantization import observer",
        "from torch import ao",
        "from torch import *",
        "from torch import quantization",
        "import torch.quantization",
        "from torch.nn.quantized import Linear",
        "import torch\ntorch.ao.quantization.get_default_qconfig()",
        "import torch as t\nt.quint8",
        "import torch\nx = torch.zeros(1, dtype=torch.qint8)",
        "from torch import qint32",
        "import torch\ntorch.quint4x2",
        "import torch\ntorch.ops.quantized.linear(x)",
        "import torch\nops = torch.ops\nops.quantized.linear(x)",
        "from torch import ops as o\no.quantized.add(x, y)",
        "import torch\ntorch.ops.quantized_decomposed.quantize_per_tensor",
        "import torch\ntorch.quantize_per_tensor(x, 1.0, 0, d)",
        "import torch\ntorch.quantize_per_channel(x, s, z, 0, d)",
        "from torch import quantize_per_tensor_dynamic",
        "import torch\ntorch.ops.aten.quantize_per_tensor.default(x)",
        "import torch\ntorch.quantized_max_pool2d(x)",
        "import torch\ngetattr(torch, 'quint8')",
        "import torch\ngetattr(torch.ops, 'quantized').add",
        "import importlib\nimportlib.import_module('torch.ao.quantization')",
        "from importlib import import_module\nimport_module('torch.ao')",
        "__import__('torch.quantization')",
    ],
)
def test_the_checker_catches(source: str):
    assert banned_uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.ops.onednn.qlinear_pointwise(x)",
        "import torch\ntorch.int8, torch.uint8, torch.int32",
        "import torch\ntorch.fake_quantize_per_tensor_affine(x, 1.0, 0, 0, 255)",
        "import torch.nn.functional as F\nF.linear(x, w)",
        "import qlab\nqlab.quint8, qlab.quantize_per_tensor",
        "from qlab import quantization",
        "import qlab.nn.quantized",
        "names = {'torch.quint8': 'quint8'}",
    ],
)
def test_the_checker_allows(source: str):
    assert banned_uses(source) == []


def test_the_checker_says_what_and_where():
    (finding,) = banned_uses("import torch\n\nx = torch.quint8\n")
    assert (finding.name, finding.line) == ("torch.quint8", 3)


IMPORT_ALL = """
import importlib, pkgutil, sys
import streamlit, torch, torch.export, torch.fx

def import_all():
    packages = ("qlab", "pages.common", "pages.figures", "pages.lessons")
    for package in map(importlib.import_module, packages):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)

def torchs_own():
    return {name for name in sys.modules if name.startswith(("torch.ao", "torch.quantization"))}
"""
WITHOUT_DEPRECATED = """
for name in dir(torch):
    if name.startswith(("quint", "qint", "quantize_per_", "quantized_")):
        delattr(torch, name)
sys.modules |= dict.fromkeys(torchs_own())
del torch.ao, torch.quantization
import_all()

import qlab, sample_models
sample = sample_models.load("conv_bn_relu")
lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(32), sample.evaluation())
lab.calibrate()
assert lab.compare("int8").output["sqnr"] > 20
lab.convert("int4-weights")(*sample.example_inputs)
"""
LOADS_NO_MORE = """
before = torchs_own()
import_all()
print(*sorted(torchs_own() - before))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh Python from the root of the repository, warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", IMPORT_ALL + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_torch_without_the_deprecated_parts_is_enough():
    done = run(WITHOUT_DEPRECATED)
    assert done.returncode == 0, done.stderr


def test_importing_qlab_loads_nothing_of_torch_ao_that_torch_itself_does_not():
    done = run(LOADS_NO_MORE)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
