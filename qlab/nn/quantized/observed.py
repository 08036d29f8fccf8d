"""The reference's attributes on prepared modules, read in one place."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qlab.errors import UncalibratedError
from qlab.observers import ActivationPostProcess, qparams_from
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
