"""What a comparison found: one row per layer, the network's output, sizes and coverage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from torch import fx, nn

from qlab.analysis.tasks import checked_count
from qlab.dtypes import QDType
from qlab.errors import UnknownNameError
from qlab.graph.plan import Plan
from qlab.nn.quantized.holder import WEIGHT
from qlab.nn.quantized.weighted import WeightedModule


@dataclass(frozen=True)
class Size:
    """Bytes that the parameters take: codes at their own bit width, everything else as stored."""

    float_bytes: int
    quantized_bytes: int

    @property
    def ratio(self) -> float:
        """Float size over quantized size; 1 where there are no parameters."""
        return self.float_bytes / self.quantized_bytes if self.quantized_bytes else 1.0


@dataclass(frozen=True)
class Coverage:
    """How many operators run on integers, of those that compute (views do not count)."""

    integer: int
    simulated: int
    float_: int

    @property
    def total(self) -> int:
        """All operators that compute."""
        return self.integer + self.simulated + self.float_

    @property
    def integer_share(self) -> float:
        """Share that is truly integer, 0 to 1; 0 where nothing computes."""
        return self.integer / self.total if self.total else 0.0


@dataclass(frozen=True)
class Report:
    """A float network beside its quantized self.

    Attributes:
        layers: One row per quantized layer in graph order, indexed by name. Columns ``type``,
            ``execution``, ``<metric>_local`` and ``<metric>_accumulated`` for each metric of
            `qlab.analysis.metrics`; ``rmse_scale_local`` and ``rmse_scale_accumulated``, in steps
            of the output's quantizer; ``nmse_rounding_local`` and ``nmse_clipping_local``, the
            parts of ``nmse_local`` from values that its codes reach and from those beyond;
            ``clipped_share``, how many of the float values lie beyond [%] (these five are NaN where
            the output stays float); ``sqnr_ideal`` (the bound that an ideal quantizer of the
            output's bit width reaches on the layer's float output [dB]), ``weight_bytes``.
        output: The metrics for the network's output, ``top1_agreement`` [%] for a classifier's
            logits and, where labels exist, ``accuracy`` and ``float_accuracy`` [%]. Of a network
            that gives several tensors, the errors are over all those of real numbers together, as
            in `Sensitivity`; the logits are the output of that name, else the first.
        outputs: The metrics of each tensor of real numbers that the network gives, indexed by where
            it is in the output: ``"logits"`` in a dict or a dataclass, ``"[1]"`` in a tuple. NaN
            for one that is not finite in float, which ``output`` leaves out.
        size: Bytes before and after.
        coverage: Operators by how they run.
        plan: The truth table that was executed.
        samples: How many samples the errors were measured on.
        complete: False where the comparison was stopped early.
        weight_only: As ``layers``, with only the weights quantized; None unless asked for.
        activation_only: As ``layers``, with only the activations quantized; None likewise.
    """

    layers: pd.DataFrame
    output: dict[str, float]
    size: Size
    coverage: Coverage
    plan: Plan
    samples: int
    outputs: pd.DataFrame
    complete: bool = True
    weight_only: pd.DataFrame | None = None
    activation_only: pd.DataFrame | None = None

    @property
    def integer_share(self) -> float:
        """Share of operators that are truly integer, 0 to 1."""
        return self.coverage.integer_share

    def worst(self, count: int = 5, by: str = "sqnr_local") -> pd.DataFrame:
        """The ``count`` layers with the lowest value of column ``by``, worst first.

        Raises:
            ArgumentError: A count below 1.
            UnknownNameError: No such column; lists those that exist.
        """
        checked_count("count", count)
        if by not in self.layers:
            raise UnknownNameError.of("column of the layers", by, self.layers.columns)
        return self.layers.sort_values(by, kind="stable").head(count)


def coverage_of(plan: Plan) -> Coverage:
    """Counts the operators of a plan by how they run."""
    counts = {"integer": 0, "simulated": 0, "float": 0}
    for step in plan.steps:
        how = step.execution
        if how == "dynamic":
            how = "simulated" if step.weight is None else "integer"
        if how in counts:
            counts[how] += 1
    return Coverage(counts["integer"], counts["simulated"], counts["float"])


def code_buffers(module: nn.Module) -> dict[str, QDType]:
    """The buffers of a module that hold a weight's codes, with their type."""
    qparams = module.get_qparams(WEIGHT) if isinstance(module, WeightedModule) else None
    return {} if qparams is None else {"weight_codes": qparams.dtype}


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's own state; codes of a quantized module at their own bit width."""
    codes, bits = code_buffers(module), 0
    for name, tensor in module.state_dict().items():
        width = codes[name].bits if name in codes else 8 * tensor.element_size()
        bits += tensor.numel() * width
    return math.ceil(bits / 8)


def layer_bytes(names: Iterable[str], floating: nn.Module, converted: nn.Module) -> pd.DataFrame:
    """Bytes of each layer's own state, as `module_bytes` counts them, in two networks.

    Args:
        names: The layers; one that is a function and no module has no state of its own.
        floating: The fused float network.
        converted: The quantized one, whose modules have the same paths.

    Returns:
        Indexed by ``layer``; int columns ``float_bytes`` and ``quantized_bytes``.
    """
    rows = {name: [_bytes_at(floating, name), _bytes_at(converted, name)] for name in names}
    columns = ["float_bytes", "quantized_bytes"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("layer")


def _bytes_at(network: nn.Module, path: str) -> int:
    try:
        return module_bytes(network.get_submodule(path))
    except AttributeError:
        return 0


def graph_bytes(graph_module: fx.GraphModule) -> int:
    """Bytes of everything that a graph holds, shared modules counted once."""
    called = {str(n.target) for n in graph_module.graph.nodes if n.op == "call_module"}
    modules = {id(m): m for m in (graph_module.get_submodule(path) for path in called)}
    attributes = {str(n.target) for n in graph_module.graph.nodes if n.op == "get_attr"}
    state = graph_module.state_dict()
    loose = sum(state[a].numel() * state[a].element_size() for a in attributes if a in state)
    return sum(module_bytes(m) for m in modules.values()) + loose
