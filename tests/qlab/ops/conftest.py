"""Where the Triton kernels are tested."""

import os

import pytest
import torch

_CUDA = pytest.param("cuda", marks=pytest.mark.cuda)


@pytest.fixture(params=["cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else [_CUDA])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU in Triton's interpreter, which needs a process of its own; else CUDA.

    `test_triton_interpreter.py` runs the tests that ask for this fixture in such a process.
    """
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; test_triton_interpreter.py runs this on the CPU")
    return torch.device(request.param)
