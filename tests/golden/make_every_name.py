"""Makes `every_name.safetensors` with torch 2.13's own quantization, engine onednn.

Dynamic transposed convolutions are made with the engine fbgemm: onednn's miss the float layer's
results by more than their size.

Never run by the suite: ``python -m tests.golden.make_every_name [PATH ...]`` makes the cases that
the file does not have yet, and those that are named; the others stay byte for byte.
"""

import json
import sys
import warnings

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.golden.every_name import Library, flat
from tests.golden.test_every_name import CASES, PATH, read

THEIRS = Library("torch", "torch.ao")
PUBLIC = ("add_observer_", "get_observer_dict")
"""Names of the documentation that torch 2.13 has as private ones."""


def main(again: list[str]) -> None:
    """Adds cases to the file."""
    warnings.simplefilter("ignore")
    for name in PUBLIC:
        setattr(THEIRS.quantization, name, THEIRS[f"quantization.quantize._{name}"])
    tensors, plain = read() if PATH.exists() else ({}, {})
    for path, case in CASES.items():
        if path in plain and path not in again:
            continue
        transposed = path.startswith("nn.quantized.dynamic.ConvTranspose")
        torch.backends.quantized.engine = "fbgemm" if transposed else "onednn"
        try:
            found = flat(case(THEIRS))
        except Exception as error:
            raise RuntimeError(f"{path}: the reference failed") from error
        tensors = {k: v for k, v in tensors.items() if not k.startswith(f"{path}/")}
        tensors |= {f"{path}/{k}": v for k, v in found.items() if isinstance(v, Tensor)}
        plain[path] = {k: v for k, v in found.items() if not isinstance(v, Tensor)}
    known = {path: plain[path] for path in sorted(plain) if path in CASES}
    kept = {k: v for k, v in sorted(tensors.items()) if k.partition("/")[0] in known}
    save_file(kept, PATH, metadata={"torch": torch.__version__, "plain": json.dumps(known)})
    print(f"{len(known)} cases, {PATH.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
