"""`prepare_qat` and `quantize_qat`: the eager workflow with training in the middle."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from qlab import registry
from qlab.eager.convert import ModuleMapping, convert, swap_children
from qlab.eager.prepare import prepare, propagate_qconfig_
from qlab.errors import ArgumentError, check_callable, check_dict, check_type
from qlab.fake_quantize import FakeQuantizeBase
from qlab.nn.aware import QuantizationAware
from qlab.nn.quantizable.insides import insides_are
from qlab.observers import ActivationPostProcess
from qlab.ops import checks


def prepare_qat(
    model: nn.Module, mapping: ModuleMapping | None = None, inplace: bool = False
) -> nn.Module:
    """A model that trains with rounded weights and activations.

    Layers with weights become those of `qlab.nn.qat` and `qlab.nn.intrinsic.qat`; what can be
    quantized rounds its output by its qconfig. Train the result, call ``eval()`` and `convert` it.

    Args:
        model: In training mode, with ``qconfig`` attributes such as
            ``get_default_qat_qconfig()`` on it or on its modules; fused by `fuse_modules_qat`.
        mapping: Float class → quantization-aware class; the registry's if not given.
        inplace: Change the model itself instead of a copy.

    Warns:
        UserWarning: No module has a qconfig; or a qconfig only observes the weight, so that the
            network does not learn to live with its rounding. Names the modules.

    Raises:
        ArgumentError: The model is in evaluation mode.
        DTypeError: A ``qconfig`` attribute is no pair of observer factories.
        QlabError: A module cannot be made quantization-aware; names it. The model stays as it was.
    """
    checks.model("prepare_qat", model)
    if not model.training:
        raise ArgumentError(
            "prepare_qat: the model is not in training mode",
            expected="model.training",
            received="evaluation mode",
            fix="Call model.train() first; to quantize without training, use prepare.",
        )
    check_dict("prepare_qat", "mapping", mapping)
    mapping = registry.qat_modules() if mapping is None else mapping
    if not inplace:
        model = copy.deepcopy(model)
    propagate_qconfig_(model)
    swap_children("prepare_qat", model, (mapping, {}))
    _warn_of_observed_weights(model)
    with insides_are(trained=True):
        return prepare(model, inplace=True, observer_non_leaf_module_list=set(mapping.values()))


def _warn_of_observed_weights(model: nn.Module) -> None:
    observed = [
        f"{path!r} ({type(module.weight_fake_quant).__name__})"
        for path, module in model.named_modules()
        if isinstance(module, QuantizationAware)
        and isinstance(module.weight_fake_quant, ActivationPostProcess)
        and not isinstance(module.weight_fake_quant, FakeQuantizeBase)
    ]
    if observed:
        warnings.warn(
            "prepare_qat: the qconfig of these modules only observes the weight, so that training "
            f"does not see its rounding: {', '.join(observed)}. Use a qconfig with fake "
            "quantizers, such as get_default_qat_qconfig()",
            stacklevel=3,
        )


def quantize_qat(
    model: nn.Module,
    run_fn: Callable[..., Any],
    run_args: Iterable[Any],
    inplace: bool = False,
) -> nn.Module:
    """Prepares, trains and converts a model.

    Args:
        model: With ``qconfig`` attributes and stubs; put into training mode.
        run_fn: Trains the prepared model in place: ``run_fn(model, *run_args)``.
        run_args: Its further arguments.
        inplace: Change the model itself instead of a copy.
    """
    checks.model("quantize_qat", model)
    check_callable("quantize_qat", "run_fn", run_fn)
    check_type("quantize_qat", "run_args", run_args, Iterable, "a list of run_fn's arguments")
    if not inplace:
        model = copy.deepcopy(model)
    model.train()
    prepare_qat(model, inplace=True)
    run_fn(model, *run_args)
    return convert(model, inplace=True)
