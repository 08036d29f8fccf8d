"""What a backend's config says, asked by what one wants to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from qlab.registry.backend.config import BackendConfig, Pattern
from qlab.registry.backend.dtypes import DTypeConfig

ModuleClass = type[nn.Module]


def get_pattern_to_dtype_configs(backend_config: BackendConfig) -> dict[Pattern, list[DTypeConfig]]:
    """Pattern → combinations of data types that it takes."""
    return {config.pattern: config.dtype_configs for config in backend_config.configs}


def get_qat_module_classes(backend_config: BackendConfig) -> tuple[ModuleClass, ...]:
    """The classes that train in place of others."""
    return _distinct(backend_config, "qat_module")


def get_fused_module_classes(backend_config: BackendConfig) -> tuple[ModuleClass, ...]:
    """The classes that chains become."""
    return _distinct(backend_config, "fused_module")


def get_root_module_to_quantized_reference_module(
    backend_config: BackendConfig,
) -> dict[ModuleClass, ModuleClass]:
    """Layer with a weight → what computes with its quantized weight."""
    return {
        config.root_module: config.reference_quantized_module
        for config in backend_config.configs
        if config.root_module is not None and config.reference_quantized_module is not None
    }


def get_fuser_method_mapping(
    backend_config: BackendConfig,
) -> dict[Pattern, Callable[..., nn.Module]]:
    """Chain → what fuses its modules."""
    return {
        config.pattern: config.fuser_method
        for config in backend_config.configs
        if config.fuser_method is not None
    }


def get_module_to_qat_module(backend_config: BackendConfig) -> dict[Pattern, ModuleClass]:
    """Class → what trains in its place."""
    return {
        config.pattern: config.qat_module
        for config in backend_config.configs
        if config.qat_module is not None
    }


def pattern_to_human_readable(p: Pattern) -> Any:
    """A pattern in words: the names of its classes, functions and methods."""
    if isinstance(p, tuple):
        return tuple(pattern_to_human_readable(part) for part in p)
    return p if isinstance(p, str) else getattr(p, "__name__", repr(p))


def _distinct(backend_config: BackendConfig, attribute: str) -> tuple[ModuleClass, ...]:
    found = (getattr(config, attribute) for config in backend_config.configs)
    return tuple(dict.fromkeys(kind for kind in found if kind is not None))
