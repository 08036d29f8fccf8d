"""Golden vectors of static quantization as a graph by torch 2.13's own workflow.

Run by hand: ``python -m tests.golden.make_static_fx``. The suite reads the committed result.
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

from tests.golden.static_fx_cases import OBSERVERS, Net, batches, build, observed

TARGET = Path(__file__).with_name("static_fx.safetensors")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "onednn"
    torch.manual_seed(0)
    net = Net()
    tensors = {f"state.{key}": value.clone() for key, value in net.state_dict().items()}
    for observer in OBSERVERS:
        prepared = build(quantization, quantize_fx, observer, net)
        found = observed(prepared)
        tensors |= {f"{observer}/at.{node}": torch.tensor(given) for node, given in found.items()}
        converted = quantize_fx.convert_fx(prepared)
        for name, module in converted.named_modules():
            if isinstance(scale := getattr(module, "scale", None), float):
                given = torch.tensor([scale, float(module.zero_point)])
                tensors[f"{observer}/scale.{name}"] = given
        with torch.no_grad():
            tensors[f"{observer}/y"] = converted(batches()[0])
    save_file(tensors, TARGET, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
