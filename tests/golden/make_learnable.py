"""Makes `learnable.safetensors`: values and gradients of the reference's learnable fake quantizer.

Never run by the suite; needs torch 2.13, whose own quantization it calls.

    python -m tests.golden.make_learnable
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")

import torch.ao.quantization as q  # noqa: E402
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize  # noqa: E402

from tests.golden.learnable_cases import CASES, step  # noqa: E402


def main() -> None:
    tensors: dict[str, torch.Tensor] = {}
    for seed, name in enumerate(CASES):
        torch.manual_seed(seed)
        given = {"x": torch.randn(4, 50) * 3, "gradient": torch.randn(4, 50)}
        found = step(_LearnableFakeQuantize, q, torch, name, **given)
        tensors |= {f"{name}/{key}": value for key, value in (given | found).items()}
    save_file(tensors, Path(__file__).with_name("learnable.safetensors"))


if __name__ == "__main__":
    main()
