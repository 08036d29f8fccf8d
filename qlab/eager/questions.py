"""What a qconfig asks for, and other questions of the reference's ``utils``."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qlab.dtypes import as_qdtype, qint8, quint8
from qlab.errors import ArgumentError, DTypeError, UnsupportedError, check_dict, check_type
from qlab.granularity import QScheme, per_channel_affine_float_qparams, per_tensor_affine
from qlab.observers.base import ActivationPostProcess
from qlab.ops import checks
from qlab.qconfig import QConfig
from qlab.qparams import QParams, choose_qparams
from qlab.registry.asked import asked_by
from qlab.registry.quant_type import QuantType, kind_of


def activation_dtype(qconfig: QConfig) -> Any:
    """The data type of the activation: a `qlab.QDType`, or a floating ``torch.dtype``."""
    return _dtype(_half(qconfig, "activation"))


def weight_dtype(qconfig: QConfig) -> Any:
    """The data type of the weight: a `qlab.QDType`, or a floating ``torch.dtype``."""
    return _dtype(_half(qconfig, "weight"))


def is_activation_post_process(module: Any) -> bool:
    """Whether a module is an observer or a fake quantizer."""
    return isinstance(module, ActivationPostProcess)


def _half(qconfig: QConfig, name: str) -> Any:
    expected = "a QConfig(activation=..., weight=...)"
    check_type("A question about a qconfig", "the argument", qconfig, tuple, expected)
    return getattr(qconfig, name)


def _dtype(factory: Any) -> Any:
    spec = asked_by(factory).spec
    made = None if factory is None else factory()
    return spec.dtype if spec is not None else getattr(made, "dtype", torch.float32)


def activation_is_statically_quantized(qconfig: QConfig) -> bool:
    """Whether the activation has a scale that calibration finds."""
    asked = asked_by(_half(qconfig, "activation"))
    return asked.spec is not None and not asked.dynamic


def activation_is_dynamically_quantized(qconfig: QConfig) -> bool:
    """Whether the activation is quantized anew in every call."""
    return asked_by(_half(qconfig, "activation")).dynamic


def activation_is_int8_quantized(qconfig: QConfig) -> bool:
    """Whether the activation has eight bits and a scale."""
    return activation_dtype(qconfig) in (quint8, qint8)


def activation_is_int32_quantized(qconfig: QConfig) -> bool:
    """Whether the activation has 32 bits and a scale."""
    return activation_dtype(qconfig) == as_qdtype("qint32")


def weight_is_quantized(qconfig: QConfig) -> bool:
    """Whether the weight is stored as codes."""
    return asked_by(_half(qconfig, "weight")).spec is not None


def weight_is_statically_quantized(qconfig: QConfig) -> bool:
    """Whether the weight is stored as codes of eight bits."""
    return weight_dtype(qconfig) in (quint8, qint8)


def op_is_int8_dynamically_quantized(qconfig: QConfig) -> bool:
    """Whether eight-bit weights meet inputs that are quantized anew in every call."""
    dynamic = activation_is_dynamically_quantized(qconfig)
    return dynamic and activation_is_int8_quantized(qconfig) and weight_dtype(qconfig) == qint8


def get_qconfig_dtypes(qconfig: QConfig) -> tuple[Any, Any, bool]:
    """Data types of activation and weight, and whether the activation is dynamic."""
    dynamic = activation_is_dynamically_quantized(qconfig)
    return activation_dtype(qconfig), weight_dtype(qconfig), dynamic


def get_quant_type(qconfig: QConfig) -> QuantType:
    """As what a qconfig has a layer quantized.

    Raises:
        UnsupportedError: It quantizes neither activation nor weight.
    """
    activation = asked_by(_half(qconfig, "activation"))
    kind = kind_of(activation)
    if kind is QuantType.WEIGHT_ONLY and not weight_is_quantized(qconfig):
        raise UnsupportedError("This qconfig quantizes nothing", received=repr(qconfig))
    return kind


def is_symmetric_quant(qscheme: Any) -> bool:
    """Whether a scheme has its zero point in the middle."""
    return QScheme.parse(qscheme).symmetric


def is_float_qparams(qscheme: Any) -> bool:
    """Whether a scheme's zero points are floating point."""
    return QScheme.parse(qscheme) is per_channel_affine_float_qparams


def parent_name(target: str) -> tuple[str, str]:
    """The path of the parent of a module, ``""`` for the model itself, and the name in it."""
    path, _, name = target.rpartition(".")
    return path, name


def is_per_tensor(qscheme: Any) -> bool:
    """Whether a scheme has one scale for the whole tensor."""
    return not is_per_channel(qscheme)


def is_per_channel(qscheme: Any) -> bool:
    """Whether a scheme has one scale per channel."""
    return QScheme.parse(qscheme).per_channel


def check_min_max_valid(min_val: Tensor, max_val: Tensor) -> bool:
    """Whether a range was seen: not empty, not the start values, and in order.

    Raises:
        ArgumentError: The smallest value lies above the largest.
    """
    checks.tensor("check_min_max_valid", "smallest value", min_val)
    checks.tensor("check_min_max_valid", "largest value", max_val)
    if not min_val.numel() or not max_val.numel():
        return False
    if bool((min_val == float("inf")).any()) and bool((max_val == float("-inf")).any()):
        return False
    if not bool((min_val <= max_val).all()):
        raise ArgumentError(
            "A range has its smallest value above its largest",
            received=f"min {min_val}, max {max_val}",
        )
    return True


