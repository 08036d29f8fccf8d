"""Holds a graph's plan to what a backend's config allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from qlab import registry
from qlab.dtypes import QDType, as_qdtype
from qlab.errors import DTypeError, UnsupportedError
from qlab.graph.plan import Plan
from qlab.graph.requests import Request
from qlab.qconfig import QConfig
from qlab.ranges import TensorSpec
from qlab.registry import ON_REQUEST, PATTERNS, Pattern, Row
from qlab.registry.asked import asked_by, output_spec, weight_spec
from qlab.registry.backend import BackendConfig, BackendPatternConfig, DTypeConfig
from qlab.registry.backend.config import ObservationType
from qlab.registry.backend.dtypes import DTypeWithConstraints
from qlab.registry.backend.utils import pattern_to_human_readable


def as_backend(
    caller: str, given: BackendConfig | Mapping[str, Any] | None
) -> BackendConfig | None:
    """A backend's config from itself or its dict form; None stays None.

    Raises:
        DTypeError: Something else.
        UnknownNameError: A key of the dict that is not known.
        UnsupportedError: It describes an operator, a fused chain or a module of its own, which
            qlab's registry does not know.
    """
    if given is None:
        return None
    if not isinstance(given, BackendConfig | Mapping):
        raise DTypeError(
            f"{caller}: not the config of a backend",
            expected="a BackendConfig or its dict form",
            received=type(given).__name__,
        )
    config = given if isinstance(given, BackendConfig) else BackendConfig.from_dict(given)
    for described in config.configs:
        if not _known(described):
            raise UnsupportedError(
                f"{caller}: the backend describes what qlab has no integer form of",
                expected="patterns and modules of qlab's registry",
                received=str(pattern_to_human_readable(described.pattern)),
                fix="Leave the pattern out; derive the config from get_native_backend_config().",
            )
    return config


def fused_patterns(backend: BackendConfig | None) -> tuple[Pattern, ...]:
    """The chains that may be fused: the usual ones, or all that the backend describes."""
    if backend is None:
        return PATTERNS
    known = (*PATTERNS, *ON_REQUEST)
    return tuple(pattern for pattern in known if backend.config_of(pattern.modules) is not None)


def not_allowed(
    backend: BackendConfig, names: Iterable[Any], row: Row, request: Request
) -> str | None:
    """Why a backend does not run an operator as it is asked to, in words; None if it does.

    Args:
        backend: Its config.
        names: What patterns may call the operator: its class, function or method.
        row: Its row of the registry.
        request: What the mapping asks of it.
    """
    found = [config for name in names if (config := backend.config_of(name)) is not None]
    called = backend.name or "the backend"
    if not found:
        return f"{called} does not describe it"
    allowed = [dtypes for config in found if _observed(config) for dtypes in config.dtype_configs]
    reasons = [_obstacle(dtypes, row, request) for dtypes in allowed]
    if None in reasons:
        return None
    why = next((reason for reason in reasons if reason and "takes" not in reason), None)
    return f"{called} {why or 'does not take these data types'}"


def check_allowed(
    caller: str, graph_module: fx.GraphModule, plan: Plan, backend: BackendConfig
) -> None:
    """Raises `UnsupportedError` where a plan quantizes what a backend does not allow."""
    nodes = {node.name: node for node in graph_module.graph.nodes}
    for step in plan.steps:
        row = next((row for row in registry.ROWS if row.name == step.row), None)
        if row is None or step.requested is None or not step.quantized:
            continue
        node = nodes[step.node]
        activation, weight = map(asked_by, step.requested)
        specs = activation.spec, weight.spec
        request = Request(step.address, step.requested, step.rule, *specs, activation.dynamic)
        called = node.target
        if node.op == "call_module":
            called = type(graph_module.get_submodule(str(node.target)))
        reason = not_allowed(backend, (called, node.meta["kind"]), row, request)
        if reason is None and step.fused and not _fuses(backend, called):
            reason = f"{backend.name or 'the backend'} does not fuse its parts"
        if reason is not None:
            raise UnsupportedError(
                f"{caller}: {step.name!r} ({step.type}) was prepared to be quantized, and {reason}",
                fix="Give the same backend_config to prepare_fx.",
            )


def _fuses(backend: BackendConfig, fused: object) -> bool:
    """Whether a backend describes a chain that becomes a class only on request."""
    chains = [pattern.modules for pattern in ON_REQUEST if pattern.fused is fused]
    return not chains or any(backend.config_of(chain) is not None for chain in chains)


def _known(described: BackendPatternConfig) -> bool:
    """Whether a pattern, and what it names as modules, is the registry's own."""
    pattern = described.pattern
    if isinstance(pattern, tuple):
        patterns = (*PATTERNS, *ON_REQUEST)
        chain = next((known for known in patterns if known.modules == pattern), None)
        return chain is not None and described.fused_module in (None, chain.fused, chain.train)
    row = (
        registry.row_for_module(pattern)
        if isinstance(pattern, type)
        else registry.row_for_method(pattern)
        if isinstance(pattern, str)
        else registry.row_for_function(pattern)
    )
    if row is None:
        return False
    own = (described.reference_quantized_module, row.reference)
    return own[0] in (None, own[1]) and described.qat_module in (None, *row.qat)


