"""What a person customises about the graph workflow, as the reference's configuration objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import nn

from qlab.errors import (
    ArgumentError,
    DTypeError,
    UnknownNameError,
    UnsupportedError,
    check_maker,
    check_type,
)
from qlab.registry.quant_type import QuantType

ModuleClass = type[nn.Module]


@dataclass
class StandaloneModuleConfigEntry:
    """How a submodule that is quantized on its own is prepared.

    Attributes:
        qconfig_mapping: Its mapping; None for that of the model around it.
        example_inputs: Its example inputs; found by running the model if empty.
        prepare_custom_config: Its own customisation.
        backend_config: None.
    """

    qconfig_mapping: Any = None
    example_inputs: tuple[Any, ...] = ()
    prepare_custom_config: PrepareCustomConfig | None = None
    backend_config: None = None

    def as_tuple(self) -> tuple[Any, ...]:
        """In the order of the reference's dict form."""
        own = self.prepare_custom_config
        return (
            self.qconfig_mapping,
            self.example_inputs,
            None if own is None else own.to_dict(),
            self.backend_config,
        )


@dataclass
class FuseCustomConfig:
    """What is customised about `fuse_fx`.

    Attributes:
        preserved_attributes: Attributes of the model that the result shall have too.
    """

    preserved_attributes: list[str] = field(default_factory=list)

    def set_preserved_attributes(self, attributes: Iterable[str]) -> Self:
        """Sets `preserved_attributes`; returns the configuration."""
        self.preserved_attributes = _entries("preserved_attributes", attributes, str)
        return self

    @classmethod
    def from_dict(cls, fuse_custom_config_dict: Mapping[str, Any]) -> Self:
        """From the reference's dict form.

        Raises:
            UnknownNameError: A key that is not known.
        """
        _check_keys(cls, fuse_custom_config_dict, ("preserved_attributes",))
        return cls().set_preserved_attributes(
            _listed("preserved_attributes", fuse_custom_config_dict)
        )

    def to_dict(self) -> dict[str, Any]:
        """The reference's dict form; empty entries are left out."""
        return _filled({"preserved_attributes": self.preserved_attributes})


@dataclass
class ConvertCustomConfig(FuseCustomConfig):
    """What is customised about `convert_fx`.

    Attributes:
        preserved_attributes: Attributes of the model that the result shall have too.
        observed_to_quantized_mapping: By quantization type: the class that prepare made → the
            class whose ``from_observed`` makes the quantized module.
    """

    observed_to_quantized_mapping: dict[QuantType, dict[ModuleClass, ModuleClass]] = field(
        default_factory=dict
    )

    def set_observed_to_quantized_mapping(
        self,
        observed_class: ModuleClass,
        quantized_class: ModuleClass,
        quant_type: QuantType | str = QuantType.STATIC,
    ) -> Self:
        """Adds a pair of classes; returns the configuration.

        Raises:
            ArgumentError: ``quantized_class`` has no ``from_observed``.
        """
        check_maker(quantized_class, "from_observed")
        _check_class("set_observed_to_quantized_mapping", observed_class)
        kind = QuantType.of(quant_type)
        self.observed_to_quantized_mapping.setdefault(kind, {})[observed_class] = quantized_class
        return self

    @classmethod
    def from_dict(  # pyright: ignore[reportIncompatibleMethodOverride]  (the reference's name)
        cls, convert_custom_config_dict: Mapping[str, Any]
    ) -> Self:
        """From the reference's dict form.

        Raises:
            UnknownNameError: A key or quantization type that is not known.
        """
        key = "observed_to_quantized_custom_module_class"
        _check_keys(cls, convert_custom_config_dict, ("preserved_attributes", key))
        made = super().from_dict({k: v for k, v in convert_custom_config_dict.items() if k != key})
        for kind, observed, quantized in _pairs(key, convert_custom_config_dict):
            made.set_observed_to_quantized_mapping(observed, quantized, kind)
        return made

    def to_dict(self) -> dict[str, Any]:
        """The reference's dict form; empty entries are left out."""
        classes = _by_name(self.observed_to_quantized_mapping)
        return super().to_dict() | _filled({"observed_to_quantized_custom_module_class": classes})


