"""`load_lab`: a Lab out of the file that `Lab.save` wrote."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from qlab.io.lab_file import NoData, read_lab
from qlab.lab import Lab
from qlab.runs import Runs


def load_lab(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    calibration: Any = None,
    evaluation: Any = None,
    device: torch.device | str | None = None,
    *,
    memory_budget: int = 2**30,
    runs: str | os.PathLike[str] | Runs | None = None,
) -> Lab:
    """Reads a Lab that `Lab.save` wrote; it answers as before, without a calibration pass.

    Args:
        path: The file.
        model: The float model; checked against the saved one. The file's own if not given, of
            whose classes only those of ``torch.nn`` are left: rules that name a class of yours
            match nothing in it.
        calibration: The data of the saved statistics; only asked for to measure, as `Lab.compare`
            does where no evaluation data is given.
        evaluation: Data to measure on, as in `Lab`; may be other than before.
        device: Where everything runs.
        memory_budget: As in `Lab`.
        runs: Where runs are kept from now on, as in `Lab`; the saved ones are added there.

    Raises:
        FormatError: Not such a file, a damaged one, or another version.
        ArgumentError: Another model or other calibration data than the file was saved from (names
            the first difference); the file holds no model and none is given; no such file.
    """
    stored = read_lab(path)
    nothing = evaluation is None and calibration is None
    data = (
        NoData("calibration", sum(stored.calibration.seen)) if calibration is None else calibration
    )
    lab = Lab(
        stored.model(model),
        stored.example_inputs,
        data,
        evaluation,
        device,
        memory_budget=memory_budget,
        runs=runs,
    )
    lab = lab.restore(stored, with_data=calibration is not None)
    if nothing:
        lab.subject = stored.subject
    return lab