def _observed(config: BackendPatternConfig) -> bool:
    return config.observation_type is not ObservationType.INPUT_OUTPUT_NOT_OBSERVED


def _obstacle(config: DTypeConfig, row: Row, request: Request) -> str | None:
    """Why a combination of data types is not what is asked for; None if it is."""
    asked = request.activation
    if bool(config.is_dynamic) != request.dynamic or request.qconfig is None:
        return "takes other activations"
    activation, weight = map(_dtype_of, request.qconfig)
    static = not request.dynamic and (asked is not None or half_static(request.qconfig))
    wanted = [(config.input_dtype, activation)]
    wanted += [(config.output_dtype, activation if static else None)]
    wanted += [(config.weight_dtype, weight)] if row.weight or row.dynamic is not None else []
    if not all(_same(has, asks) for has, asks in wanted):
        return "takes other data types"
    if asked is None:
        return None
    checks = [(config.input_dtype_with_constraints, asked)]
    if not request.dynamic:
        checks.append((config.output_dtype_with_constraints, output_spec(row.output, asked)))
    spec = weight_spec(row, request.weight) if row.weight else None
    if spec is not None:
        checks.append((config.weight_dtype_with_constraints, spec))
    return next(filter(None, (_broken(*check) for check in checks)), None)


def _same(has: Any, asks: Any) -> bool:
    """Whether a data type is the one asked for; no type, and float, mean real numbers."""
    real = (None, torch.float32)
    return (has in real and asks in real) or has == asks


def _broken(limits: DTypeWithConstraints, spec: TensorSpec) -> str | None:
    """Which constraint a spec breaks, in words."""
    low, high = spec.limits
    least, most = limits.quant_min_lower_bound, limits.quant_max_upper_bound
    if least is not None and most is not None and not (least <= low and high <= most):
        return f"uses codes from {least} to {most}, the qconfig asks for {low} to {high}"
    scale = limits.scale_min_lower_bound
    if scale is not None and spec.eps < scale:
        return f"needs scales of at least {scale}, the qconfig's eps is {spec.eps:.3g}"
    exact = (limits.scale_exact_match, limits.zero_point_exact_match)
    fixed: Any = spec.policy
    given = (getattr(fixed, "scale", None), getattr(fixed, "zero_point", None))
    if exact[0] is not None and isinstance(spec.dtype, QDType) and given != exact:
        return f"fixes scale and zero point to {exact}, the qconfig asks for {given}"
    return None


def half_weight(request: Request) -> bool:
    """Whether a qconfig asks for a float16 weight."""
    return request.qconfig is not None and _dtype_of(request.qconfig.weight) is torch.float16


def half_static(qconfig: QConfig | None) -> bool:
    """Whether a qconfig asks for float16 activations with no scale to find."""
    if qconfig is None or qconfig.activation is None:
        return False
    dynamic = getattr(qconfig.activation(), "is_dynamic", False)
    return not dynamic and _dtype_of(qconfig.activation) is torch.float16


def _dtype_of(factory: Any) -> Any:
    """The data type of a factory's observer: quantized, floating point, or None."""
    dtype = None if factory is None else getattr(factory(), "dtype", None)
    floating = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    return dtype if dtype is None or floating else as_qdtype(dtype)
