"""`quantize`: the whole eager workflow in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from qlab.eager.convert import ModuleMapping, convert
from qlab.eager.prepare import prepare
from qlab.errors import DTypeError, check_callable, check_type
from qlab.ops import checks


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
    checks.model("quantize", model)
    check_callable("quantize", "run_fn", run_fn)
    check_type("quantize", "run_args", run_args, Iterable, "a list of run_fn's arguments")
    if not inplace:
        model = copy.deepcopy(model)
    model.eval()
    prepare(model, inplace=True)
    run_fn(model, *run_args)
    return convert(model, mapping, inplace=True)


def default_eval_fn(model: nn.Module, calib_data: Iterable[tuple[Any, Any]]) -> None:
    """Runs a model over ``(data, target)`` pairs; a ``run_fn`` for `quantize`."""
    check_callable("default_eval_fn", "the model", model)
    check_type("default_eval_fn", "the data", calib_data, Iterable, "(input, target) pairs")
    for batch in calib_data:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise DTypeError(
                "default_eval_fn: the data are no pairs",
                expected="(input, target) pairs",
                received=type(batch).__name__,
                fix="Give quantize a run_fn of your own that calls the model on your batches.",
            )
        model(batch[0])