def validate_qmin_qmax(quant_min: int, quant_max: int) -> None:
    """Raises `ArgumentError` unless codes are in order and one of them can stand for 0."""
    for code in (quant_min, quant_max):
        check_type("validate_qmin_qmax", "a code", code, int, "a whole number")
    if not quant_min <= 0 <= quant_max or quant_min == quant_max:
        raise ArgumentError(
            "quant_min and quant_max enclose the code of 0",
            expected="quant_min <= 0 <= quant_max, not both the same",
            received=f"{quant_min}, {quant_max}",
        )


def calculate_qmin_qmax(
    quant_min: int | None,
    quant_max: int | None,
    has_customized_qrange: bool,
    dtype: Any,
    reduce_range: bool,
) -> tuple[int, int]:
    """Smallest and largest code of a data type, or the given ones; halved where asked for.

    Raises:
        ArgumentError: The given codes are not in order, or missing.
    """
    kind = as_qdtype(dtype)
    low, high = kind.quant_min, kind.quant_max
    if has_customized_qrange:
        if quant_min is None or quant_max is None:
            raise ArgumentError("A range of one's own needs both quant_min and quant_max")
        low, high = quant_min, quant_max
        validate_qmin_qmax(low, high)
    return (low // 2, high // 2) if reduce_range else (low, high)


def determine_qparams(
    min_val: Tensor,
    max_val: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: Any,
    eps: Tensor,
    has_customized_qrange: bool,
    qscheme: Any = per_tensor_affine,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point that cover a range; see `qlab.qparams.choose_qparams`.

    Args:
        min_val: Smallest values, float32, () or (channels,).
        max_val: Largest values, likewise.
        quant_min: Smallest code in use.
        quant_max: Largest code in use.
        dtype: Quantized data type.
        eps: Smallest scale.
        has_customized_qrange: As in the reference; the codes given are used in any case.
        qscheme: Whether symmetric.

    Returns:
        Scale (float32) and zero point (int32), 1-d.
    """
    scheme = QScheme.parse(qscheme)
    found: QParams = choose_qparams(
        min_val,
        max_val,
        as_qdtype(dtype),
        symmetric=scheme.symmetric,
        granularity=scheme.granularity(0),
        quant_min=quant_min,
        quant_max=quant_max,
        eps=float(eps),
    )
    return torch.atleast_1d(found.scale), torch.atleast_1d(found.zero_point)


def getattr_from_fqn(obj: Any, fqn: str) -> Any:
    """The attribute at a dotted path.

    Raises:
        AttributeError: There is none.
    """
    return operator.attrgetter(fqn)(obj)


def get_combined_dict(
    default_dict: Mapping[Any, Any], additional_dict: Mapping[Any, Any]
) -> dict[Any, Any]:
    """Both together; the second goes before the first."""
    both = (default_dict, additional_dict)
    first, second = (check_dict("get_combined_dict", "an argument", given) for given in both)
    return {**first, **second}


def has_no_children_ignoring_parametrizations(module: nn.Module) -> bool:
    """Whether a module has no parts but its parametrizations."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def to_underlying_dtype(qdtype: Any) -> torch.dtype:
    """The ``torch.dtype`` of the tensors that hold a type's codes."""
    return as_qdtype(qdtype).storage


def get_qparam_dict(observer_or_fake_quant: Any) -> dict[str, Any]:
    """``qscheme``, ``dtype``, scale and zero point, codes and axis of an observer, by name."""
    if not callable(getattr(observer_or_fake_quant, "calculate_qparams", None)):
        raise DTypeError(
            "get_qparam_dict: not an observer",
            expected="an observer or a fake quantizer",
            received=type(observer_or_fake_quant).__name__,
        )
    keys = ("qscheme", "dtype", "quant_min", "quant_max", "ch_axis")
    found = {k: getattr(observer_or_fake_quant, k, None) for k in keys}
    scale, zero_point = observer_or_fake_quant.calculate_qparams()
    axis = {"axis": found.pop("ch_axis")} if is_per_channel(found["qscheme"]) else {}
    found.pop("ch_axis", None)
    return {**found, **axis, "scale": scale, "zero_point": zero_point}


def get_fqn_to_example_inputs(
    model: nn.Module, example_inputs: tuple[Any, ...]
) -> dict[str, tuple[Any, ...]]:
    """What each submodule is called with, in one run of the model.

    Args:
        model: The model; it is run once, as it is.
        example_inputs: The arguments of one call.

    Returns:
        Path → positional arguments, with those given by name, and defaults, in their places. Of
        several calls the last; modules that are not called are left out.
    """
    checks.model("get_fqn_to_example_inputs", model)
    what = "example_inputs"
    check_type("get_fqn_to_example_inputs", what, example_inputs, (tuple, list), "a tuple")
    found: dict[str, tuple[Any, ...]] = {}

    def note(path: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            if kwargs:
                bound.apply_defaults()
            found[path] = tuple(bound.arguments.values()) if kwargs else args

        return before

    paths = list(model.named_modules())
    hooks = [m.register_forward_pre_hook(note(path), with_kwargs=True) for path, m in paths]
    try:
        model(*example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def get_swapped_custom_module_class(
    custom_module: nn.Module,
    custom_module_class_mapping: Mapping[Any, Mapping[Any, Any]],
    qconfig: QConfig,
) -> Any:
    """The class that takes a custom module's place under a qconfig.

    Raises:
        UnsupportedError: The mapping has none.
    """
    kind = get_quant_type(qconfig)
    classes = custom_module_class_mapping.get(kind, {})
    if type(custom_module) not in classes:
        raise UnsupportedError(
            f"Nothing takes the place of a {type(custom_module).__name__}",
            expected=f"an entry for it under {kind.name.lower()}",
            received=", ".join(known.__name__ for known in classes) or "no classes",
        )
    return classes[type(custom_module)]
