"""Golden vectors of modules quantized on their own by torch 2.13's graph workflow.

Run by hand: ``python -m tests.golden.make_standalone``. The suite reads the committed result.
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

from tests.golden.standalone_cases import CASES, OUTER, Net, converted, fed, looked_at

TARGET = Path(__file__).with_name("standalone.safetensors")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "onednn"
    torch.manual_seed(0)
    net = Net()
    tensors = {f"state.{key}": value.clone() for key, value in net.state_dict().items()}
    for case in (*CASES, *OUTER):
        made = converted(torch, quantization, quantize_fx, net, case)
        seen = looked_at(made, fed(torch, case), lambda value: value.is_quantized)
        tensors |= {f"{case}/{name}": value for name, value in seen.items()}
    save_file(tensors, TARGET, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
