"""What a program gives in a process that has no qlab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

#: Runs an archive in a process that finds torch and nothing of this repository.
_ALONE = """
import sys, warnings
sys.path[:] = [p for p in sys.path if p and p != sys.argv[4]]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "qlab":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
try:
    import qlab
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("qlab is there")
import numpy, torch
torch.set_num_threads(1)
warnings.simplefilter("ignore")
model = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    given = numpy.load(sys.argv[2])
    if isinstance(given, numpy.ndarray):
        found = model(torch.from_numpy(given))
    else:
        found = model(**{name: torch.from_numpy(given[name]) for name in given})
    found = found if isinstance(found, dict) else {"output": found}
    numpy.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
assert "qlab" not in sys.modules
"""


def results_alone(
    content: bytes, inputs: torch.Tensor | Mapping[str, torch.Tensor], folder: Path
) -> dict[str, torch.Tensor]:
    """The outputs of a ``.pt2`` archive by name; ``output`` where the program gives one tensor."""
    archive, given, result = (folder / name for name in ("m.pt2", "x.np", "y.npz"))
    archive.write_bytes(content)
    with given.open("wb") as file:
        if isinstance(inputs, torch.Tensor):
            np.save(file, inputs.numpy())
        else:
            np.savez(file, **{name: value.numpy() for name, value in inputs.items()})
    subprocess.run(
        [sys.executable, "-I", "-c", _ALONE, archive, given, result, folder],
        check=True,
        capture_output=True,
        timeout=300,
    )
    with np.load(result) as found:
        return {name: torch.from_numpy(found[name]) for name in found}


def run_alone(
    content: bytes, inputs: torch.Tensor | Mapping[str, torch.Tensor], folder: Path
) -> torch.Tensor:
    """The one output of a ``.pt2`` archive."""
    return results_alone(content, inputs, folder)["output"]
