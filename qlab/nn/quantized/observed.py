"""The reference's attributes on prepared modules, read in one place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from qlab.errors import UncalibratedError
from qlab.nn.quantized.holder import QParamsHolder
from qlab.observers import ActivationPostProcess, FixedQParamsObserver, qparams_from
from qlab.qparams import QParams

_PREPARE = "Call prepare (or prepare_qat) on the model and run calibration data through it first."


def qparams_of(observer: Any) -> QParams | None:
    """Quantization parameters of an observer or fake quantizer, one of qlab's or anyone's.

    Args:
        observer: An `ActivationPostProcess`; ``nn.Identity`` or None; or an object with
            ``calculate_qparams()``, ``dtype`` and, per channel, ``ch_axis``.

    Returns:
        With every code of the type in use, whatever part of them the observer's scale was chosen
        for; None where the tensor stays in floating point.
    """
    if observer is None or isinstance(observer, nn.Identity):
        return None
    if isinstance(observer, ActivationPostProcess):
        return None if observer.spec is None else observer.qparams().whole_range()
    return qparams_from(observer).whole_range()


def activation_qparams(mod: nn.Module) -> QParams | None:
    """What the observer that prepare put on ``mod`` found; None where it marks a float output.

    Raises:
        UncalibratedError: There is no observer, or it has seen no data.
    """
    observer = getattr(mod, "activation_post_process", None)
    if observer is None:
        raise UncalibratedError(
            f"{type(mod).__name__} has no activation_post_process", fix=_PREPARE
        )
    return qparams_of(observer)


def weight_qparams(mod: nn.Module, weight: Tensor, *, observe: bool) -> QParams | None:
    """What a weight observer finds for ``weight``.

    Args:
        mod: A quantization-aware module with ``weight_fake_quant``, or a float module whose
            ``qconfig`` makes the observer.
        weight: The float weight.
        observe: Whether an existing ``weight_fake_quant`` sees the weight again.

    Raises:
        UncalibratedError: The module has neither.
    """
    observer = getattr(mod, "weight_fake_quant", None)
    qconfig = getattr(mod, "qconfig", None)
    if observer is None:
        if qconfig is None:
            raise UncalibratedError(f"{type(mod).__name__} has no qconfig", fix=_PREPARE)
        observer, observe = qconfig.weight(), True
    if observe:
        observer(weight)
    return qparams_of(observer)


@contextmanager
def placeholders(mod: nn.Module) -> Iterator[list[str]]:
    """Puts scale 1 in the place of every output observer of ``mod`` that has seen no data.

    Yields:
        The paths of their modules; the observers come back at the end.
    """
    replaced: list[tuple[nn.Module, Any]] = []
    paths: list[str] = []
    for path, part in mod.named_modules():
        observer = getattr(part, "activation_post_process", None)
        if isinstance(part, ActivationPostProcess) or not isinstance(
            observer, ActivationPostProcess
        ):
            continue
        try:
            qparams_of(observer)
        except UncalibratedError:
            replaced.append((part, observer))
            paths.append(path)
    try:
        for part, observer in replaced:
            part.activation_post_process = placeholder(observer)
        yield paths
    finally:
        for part, observer in replaced:
            part.activation_post_process = observer


def placeholder(observer: Any) -> FixedQParamsObserver:
    """An observer of the same type and scheme that says scale 1, zero point 0."""
    return FixedQParamsObserver(scale=1.0, zero_point=0, dtype=observer.dtype)


def forget_calibration(model: nn.Module) -> None:
    """Makes the scales of a model's outputs and inputs unknown until a state dict brings them."""
    for part in model.modules():
        if isinstance(part, QParamsHolder):
            part.forget_calibration()


def is_uncalibrated(model: nn.Module) -> bool:
    """Whether a converted model has a scale that is not known yet."""
    return any(isinstance(part, QParamsHolder) and part.forgotten for part in model.modules())


def warn_uncalibrated(caller: str, paths: Iterable[str]) -> None:
    """Says which modules were converted without data, at the caller's caller."""
    named = list(paths)
    shown = ", ".join(map(repr, named[:5])) + (", …" if len(named) > 5 else "")
    warnings.warn(
        f"{caller}: no calibration data reached {shown}. Their scales are not known, and using "
        "them is an error until a state dict of a calibrated model is loaded. NaN and infinities "
        "do not count as data.",
        stacklevel=4,
    )
