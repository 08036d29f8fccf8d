"""Ten thousand images and more activations than memory is allowed: what is held stays flat."""

import subprocess
import sys
from pathlib import Path

import pytest

# Batches of 50 images of 12 kB; a batch's activations are 52 MB, those of all images 10 GB.
CODE = """
import re
from pathlib import Path

import torch
from torch import nn

import qlab
from qlab.counting import load


class Stream:
    def __len__(self):
        return 200

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(len(self)):
            yield torch.randn(50, 3, 32, 32, generator=generator)


def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


torch.manual_seed(0)
torch.set_num_threads(2)
layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU()]
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
example = torch.zeros(1, 3, 32, 32)
load()
few = [next(iter(Stream()))] * 2
warm = qlab.Lab(model, example, few, memory_budget=2**20)
warm.calibrate()
warm.compare()
before = peak()
lab = qlab.Lab(model, example, Stream(), few, memory_budget=2**20)
seen = lab.calibrate()
print(peak() - before, seen.samples, lab.statistics("0").count)
lab.compare()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
def test_ten_thousand_streamed_images_leave_memory_flat():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    (calibrated, samples, count), (compared,) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    assert (samples, count) == (10_000, 10_000 * 64 * 32 * 32)
    assert calibrated < 32 * 1024  # KiB, beside the 120 MB of data and 10 GB of activations
    assert compared < 64 * 1024
