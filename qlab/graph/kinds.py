"""What stage of the workflow a graph module is at, and a tracer, by the reference's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from qlab.graph.convert import is_converted
from qlab.graph.plan import Plan
from qlab.graph.special import STANDALONE
from qlab.graph.trace import is_library_leaf


class _Stage(type):
    """Makes ``isinstance`` ask what a graph module is, which is an `fx.GraphModule` throughout."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, fx.GraphModule) and cls.recognises(instance)

    def recognises(cls, graph_module: fx.GraphModule) -> bool:
        """Whether a graph module is at this stage."""
        raise NotImplementedError


def _planned(graph_module: fx.GraphModule) -> bool:
    return isinstance(graph_module.meta.get("plan"), Plan)


class FusedGraphModule(metaclass=_Stage):
    """What `fuse_fx` returns; for ``isinstance``."""

    @classmethod
    def recognises(cls, graph_module: fx.GraphModule) -> bool:
        """Whether it was traced by qlab, and neither prepared nor converted."""
        traced = any("kind" in node.meta for node in graph_module.graph.nodes)
        return traced and not _planned(graph_module)


class ObservedGraphModule(metaclass=_Stage):
    """What `prepare_fx` and `prepare_qat_fx` return; for ``isinstance``."""

    @classmethod
    def recognises(cls, graph_module: fx.GraphModule) -> bool:
        """Whether it has a plan and is not converted."""
        return _planned(graph_module) and not is_converted(graph_module)


class ObservedStandaloneGraphModule(ObservedGraphModule):
    """What `prepare_fx` makes of a standalone module; for ``isinstance``."""

    @classmethod
    def recognises(cls, graph_module: fx.GraphModule) -> bool:
        """Whether it has a plan of its own inside another model, and is not converted."""
        return super().recognises(graph_module) and STANDALONE in graph_module.meta


def is_observed_module(module: Any) -> bool:
    """Whether `prepare_fx` or `prepare_qat_fx` made a module, and nothing has converted it."""
    return isinstance(module, ObservedGraphModule)


def is_observed_standalone_module(module: Any) -> bool:
    """Whether it is that of a standalone module."""
    return isinstance(module, ObservedStandaloneGraphModule)


_is_observed_module = is_observed_module
_is_observed_standalone_module = is_observed_standalone_module


class QuantizedGraphModule(metaclass=_Stage):
    """What `convert_fx` and `convert_to_reference_fx` return; for ``isinstance``."""

    @classmethod
    def recognises(cls, graph_module: fx.GraphModule) -> bool:
        """Whether it is converted."""
        return _planned(graph_module) and is_converted(graph_module)


class QuantizationTracer(fx.Tracer):
    """Traces a model with the modules of torch and qlab kept whole.

    `prepare_fx` traces by itself; this is for code that wants the graph before.

    Args:
        skipped_module_names: Paths of further modules to keep whole.
        skipped_module_classes: Their classes.
    """

    def __init__(
        self,
        skipped_module_names: Iterable[str],
        skipped_module_classes: Iterable[type[nn.Module]],
    ) -> None:
        super().__init__()
        self.skipped_module_names = list(skipped_module_names)
        self.skipped_module_classes = list(skipped_module_classes)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is kept whole."""
        skipped = type(m) in self.skipped_module_classes
        return skipped or module_qualified_name in self.skipped_module_names or is_library_leaf(m)