@dataclass
class PrepareCustomConfig(FuseCustomConfig):
    """What is customised about `prepare_fx` and `prepare_qat_fx`.

    Attributes:
        preserved_attributes: Attributes of the model that the result shall have too.
        standalone_module_names: Submodules that are quantized on their own, by path.
        standalone_module_classes: Likewise, by class.
        float_to_observed_mapping: By quantization type: float class → the class whose
            ``from_float`` makes the module that is calibrated.
        non_traceable_module_names: Modules that are kept whole and in float, by path.
        non_traceable_module_classes: Likewise, by class.
        input_quantized_indexes: Inputs of the converted graph that are given as `QTensor`.
        output_quantized_indexes: Outputs of the converted graph that are returned as `QTensor`.
    """

    standalone_module_names: dict[str, StandaloneModuleConfigEntry] = field(default_factory=dict)
    standalone_module_classes: dict[ModuleClass, StandaloneModuleConfigEntry] = field(
        default_factory=dict
    )
    float_to_observed_mapping: dict[QuantType, dict[ModuleClass, ModuleClass]] = field(
        default_factory=dict
    )
    non_traceable_module_names: list[str] = field(default_factory=list)
    non_traceable_module_classes: list[ModuleClass] = field(default_factory=list)
    input_quantized_indexes: list[int] = field(default_factory=list)
    output_quantized_indexes: list[int] = field(default_factory=list)

    def set_standalone_module_name(
        self,
        module_name: str,
        qconfig_mapping: Any,
        example_inputs: tuple[Any, ...],
        prepare_custom_config: PrepareCustomConfig | None,
        backend_config: None,
    ) -> Self:
        """Has the submodule of a path quantized on its own; returns the configuration."""
        check_type("set_standalone_module_name", "the path", module_name, str, "text")
        entry = StandaloneModuleConfigEntry(
            qconfig_mapping, example_inputs, prepare_custom_config, backend_config
        )
        self.standalone_module_names[module_name] = entry
        return self

    def set_standalone_module_class(
        self,
        module_class: ModuleClass,
        qconfig_mapping: Any,
        example_inputs: tuple[Any, ...],
        prepare_custom_config: PrepareCustomConfig | None,
        backend_config: None,
    ) -> Self:
        """Has every submodule of a class quantized on its own; returns the configuration."""
        _check_class("set_standalone_module_class", module_class)
        entry = StandaloneModuleConfigEntry(
            qconfig_mapping, example_inputs, prepare_custom_config, backend_config
        )
        self.standalone_module_classes[module_class] = entry
        return self

    def set_float_to_observed_mapping(
        self,
        float_class: ModuleClass,
        observed_class: ModuleClass,
        quant_type: QuantType | str = QuantType.STATIC,
    ) -> Self:
        """Adds a pair of classes; returns the configuration.

        Raises:
            ArgumentError: ``observed_class`` has no ``from_float``.
        """
        check_maker(observed_class, "from_float")
        _check_class("set_float_to_observed_mapping", float_class)
        kind = QuantType.of(quant_type)
        self.float_to_observed_mapping.setdefault(kind, {})[float_class] = observed_class
        return self

    def set_non_traceable_module_names(self, module_names: Iterable[str]) -> Self:
        """Sets `non_traceable_module_names`; returns the configuration."""
        self.non_traceable_module_names = _entries("non_traceable_module_name", module_names, str)
        return self

    def set_non_traceable_module_classes(self, module_classes: Iterable[ModuleClass]) -> Self:
        """Sets `non_traceable_module_classes`; returns the configuration."""
        key = "non_traceable_module_class"
        self.non_traceable_module_classes = _entries(key, module_classes, type)
        return self

    def set_input_quantized_indexes(self, indexes: Iterable[int]) -> Self:
        """Sets `input_quantized_indexes`; returns the configuration."""
        self.input_quantized_indexes = _whole("input", indexes)
        return self

    def set_output_quantized_indexes(self, indexes: Iterable[int]) -> Self:
        """Sets `output_quantized_indexes`; returns the configuration."""
        self.output_quantized_indexes = _whole("output", indexes)
        return self

    @classmethod
    def from_dict(  # pyright: ignore[reportIncompatibleMethodOverride]  (the reference's name)
        cls, prepare_custom_config_dict: Mapping[str, Any]
    ) -> Self:
        """From the reference's dict form.

        Raises:
            UnknownNameError: A key or quantization type that is not known.
        """
        _check_keys(cls, prepare_custom_config_dict, tuple(_PREPARE_KEYS))
        made = cls()
        for what in ("name", "class"):
            for entry in _listed(f"standalone_module_{what}", prepare_custom_config_dict):
                key, mapping, inputs, custom, backend = _standalone(what, entry)
                if isinstance(custom, Mapping):
                    custom = cls.from_dict(custom)
                add: Any = getattr(made, f"set_standalone_module_{what}")
                add(key, mapping, inputs, custom, backend)
        key = "float_to_observed_custom_module_class"
        for kind, plain, observed in _pairs(key, prepare_custom_config_dict):
            made.set_float_to_observed_mapping(plain, observed, kind)
        for key, attribute in _PREPARE_KEYS.items():
            if attribute:
                getattr(made, f"set_{attribute}")(prepare_custom_config_dict.get(key, ()))
        return made

    def to_dict(self) -> dict[str, Any]:
        """The reference's dict form; empty entries are left out."""
        plain = {key: getattr(self, name) for key, name in _PREPARE_KEYS.items() if name}
        names, classes = self.standalone_module_names, self.standalone_module_classes
        return _filled(
            {
                "standalone_module_name": [(k, *e.as_tuple()) for k, e in names.items()],
                "standalone_module_class": [(k, *e.as_tuple()) for k, e in classes.items()],
                "float_to_observed_custom_module_class": _by_name(self.float_to_observed_mapping),
                **plain,
            }
        )

    @property
    def observed_classes(self) -> dict[ModuleClass, dict[QuantType, ModuleClass]]:
        """Float class → quantization type → the class that is calibrated."""
        found: dict[ModuleClass, dict[QuantType, ModuleClass]] = {}
        for kind, classes in self.float_to_observed_mapping.items():
            for plain, observed in classes.items():
                found.setdefault(plain, {})[kind] = observed
        return found

    @property
    def leaves(self) -> set[str | ModuleClass]:
        """Modules that tracing keeps whole: paths and classes."""
        return {
            *self.non_traceable_module_names,
            *self.non_traceable_module_classes,
            *self.observed_classes,
            *self.standalone_module_names,
            *self.standalone_module_classes,
        }

    def standalone(self, path: str, module: nn.Module) -> StandaloneModuleConfigEntry | None:
        """The entry of a submodule that is quantized on its own; None for others."""
        return self.standalone_module_names.get(
            path, self.standalone_module_classes.get(type(module))
        )


