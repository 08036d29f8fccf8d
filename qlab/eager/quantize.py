"""`quantize`: the whole eager workflow in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from qlab.eager.convert import ModuleMapping, convert
from qlab.eager.prepare import prepare


def quantize(
    model: nn.Module,
    run_fn: Callable[..., Any],
    run_args: Iterable[Any],
    mapping: ModuleMapping | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Prepares, calibrates and converts a model.

    Args:
        model: With ``qconfig`` attributes and stubs.
        run_fn: Runs calibration data through the prepared model: ``run_fn(model, *run_args)``.
        run_args: Its further arguments.
        mapping: As in `convert`.
        inplace: Change the model itself instead of a copy.
    """
    if not inplace:
        model = copy.deepcopy(model)
    model.eval()
    prepare(model, inplace=True)
    run_fn(model, *run_args)
    return convert(model, mapping, inplace=True)


def default_eval_fn(model: nn.Module, calib_data: Iterable[tuple[Any, Any]]) -> None:
    """Runs a model over ``(data, target)`` pairs; a ``run_fn`` for `quantize`."""
    for data, _ in calib_data:
        model(data)
