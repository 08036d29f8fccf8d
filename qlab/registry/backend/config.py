"""What a backend can run, as the reference's configuration objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Self

from torch import nn

from qlab.errors import ArgumentError, DTypeError, check_type
from qlab.registry.backend.dtypes import DTypeConfig, check_keys

Pattern = Any
"""A class, a function, a method's name, or a tuple of them in the order in which they run."""


class ObservationType(Enum):
    """Where an operator's output gets its scale from.

    ``OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT``: a range of its own.
    ``OUTPUT_SHARE_OBSERVER_WITH_INPUT``: that of its input.
    ``INPUT_OUTPUT_NOT_OBSERVED``: neither is quantized.
    """

    OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT = 0
    OUTPUT_SHARE_OBSERVER_WITH_INPUT = 1
    INPUT_OUTPUT_NOT_OBSERVED = 2


#: Attribute of a pattern's config → key of its dict form.
_KEYS = {
    "pattern": "pattern",
    "observation_type": "observation_type",
    "dtype_configs": "dtype_configs",
    "root_module": "root_module",
    "qat_module": "qat_module",
    "reference_quantized_module": "reference_quantized_module_for_root",
    "fused_module": "fused_module",
    "fuser_method": "fuser_method",
}


class BackendPatternConfig:
    """How a backend runs one operator, or a chain that it fuses.

    Attributes:
        pattern: The operator; for a chain a tuple.
        observation_type: Where its output gets its scale from.
        dtype_configs: Combinations of data types that it takes.
        root_module: The layer that carries the weight.
        qat_module: What trains in its place.
        reference_quantized_module: What computes with its quantized weight.
        fused_module: What a chain becomes.
        fuser_method: What makes that of the chain's modules: ``method(is_qat, *modules)``.
    """

    def __init__(self, pattern: Pattern = None) -> None:
        self.pattern = pattern
        self.observation_type = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
        self.dtype_configs: list[DTypeConfig] = []
        self.root_module: type[nn.Module] | None = None
        self.qat_module: type[nn.Module] | None = None
        self.reference_quantized_module: type[nn.Module] | None = None
        self.fused_module: type[nn.Module] | None = None
        self.fuser_method: Callable[..., nn.Module] | None = None

    def set_pattern(self, pattern: Pattern) -> Self:
        """Sets `pattern`; returns the config."""
        self.pattern = pattern
        return self

    def set_observation_type(self, observation_type: ObservationType) -> Self:
        """Sets `observation_type`; returns the config."""
        kind, caller = ObservationType, "set_observation_type"
        check_type(caller, "the type", observation_type, kind, "an ObservationType")
        self.observation_type = observation_type
        return self

    def add_dtype_config(self, dtype_config: DTypeConfig) -> Self:
        """Adds to `dtype_configs`; returns the config."""
        check_type("add_dtype_config", "the config", dtype_config, DTypeConfig, "a DTypeConfig")
        self.dtype_configs.append(dtype_config)
        return self

    def set_dtype_configs(self, dtype_configs: Iterable[DTypeConfig]) -> Self:
        """Sets `dtype_configs`; returns the config."""
        check_type("set_dtype_configs", "the configs", dtype_configs, Iterable, "a list")
        given = list(dtype_configs)
        for config in given:
            check_type("set_dtype_configs", "a config", config, DTypeConfig, "a DTypeConfig")
        self.dtype_configs = given
        return self

    def set_root_module(self, root_module: type[nn.Module] | None) -> Self:
        """Sets `root_module`; returns the config."""
        self.root_module = root_module
        return self

    def set_qat_module(self, qat_module: type[nn.Module] | None) -> Self:
        """Sets `qat_module`; returns the config."""
        self.qat_module = qat_module
        return self

    def set_reference_quantized_module(
        self, reference_quantized_module: type[nn.Module] | None
    ) -> Self:
        """Sets `reference_quantized_module`; returns the config."""
        self.reference_quantized_module = reference_quantized_module
        return self

    def set_fused_module(self, fused_module: type[nn.Module] | None) -> Self:
        """Sets `fused_module`; returns the config."""
        self.fused_module = fused_module
        return self

    def set_fuser_method(self, fuser_method: Callable[..., nn.Module] | None) -> Self:
        """Sets `fuser_method`; returns the config."""
        self.fuser_method = fuser_method
        return self

    @classmethod
    def from_dict(cls, backend_pattern_config_dict: Mapping[str, Any]) -> Self:
        """From the reference's dict form.

        Raises:
            UnknownNameError: A key that is not known.
        """
        check_keys(cls, backend_pattern_config_dict, _KEYS.values())
        made = cls()
        for name, key in _KEYS.items():
            if key in backend_pattern_config_dict:
                setattr(made, name, backend_pattern_config_dict[key])
        made.dtype_configs = [
            given if isinstance(given, DTypeConfig) else DTypeConfig.from_dict(given)
            for given in made.dtype_configs
        ]
        return made

    def to_dict(self) -> dict[str, Any]:
        """The reference's dict form; what is not set is left out."""
        given = {key: getattr(self, name) for name, key in _KEYS.items()}
        given["dtype_configs"] = [config.to_dict() for config in self.dtype_configs]
        kept = ("observation_type", "dtype_configs")
        return {key: value for key, value in given.items() if key in kept or value is not None}

    def __repr__(self) -> str:
        return f"BackendPatternConfig({self.to_dict()})"