#: Keys of the dict form; the attribute that holds the list, where it is one.
_PREPARE_KEYS = {
    "standalone_module_name": "",
    "standalone_module_class": "",
    "float_to_observed_custom_module_class": "",
    "non_traceable_module_name": "non_traceable_module_names",
    "non_traceable_module_class": "non_traceable_module_classes",
    "input_quantized_idxs": "input_quantized_indexes",
    "output_quantized_idxs": "output_quantized_indexes",
    "preserved_attributes": "preserved_attributes",
}


def as_custom(function: str, kind: type[FuseCustomConfig], given: Any) -> Any:
    """A customisation as its object, from itself, its dict form or None.

    Raises:
        DTypeError: Something else.
        UnsupportedError: A key of the dict form that is not known.
    """
    match given:
        case None:
            return kind()
        case FuseCustomConfig() if isinstance(given, kind):
            return given
        case Mapping():
            try:
                return kind.from_dict(given)
            except UnknownNameError as error:
                raise UnsupportedError(f"{function}: {error}") from error
    raise DTypeError(
        f"{function}: not a customisation",
        expected=f"a {kind.__name__}, its dict form, or None",
        received=type(given).__name__,
    )


def _listed(key: str, given: Mapping[str, Any]) -> list[Any]:
    """The entries of one key of the dict form; none if it is not there."""
    return _entries(key, given.get(key, ()))


def _entries(key: str, given: Iterable[Any], kind: type | None = None) -> list[Any]:
    check_type("custom config", f"the entry {key!r}", given, Iterable, "a list")
    entries, named = list(given), "classes" if kind is type else "names"
    for entry in entries if kind else ():
        check_type(
            "custom config", f"the entry {key!r}", entry, kind or object, f"a list of {named}"
        )
    return entries


def _check_class(caller: str, kind: Any) -> None:
    check_type(caller, "the class", kind, type, "a class of modules, such as nn.Linear")


def _standalone(what: str, entry: Any) -> tuple[Any, ...]:
    if not isinstance(entry, list | tuple) or len(entry) != 5:
        raise ArgumentError(
            f"custom config: an entry of 'standalone_module_{what}' is not complete",
            expected=f"({what}, QConfigMapping, example inputs, PrepareCustomConfig, "
            "BackendConfig), the last four or None",
            received=repr(entry),
        )
    return tuple(entry)


def _check_keys(kind: type, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    check_type(kind.__name__, "the dict form", given, Mapping, "a dict")
    for key in given:
        if key not in known:
            raise UnknownNameError.of(f"entry of {kind.__name__}", str(key), list(known))


def _pairs(key: str, given: Mapping[str, Any]) -> Iterator[tuple[str, ModuleClass, ModuleClass]]:
    """Quantization type and two classes, from the dict form's two levels."""
    levels = given.get(key, {})
    if not isinstance(levels, Mapping) or not all(isinstance(c, Mapping) for c in levels.values()):
        raise DTypeError(
            f"{key} holds classes by quantization type",
            expected='a dict such as {"static": {FloatClass: ObservedClass}}',
            received=repr(levels),
        )
    for kind, classes in levels.items():
        yield from ((kind, first, second) for first, second in classes.items())


def _whole(what: str, indexes: Iterable[int]) -> list[int]:
    given = _entries(f"{what}_quantized_idxs", indexes)
    if not all(type(index) is int and index >= 0 for index in given):
        raise DTypeError(
            f"Indexes of quantized {what}s are whole numbers from 0",
            received=", ".join(map(repr, given)),
        )
    return given


def _filled(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value}


def _by_name(
    classes: Mapping[QuantType, Mapping[ModuleClass, ModuleClass]],
) -> dict[str, dict[ModuleClass, ModuleClass]]:
    return {kind.name.lower(): dict(pairs) for kind, pairs in classes.items()}
