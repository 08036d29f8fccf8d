"""Golden parameters of quantization-aware modules with batch norm that torch 2.13 made anew.

Never run by the suite: ``python -m tests.golden.make_qat_start``.
"""

import torch
from safetensors.torch import save_file
from torch.ao.nn.intrinsic import qat
from torch.ao.quantization import default_qat_qconfig

from tests.golden.test_qat_start import CASES, PATH


def main() -> None:
    """Writes the file."""
    found = {}
    for name, kind, arguments in CASES:
        torch.manual_seed(7)
        made = getattr(qat, kind)(**arguments, qconfig=default_qat_qconfig)
        if kind == "LinearBn1d":
            made.bias = None  # the reference leaves it as memory had it
        found |= {f"{name}.{key}": value for key, value in made.state_dict().items()
                  if "fake_quant" not in key}  # fmt: skip
    save_file(found, PATH)


if __name__ == "__main__":
    main()
