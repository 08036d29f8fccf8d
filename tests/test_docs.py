"""The code in `docs/` runs as it stands, block after block of one page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import qlab

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_python_runs_without_a_warning(page: Path, tmp_path: Path):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    code = f"import os; os.chdir({str(ROOT)!r})\n" + "\n".join(blocks)
    code = code.replace('"migrated.pt"', repr(str(tmp_path / "migrated.pt")))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_substitution_of_the_migration_guide_does_what_the_table_says(tmp_path: Path):
    (script,) = re.findall(
        r"```sh\n(sed .*?) model\.py\n```", (ROOT / "docs/migrating.md").read_text()
    )
    source = tmp_path / "model.py"
    source.write_text(
        "from torch.ao.quantization import prepare\nimport torch.ao.nn.quantized as nnq\n"
        "import torch.ao.ns._numeric_suite_fx as ns\n"
        "x = torch.quantize_per_tensor(y, 0.1, 0, torch.quint8)\ns = torch.per_tensor_affine\n"
        "w = torch.quantize_per_channel(y, a, b, 0, torch.qint8); torch.dequantize(x)\n"
        "import torch.quantization as tq\nm = torch.nn.quantized.Linear(torch.nn.Linear, 2)\n"
        "from torch.nn.intrinsic.qat import ConvBn2d\ntorch.quantized_batch_norm(x)\n"
        "torch._make_per_tensor_quantized_tensor(c); torch._make_per_channel_quantized_tensor(c)\n"
        "torch._empty_affine_quantized([2]); torch._empty_per_channel_affine_quantized([2])\n"
    )
    subprocess.run(["sh", "-c", f"{script} {source}"], check=True)
    assert source.read_text() == (
        "from qlab.quantization import prepare\nimport qlab.nn.quantized as nnq\n"
        "import qlab.ns._numeric_suite_fx as ns\n"
        "x = qlab.quantize_per_tensor(y, 0.1, 0, qlab.quint8)\ns = qlab.per_tensor_affine\n"
        "w = qlab.quantize_per_channel(y, a, b, 0, qlab.qint8); qlab.dequantize(x)\n"
        "import qlab.quantization as tq\nm = qlab.nn.quantized.Linear(torch.nn.Linear, 2)\n"
        "from qlab.nn.intrinsic.qat import ConvBn2d\nqlab.quantized_batch_norm(x)\n"
        "qlab._make_per_tensor_quantized_tensor(c); qlab._make_per_channel_quantized_tensor(c)\n"
        "qlab._empty_affine_quantized([2]); qlab._empty_per_channel_affine_quantized([2])\n"
    )
    for name in set(re.findall(r"qlab\.(\w+)\(", source.read_text())):
        assert callable(getattr(qlab, name))