class BackendConfig:
    """What a backend can run: one config per operator or chain, by its pattern.

    Args:
        name: What it is called.

    Example:
        >>> import torch
        >>> from qlab.dtypes import qint8, quint8
        >>> linear = BackendPatternConfig(torch.nn.Linear).add_dtype_config(
        ...     DTypeConfig(quint8, quint8, qint8, torch.float)
        ... )
        >>> len(BackendConfig("mine").set_backend_pattern_config(linear).configs)
        1
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._configs: dict[Pattern, BackendPatternConfig] = {}

    def set_name(self, name: str) -> Self:
        """Sets the name; returns the config."""
        self.name = name
        return self

    def set_backend_pattern_config(self, config: BackendPatternConfig) -> Self:
        """Adds the config of a pattern, or replaces it; returns the config.

        Raises:
            DTypeError: Not a `BackendPatternConfig`.
            ArgumentError: It has no pattern.
        """
        if not isinstance(config, BackendPatternConfig):
            raise DTypeError(
                "Not the config of a pattern",
                expected="a BackendPatternConfig",
                received=type(config).__name__,
            )
        if config.pattern is None:
            raise ArgumentError(
                "A BackendPatternConfig has no pattern", fix="Call set_pattern on it first."
            )
        self._configs[config.pattern] = config
        return self

    def set_backend_pattern_configs(self, configs: Iterable[BackendPatternConfig]) -> Self:
        """Adds the configs of several patterns; returns the config."""
        for config in configs:
            self.set_backend_pattern_config(config)
        return self

    @property
    def configs(self) -> list[BackendPatternConfig]:
        """The configs of all patterns; a copy of the list."""
        return list(self._configs.values())

    def config_of(self, pattern: Pattern) -> BackendPatternConfig | None:
        """The config of a pattern, or None."""
        return self._configs.get(pattern)

    @classmethod
    def from_dict(cls, backend_config_dict: Mapping[str, Any]) -> Self:
        """From the reference's dict form.

        Raises:
            UnknownNameError: A key that is not known.
        """
        check_keys(cls, backend_config_dict, ("name", "configs"))
        made = cls(backend_config_dict.get("name", ""))
        for given in backend_config_dict.get("configs", ()):
            one = isinstance(given, BackendPatternConfig)
            made.set_backend_pattern_config(given if one else BackendPatternConfig.from_dict(given))
        return made

    def to_dict(self) -> dict[str, Any]:
        """The reference's dict form, ``{"name": …, "configs": […]}``."""
        return {"name": self.name, "configs": [config.to_dict() for config in self.configs]}

    def __repr__(self) -> str:
        return f"BackendConfig({self.to_dict()})"
