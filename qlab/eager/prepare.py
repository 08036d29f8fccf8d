"""`prepare`: qconfigs spread through the model, observers hang on what can be quantized."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations as type_of

from qlab import registry
from qlab.eager.suited import why_unsuited
from qlab.errors import DTypeError, check_dict, check_maker, check_type
from qlab.fake_quantize import FakeQuantizeBase, FixedQParamsFakeQuantize
from qlab.nn.aware import QuantizationAware
from qlab.nn.intrinsic import FusedModule
from qlab.nn.quantizable.insides import TRAINED, insides_are
from qlab.nn.quantized import FloatFunctional, QFunctional
from qlab.nn.quantized.whole import loads_as_a_whole
from qlab.nn.stubs import DeQuantStub, QuantWrapper
from qlab.observers import ActivationPostProcess, observer_for
from qlab.ops import checks
from qlab.registry import OutputKind
from qlab.registry.asked import asked_by, output_spec

_SHOWN = 8
"""How many modules a warning names one by one."""
_OBSERVERS = (ActivationPostProcess, FakeQuantizeBase)
ModuleClasses = dict[type[nn.Module], type[nn.Module]]


def static_mappings() -> dict[type[nn.Module], type[nn.Module]]:
    """Which quantized class takes the place of which float class, from the registry.

    Modules that keep their input's scale are not in it: they run on quantized and on float
    tensors as they are.
    """
    return {
        module: row.static
        for row in registry.ROWS
        if row.static is not None and row.output.kind is not OutputKind.SHARED
        for module in (*row.modules, *row.qat, row.qat_dynamic)
        if module is not None
    }


def custom_mappings() -> tuple[ModuleClasses, ModuleClasses]:
    """What prepare takes apart, from the registry: float → observed, observed → quantized."""
    rows = [(row.modules, row.custom) for row in registry.ROWS if row.custom is not None]
    to_observed = {module: custom[0] for modules, custom in rows for module in modules}
    return to_observed, {observed: quantized for _, (observed, quantized) in rows}


def propagate_qconfig_(
    module: nn.Module,
    qconfig_dict: Mapping[Any, Any] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> None:
    """Gives every module a ``qconfig`` attribute, in place.

    What a module has already stands; else the entry for its path, else that for its class, else
    what its parent got. None means float.

    Args:
        module: The model.
        qconfig_dict: Qconfigs by path or class; ``""`` is the model itself.
        prepare_custom_config_dict: ``non_traceable_module_name`` and
            ``non_traceable_module_class`` name children that get none.

    Raises:
        DTypeError: A ``qconfig`` attribute is no pair of observer factories.
    """
    propagate_below(module, qconfig_dict, None, "", prepare_custom_config_dict)


def propagate_below(
    module: nn.Module,
    qconfig_dict: Mapping[Any, Any] | None,
    qconfig_parent: Any = None,
    prefix: str = "",
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> None:
    """`propagate_qconfig_` for a part of a model.

    Args:
        module: The part.
        qconfig_dict: As there.
        qconfig_parent: What the part gets if nothing else names it.
        prefix: The path of the part in its model; empty for the whole.
        prepare_custom_config_dict: As there.

    Raises:
        DTypeError: A ``qconfig`` attribute is no pair of observer factories.
    """
    caller = "propagate_qconfig_"
    checks.model(caller, module)
    custom = check_dict(caller, "prepare_custom_config_dict", prepare_custom_config_dict)
    names = _classes(caller, "names", custom.get("non_traceable_module_name", ()))
    classes = _classes(caller, "classes", custom.get("non_traceable_module_class", ()))
    given = check_dict(caller, "qconfig_dict", qconfig_dict)

    def visit(current: nn.Module, path: str, inherited: Any) -> None:
        found = given.get(path, given.get(type_of(current), inherited))
        qconfig: Any = getattr(current, "qconfig", found)
        check_qconfig(qconfig, current, path)
        vars(current)["qconfig"] = qconfig
        for name, child in current.named_children():
            if name not in names and type(child) not in classes:
                visit(child, f"{path}.{name}" if path else name, qconfig)

    visit(module, prefix, qconfig_parent)


def check_qconfig(qconfig: Any, mod: nn.Module, path: str = "") -> None:
    """Raises `DTypeError` unless a module's qconfig is None or a pair of observer factories."""
    if qconfig is not None and not (isinstance(qconfig, tuple) and len(qconfig) == 2):
        raise DTypeError(
            f"The qconfig of {path or 'the model'!r} ({type(mod).__name__}) is not one",
            expected="a QConfig(activation=..., weight=...) or None",
            received=repr(qconfig),
        )


