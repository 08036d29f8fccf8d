"""The numeric suite of eager models: loggers and shadows hang on the modules themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import Tensor, nn

from qlab.dtypes import quint8
from qlab.eager.mappings import get_default_compare_output_module_list
from qlab.eager.prepare import hang, is_observed, observe_output
from qlab.errors import ArgumentError, UncalibratedError, check_type
from qlab.nn.intrinsic import FusedModule
from qlab.nn.quantized.dynamic.recurrent import RecurrentModule
from qlab.observers import ActivationPostProcess
from qlab.ops import checks
from qlab.qtensor import QTensor

Stats = dict[str, dict[str, Any]]
ModuleClasses = Collection[type[nn.Module]]
LoggerClass = Callable[[], nn.Module]


class Logger(nn.Module):
    """Base of loggers: what they keep is in the dictionary ``stats``."""

    def __init__(self) -> None:
        super().__init__()
        self.stats: dict[str, list[Any]] = {}
        self.dtype = quint8

    def forward(self, x: Any) -> Any:
        """Keeps nothing; a subclass does."""
        return x


class ShadowLogger(Logger):
    """Keeps what a module and its float shadow give: ``stats["quantized"]``, ``stats["float"]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stats["float"] = []
        self.stats["quantized"] = []

    def forward(self, x: Any, y: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keeps both, one entry per call; of a tuple, as recurrent layers give, the first part."""
        self.stats["quantized"].append(_first(x).detach())
        self.stats["float"].append(_first(y).detach())


class OutputLogger(Logger):
    """Keeps what a module gives: ``stats["tensor_val"]``, one entry per call."""

    def __init__(self) -> None:
        super().__init__()
        self.stats["tensor_val"] = []

    def forward(self, x: Any) -> Any:
        """Keeps any value and gives it back."""
        self.stats["tensor_val"].append(x)
        return x


class Shadow(nn.Module):
    """A quantized module with the float module beside it, on the same input, dequantized.

    Args:
        q_module: Computes the result.
        float_module: Its shadow: what it gives is logged only.
        logger_cls: Made without arguments; called with what both give.
    """

    def __init__(
        self, q_module: nn.Module, float_module: nn.Module, logger_cls: LoggerClass
    ) -> None:
        super().__init__()
        self.orig_module = q_module
        self.shadow_module = float_module
        self.logger = logger_cls()

    def forward(self, *x: Any) -> Any:
        """What the quantized module gives."""
        return self._both(self.orig_module, self.shadow_module, *x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``add`` of a `QFunctional`."""
        return self._operation("add", x, y)

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """``add_scalar`` of a `QFunctional`."""
        return self._operation("add_scalar", x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """``mul`` of a `QFunctional`."""
        return self._operation("mul", x, y)

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """``mul_scalar`` of a `QFunctional`."""
        return self._operation("mul_scalar", x, y)

    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        """``cat`` of a `QFunctional`."""
        return self._operation("cat", x, dim)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """``add_relu`` of a `QFunctional`."""
        return self._operation("add_relu", x, y)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``matmul`` of a `QFunctional`."""
        return self._operation("matmul", x, y)

    def _operation(self, name: str, *args: Any) -> Any:
        return self._both(getattr(self.orig_module, name), getattr(self.shadow_module, name), *args)

    def _both(self, quantized: Callable[..., Any], shadow: Callable[..., Any], *args: Any) -> Any:
        output = quantized(*args)
        self.logger(output, shadow(*map(_real, args)))
        return output


def get_logger_dict(mod: nn.Module, prefix: str = "") -> Stats:
    """What the loggers of a model kept.

    Args:
        mod: A model with loggers on or in its modules.
        prefix: Written before every path.

    Returns:
        ``"<path>.stats"`` → the logger's dictionary; ``"stats"`` for the model itself.
    """
    found: Stats = {}
    checks.model("get_logger_dict", mod)
    for path, module in mod.named_modules(prefix=prefix):
        logger = next((child for child in module.children() if isinstance(child, Logger)), None)
        if logger is not None:
            found[f"{path}.stats" if path else "stats"] = logger.stats
    return found


def prepare_model_with_stubs(
    float_module: nn.Module,
    q_module: nn.Module,
    module_swap_list: ModuleClasses,
    logger_cls: LoggerClass,
) -> None:
    """Puts a `Shadow` in place of each quantized module whose float module is of a given class.

    Shadows of an earlier call are replaced.

    Args:
        float_module: The float model; its modules become the shadows.
        q_module: The quantized model made of it; changed in place.
        module_swap_list: Classes of float modules. Those that were not quantized get no shadow.
        logger_cls: `ShadowLogger`, or a class that is called with two outputs.

    Raises:
        DTypeError: Not two modules.
        ArgumentError: The models have no module of a given class in the same place.
    """
    _check_modules("prepare_model_with_stubs", float_module, q_module)
    kinds = module_swap_list
    check_type("prepare_model_with_stubs", "module_swap_list", kinds, Iterable, "module classes")
    for kind in kinds:
        check_type("prepare_model_with_stubs", "a class to shadow", kind, type, "a module class")
    if not _put_shadows(float_module, q_module, set(module_swap_list), logger_cls):
        classes = ", ".join(sorted(kind.__name__ for kind in module_swap_list))
        raise ArgumentError(
            "prepare_model_with_stubs: there is nothing to shadow",
            expected=f"quantized modules in place of {classes or 'no class at all'}",
            received=f"{type(float_module).__name__} and {type(q_module).__name__}",
            fix="Pass the float model that the quantized one was made of, fused likewise, and the "
            "classes of its modules.",
        )


def _put_shadows(
    float_module: nn.Module,
    q_module: nn.Module,
    classes: set[type[nn.Module]],
    logger_cls: LoggerClass,
) -> int:
    known, count = dict(float_module.named_children()), 0
    for name, child in list(q_module.named_children()):
        if name not in known:
            continue
        if type(known[name]) not in classes:
            count += _put_shadows(known[name], child, classes, logger_cls)
        elif _kinds(known[name]) != _kinds(child):
            bare = child.orig_module if isinstance(child, Shadow) else child
            q_module.add_module(name, Shadow(bare, known[name], logger_cls))
            count += 1
    return count


def _kinds(module: nn.Module) -> list[type[nn.Module]]:
    return [type(part) for part in module.modules()]


def compare_model_stub(
    float_model: nn.Module,
    q_model: nn.Module,
    module_swap_list: ModuleClasses,
    *data: Any,
    logger_cls: LoggerClass = ShadowLogger,
) -> Stats:
    """Each quantized module and its float module on the same input.

    Args:
        float_model: The float model.
        q_model: The quantized model made of it; gets shadows, in place.
        module_swap_list: Classes of float modules to compare.
        *data: Arguments of one call.
        logger_cls: See `prepare_model_with_stubs`.

    Returns:
        ``"<path>.stats"`` → ``{"float": [...], "quantized": [...]}``, one tensor per call.

    Raises:
        DTypeError: Not two modules.
        ArgumentError: There is nothing to compare.
    """
    prepare_model_with_stubs(float_model, q_model, module_swap_list, logger_cls)
    q_model(*data)
    shadows = (path for path, module in q_model.named_modules() if isinstance(module, Shadow))
    paths = {f"{path}.stats" if path else "stats" for path in shadows}
    return {path: stats for path, stats in get_logger_dict(q_model).items() if path in paths}


def prepare_model_outputs(
    float_module: nn.Module,
    q_module: nn.Module,
    logger_cls: LoggerClass = OutputLogger,
    allow_list: ModuleClasses | None = None,
) -> None:
    """Hangs a logger on the modules of two models, in place; those of an earlier call go.

    Args:
        float_module: The float model.
        q_module: The quantized model made of it.
        logger_cls: `OutputLogger`, or a class that is called with one output and gives it back.
        allow_list: Classes of modules to look at; what the registry knows if None.

    Raises:
        DTypeError: Not two modules.
        ArgumentError: A model has none of them, or has observers.
    """
    _check_modules("prepare_model_outputs", float_module, q_module)
    classes = get_default_compare_output_module_list() if allow_list is None else set(allow_list)
    models = {"float": float_module, "quantized": q_module}
    found = {name: list(dict.fromkeys(_watched(m, classes))) for name, m in models.items()}
    for name, modules in found.items():
        busy = [module for module in modules if _observed(module)]
        if not modules or busy:
            raise ArgumentError(
                f"prepare_model_outputs: no logger can be hung on the {name} model",
                expected="a model with modules of the given classes, without observers",
                received=f"an observer on {type(busy[0]).__name__}" if busy else "none of them",
                fix="Pass the float model before prepare, and the quantized one after convert.",
            )
    for module in (*found["float"], *found["quantized"]):
        earlier = observe_output in module._forward_hooks.values()  # of another comparison
        if earlier or isinstance(module, FusedModule):  # a sequence calls whatever it holds
            module.add_module("activation_post_process", logger_cls())
        else:
            hang(module, logger_cls())


def _watched(module: nn.Module, classes: set[type[nn.Module]]) -> list[nn.Module]:
    """The modules whose outputs are compared, none of them inside another."""
    if is_observed(module, classes, recurrent_of(classes)):
        return [module]
    if isinstance(module, FusedModule):
        return []
    return [found for child in module.children() for found in _watched(child, classes)]


def recurrent_of(classes: Iterable[type[nn.Module]]) -> set[type[nn.Module]]:
    """Those of some classes that are recurrent: their outputs are compared whole."""
    return {kind for kind in classes if issubclass(kind, RecurrentModule | nn.RNNBase)}


NON_LEAF_MODULE_TO_ADD_OBSERVER_ALLOW_LIST = recurrent_of(get_default_compare_output_module_list())
"""Classes that get a logger as a whole, whatever they are made of."""


def _observed(module: nn.Module) -> bool:
    """Whether a module has an observer or fake quantizer, which a logger may not replace."""
    return isinstance(getattr(module, "activation_post_process", None), ActivationPostProcess)


def get_matching_activations(float_module: nn.Module, q_module: nn.Module) -> Stats:
    """What the loggers of two models kept at the same places.

    Args:
        float_module: From `prepare_model_outputs`, after data was run through it.
        q_module: Likewise.

    Returns:
        ``"<path>.stats"`` → ``{"float": [...], "quantized": [...]}``, by the quantized model's
        paths, one value per call.

    Raises:
        UncalibratedError: No data was run through one of them.
        ArgumentError: No module of one is in the other.
    """
    kept = {
        name: {
            key: stats["tensor_val"]
            for key, stats in get_logger_dict(module).items()
            if stats.get("tensor_val")
        }
        for name, module in (("float", float_module), ("quantized", q_module))
    }
    if empty := [name for name, stats in kept.items() if not stats]:
        raise UncalibratedError(
            f"get_matching_activations: the {empty[0]} model has kept nothing",
            expected="a model that prepare_model_outputs hung loggers on, and that was called",
            fix="Call both models with the same data first.",
        )
    matched: Stats = {}
    for key, values in kept["quantized"].items():
        place = matching_path(key.removesuffix("stats"), kept["float"], "stats")
        if place is not None:
            matched[key] = {"float": kept["float"][place], "quantized": values}
    if not matched:
        raise ArgumentError(
            "get_matching_activations: the models do not correspond",
            expected="modules of the same paths",
            received=f"{', '.join(kept['float'])} and {', '.join(kept['quantized'])}",
        )
    return matched


def matching_path(path: str, known: Collection[str], name: str) -> str | None:
    """The key of ``known`` that is ``name`` of the module at a path, or of a part of it.

    Args:
        path: With a dot at its end; empty for the model.
        known: Keys such as ``"block.conv.weight"`` or, of a fused module, ``"conv.0.weight"``.
        name: Their last part.
    """
    if path + name in known:
        return path + name
    parts = (key for key in known if key.startswith(path) and key.endswith(f".{name}"))
    return next((key for key in parts if key.removeprefix(path).count(".") == 1), None)


def compare_model_outputs(
    float_model: nn.Module,
    q_model: nn.Module,
    *data: Any,
    logger_cls: LoggerClass = OutputLogger,
    allow_list: ModuleClasses | None = None,
) -> Stats:
    """What a float and a quantized model give at the same places, each on its own values.

    Args:
        float_model: The float model; gets loggers, in place.
        q_model: The quantized model made of it; gets loggers, in place.
        *data: Arguments of one call.
        logger_cls: See `prepare_model_outputs`.
        allow_list: Likewise.

    Returns:
        As `get_matching_activations`.

    Raises:
        DTypeError: Not two modules.
        ArgumentError: The models do not correspond, or cannot get loggers.
    """
    prepare_model_outputs(float_model, q_model, logger_cls, allow_list)
    float_model(*data)
    q_model(*data)
    return get_matching_activations(float_model, q_model)


def _check_modules(caller: str, *models: object) -> None:
    for model in models:
        checks.model(caller, model)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value


def _real(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_real, value))
    return value.dequantize() if isinstance(value, QTensor) else value
