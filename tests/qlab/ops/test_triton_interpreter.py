"""Triton without a GPU: its kernels are interpreted on the CPU, and compiled for chips.

The interpreter has to be chosen before Triton is imported, so the tests that it serves run in a
process of their own, which this file starts.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qlab import ops
from qlab.dtypes import qint8, quint8
from qlab.errors import UnsupportedError
from tests.qlab.ops.examples import W, X, Y, codes

pytest.importorskip("triton", reason="Triton is not installed")
HERE = Path(__file__).parent
INTERPRETED = sorted(
    path
    for path in HERE.glob("test_triton_*.py")
    if "triton_device" in path.read_text() and path != Path(__file__)
)
interpreting = os.environ.get("TRITON_INTERPRET") == "1"
in_the_suite = pytest.mark.skipif(interpreting, reason="this is the interpreter's process")


@in_the_suite
def test_interpreted_kernels_give_the_integers_of_the_reference():
    command = [sys.executable, "-m", "pytest", *map(str, INTERPRETED), "-q", "-m", "not cuda"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=HERE.parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed is not None, done.stdout[-6000:] + done.stderr[-2000:]
    written = sum(path.read_text().count("triton_device: torch.device") for path in INTERPRETED)
    assert int(passed[1]) >= written > 0


@in_the_suite
def test_on_the_cpu_triton_needs_its_interpreter():
    layer = (codes(quint8, 3, 4), X, codes(qint8, 6, 4), W, None, Y)
    with (
        ops.use("triton"),
        pytest.raises(
            UnsupportedError, match="on the CPU, where Triton runs with TRITON_INTERPRET"
        ),
    ):
        ops.linear(*layer)


def test_asking_for_kernels_on_the_cpu_does_not_import_triton():
    code = (
        "import sys, torch; from qlab import ops; from tests.qlab.ops.examples import *;"
        "ops.linear(codes(quint8, 3, 4), X, codes(qint8, 6, 4), W, None, Y);"
        "assert 'triton' not in sys.modules, 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[2], check=True)