def prepare(
    model: nn.Module,
    inplace: bool = False,
    allow_list: Iterable[type[nn.Module]] | None = None,
    observer_non_leaf_module_list: Iterable[type[nn.Module]] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model whose quantizable modules observe their outputs, ready for calibration.

    Args:
        model: With ``qconfig`` attributes on it or on its modules.
        inplace: Change the model itself instead of a copy.
        allow_list: Classes to observe; what the registry can quantize if not given.
        observer_non_leaf_module_list: Further classes to observe, which have children.
        prepare_custom_config_dict: ``float_to_observed_custom_module_class`` maps classes to
            those whose ``from_float`` makes the observed module. Without a dict, ``nn.LSTM`` and
            ``nn.MultiheadAttention`` become those of `qlab.nn.quantizable`.

    Warns:
        UserWarning: No module has a qconfig, so nothing is observed; or modules have observers
            already, which stay as they are; or a module has a qconfig of its own, and no form that
            follows it; or its quantized form cannot follow it, and `convert` will refuse it or
            leave in float what is asked for. Names the modules, their qconfigs and the reasons.

    Raises:
        DTypeError: A ``qconfig`` attribute is no pair of observer factories.
    """
    checks.model("prepare", model)
    trains = TRAINED.get() is True  # prepare_qat ends in this function
    custom = check_dict("prepare", "prepare_custom_config_dict", prepare_custom_config_dict)
    classes = static_mappings() if allow_list is None else allow_list
    classes = _classes("prepare", "allow_list", classes)
    whole = observer_non_leaf_module_list or ()
    whole = _classes("prepare", "observer_non_leaf_module_list", whole)
    to_observed = custom_mappings()[0]
    if prepare_custom_config_dict is not None:
        key = "float_to_observed_custom_module_class"
        to_observed = check_dict("prepare", f"the entry {key!r}", custom.get(key))
        for observed in to_observed.values():
            check_maker(observed, "from_float")
    _warn_of_observers(model)
    if not inplace:
        model = copy.deepcopy(model)
    propagate_qconfig_(model, None, prepare_custom_config_dict)
    if not any(getattr(module, "qconfig", None) for module in model.modules()):
        warnings.warn(
            "prepare: no module has a qconfig, so nothing will be observed or quantized; "
            "set model.qconfig, or the qconfig of its modules, first",
            stacklevel=2,
        )
    own = _with_own_qconfig(model) if allow_list is None else {}
    unsuited = [
        f"{path or 'the model'!r} ({type_of(part).__name__}) cannot follow its qconfig: "
        f"{reason}. Its qconfig: {part.qconfig}"
        for path, part in model.named_modules()
        if is_observed(part, classes, whole)
        and type_of(part) not in to_observed
        and "activation_post_process" not in part._modules
        and getattr(part, "qconfig", None) is not None
        and (reason := why_unsuited(part, part.qconfig)) is not None
    ]
    with insides_are(trained=trains):
        add_observer_(model, classes, whole, custom_module_class_mapping=to_observed)
    own = {path: part for path, part in own.items() if type_of(part) not in to_observed}
    _warn_of_impossible_pairs(own, unsuited)
    return loads_as_a_whole(model)


def _classes(caller: str, what: str, given: Any) -> set[Any]:
    check_type(caller, what, given, Iterable, "a list")
    return set(given)


def _with_own_qconfig(model: nn.Module) -> dict[str, nn.Module]:
    """The modules without children whose qconfig is not their parent's, by path."""
    found: dict[str, nn.Module] = {}

    def visit(current: nn.Module, path: str, inherited: Any) -> None:
        qconfig = getattr(current, "qconfig", None)
        children = list(current.named_children())
        if not children and qconfig is not None and qconfig is not inherited:
            found[path] = current
        for name, child in children:
            visit(child, f"{path}.{name}" if path else name, qconfig)

    visit(model, "", None)
    return found


def _warn_of_impossible_pairs(own: Mapping[str, nn.Module], unsuited: Sequence[str]) -> None:
    """Names modules that do not get what their qconfig asks for.

    Args:
        own: Modules of a qconfig of their own; where nothing observes them they stay in float.
        unsuited: What is to be said of modules whose quantized form cannot follow their qconfig.
    """
    lines = list(unsuited[:_SHOWN])
    if unsuited[_SHOWN:]:
        lines.append(f"and {len(unsuited) - _SHOWN} more modules likewise")
    for path, module in own.items():
        row = registry.row_for_module(type_of(module))
        shared = row is not None and row.output.kind is OutputKind.SHARED
        if hasattr(module, "activation_post_process") or shared or isinstance(module, DeQuantStub):
            continue
        kind = type_of(module).__name__
        dynamic = ", only a dynamic one" if row is not None and row.dynamic is not None else ""
        lines.append(
            f"{path or 'the model'!r} ({kind}) stays in float: there is no static form of {kind}"
            f"{dynamic}. Its qconfig: {module.qconfig}"
        )
    if lines:
        warnings.warn("prepare: " + "; ".join(lines), stacklevel=3)


def _warn_of_observers(model: nn.Module) -> None:
    present = [
        path or "the model"
        for path, part in model.named_modules()
        if isinstance(part._modules.get("activation_post_process"), _OBSERVERS)
        and not isinstance(part, _OBSERVERS)  # a fake quantizer has one of its own
    ]
    if present:
        more = f" and {len(present) - 1} more" if present[1:] else ""
        warnings.warn(
            f"prepare: the model is prepared already; these keep their observers: {present[0]!r}"
            f"{more}",
            stacklevel=3,
        )


def add_observer_(
    module: nn.Module,
    qconfig_propagation_list: Iterable[type[nn.Module]] | None = None,
    non_leaf_module_list: Iterable[type[nn.Module]] | None = None,
    device: torch.device | None = None,
    custom_module_class_mapping: Mapping[type[nn.Module], Any] | None = None,
) -> None:
    """Hangs an observer on every module of the given classes that has a qconfig, in place.

    Args:
        module: A model with propagated qconfigs.
        qconfig_propagation_list: Classes to observe if they have no children.
        non_leaf_module_list: Classes to observe even so.
        device: Where observers are put; that of the model's first parameter if not given.
        custom_module_class_mapping: Classes that are replaced by what ``from_float`` makes, whose
            output is observed by its ``qconfig``.
    """
    checks.model("add_observer_", module)
    leaves = set(
        static_mappings() if qconfig_propagation_list is None else qconfig_propagation_list
    )
    whole = {*(non_leaf_module_list or ())}
    custom = custom_module_class_mapping or {}
    own = tuple(custom_mappings()[1])  # made of layers that are observed, the last of them too
    if device is None:
        device = next((parameter.device for parameter in module.parameters()), None)

    def visit(current: nn.Module) -> None:
        qconfig: Any = getattr(current, "qconfig", None)
        if qconfig is not None and is_observed(current, leaves, whole):
            _observe(current, qconfig, device)
        if isinstance(current, _SINGLE):
            return
        for name, child in current.named_children():
            if type_of(child) in custom and getattr(child, "qconfig", None) is not None:
                observed = custom[type_of(child)].from_float(child)
                current.set_submodule(name, observed)
                if getattr(observed, "qconfig", None) and not isinstance(observed, own):
                    _observe(observed, observed.qconfig, device)
            else:
                visit(child)

    visit(module)


#: Modules that are one layer, whatever they are made of.
_SINGLE = (FusedModule, FloatFunctional, QFunctional, QuantizationAware)


def is_observed(
    module: nn.Module, leaves: set[type[nn.Module]], whole: set[type[nn.Module]]
) -> bool:
    """Whether a module's output is one to look at: see `add_observer_`."""
    single = isinstance(module, _SINGLE) or next(module.children(), None) is None
    wanted = type_of(module) in whole or (type_of(module) in leaves and single)
    return wanted and not isinstance(module, DeQuantStub)


def hang(module: nn.Module, observer: nn.Module) -> None:
    """Lets what a module gives pass through an observer from now on.

    What a dynamic fake quantizer rounds is the input, since that is what will be quantized.
    """
    module.add_module("activation_post_process", observer)
    if isinstance(observer, FakeQuantizeBase) and getattr(observer, "is_dynamic", False):
        module.register_forward_pre_hook(observe_input)
    elif not isinstance(module, FloatFunctional | QFunctional):
        module.register_forward_hook(observe_output, prepend=True)


def _observe(module: nn.Module, qconfig: Any, device: torch.device | None) -> None:
    """Hangs an observer on one module, unless it has one: modules may occur twice."""
    present = getattr(module, "activation_post_process", None)
    if present is not None and not isinstance(present, nn.Identity):
        return
    row = registry.row_for_module(type_of(module))
    factory, asked = qconfig.activation, asked_by(qconfig.activation).spec
    if row is not None and asked is not None and output_spec(row.output, asked) != asked:
        fixed = observer_for(output_spec(row.output, asked))
        rounds = isinstance(factory(), FakeQuantizeBase)
        factory = FixedQParamsFakeQuantize.with_args(observer=fixed) if rounds else fixed
    hang(module, factory().to(device))


def observe_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Forward hook: what the module gives passes through its observer."""
    observer: Any = module.activation_post_process
    return observer(output)


def observe_input(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Forward pre-hook: the first input of the module passes through its observer."""
    observer: Any = module.activation_post_process
    return (observer(args[0]), *args[1:]) if args else None


def get_observer_dict(mod: nn.Module, target_dict: dict[str, nn.Module], prefix: str = "") -> None:
    """Collects the observers of a prepared model.

    Args:
        mod: The model.
        target_dict: Gets ``"<path>.activation_post_process"`` → observer.
        prefix: Written before every path.
    """
    checks.model("get_observer_dict", mod)
    check_type("get_observer_dict", "target_dict", target_dict, dict, "a dict to fill")
    start = f"{prefix}." if prefix else ""
    for path, module in mod.named_modules():
        observer = module._modules.get("activation_post_process")
        if observer is not None:
            key = f"{path}.activation_post_process" if path else "activation_post_process"
            target_dict[start + key] = observer


def add_quant_dequant(module: nn.Module) -> nn.Module:
    """Puts stubs around every module that has a qconfig and no children, in place.

    Returns:
        The model; a `QuantWrapper` of it if it is such a module itself.
    """
    checks.model("add_quant_dequant", module)
    if next(module.children(), None) is None and getattr(module, "qconfig", None):
        return QuantWrapper(module)
    for name, child in list(module.named_children()):
        module.set_submodule(name, add_quant_dequant(child))
    return module
