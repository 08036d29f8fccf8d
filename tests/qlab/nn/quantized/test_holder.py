"""What every module with quantization parameters brings along."""

import torch

from qlab.nn.quantized.holder import constant_in_traces


def plain() -> int:
    return 1


def test_a_constant_is_marked_as_torch_marks_it():
    def ours() -> int:
        return 1

    marked = constant_in_traces(ours)
    assert marked is ours
    assert vars(ours) == vars(torch.compiler.assume_constant_result(plain))
