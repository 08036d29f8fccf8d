"""Makes `reference.safetensors`: models in the reference's quantize–dequantize form, and integers.

Never run by the suite; needs torch 2.13, whose own quantization it calls. Engine onednn;
for transposed convolutions fbgemm (see `make_modules.py`), for dynamic layers x86, under which the
reference form uses half the codes, as the integer modules do under every engine.

    python -m tests.golden.make_reference
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")

import torch.ao.quantization as q  # noqa: E402
from torch.ao.quantization import quantize_fx  # noqa: E402

from tests.golden.reference_cases import CASES, run  # noqa: E402

ENGINES = {**dict.fromkeys(("conv1d", "conv2d", "conv3d"), "fbgemm"), "recurrent": "x86"}


def main() -> None:
    tensors: dict[str, torch.Tensor] = {}
    for seed, case in enumerate(CASES):
        torch.manual_seed(seed + 100)
        torch.backends.quantized.engine = ENGINES.get(case.name, "onednn")
        model, x = case.model().eval(), case.inputs()
        tensors |= {f"{case.name}/state.{k}": v for k, v in model.state_dict().items()}
        reference, integer = run(q, quantize_fx, case, model, x)
        tensors |= {f"{case.name}/{k}": v for k, v in (("x", x), ("y", reference), ("z", integer))}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, Path(__file__).with_name("reference.safetensors"))


if __name__ == "__main__":
    main()
