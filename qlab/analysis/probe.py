"""One layer on its own: its float tensors, and itself in quantized form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from qlab import ops, registry
from qlab.errors import UnknownNameError, UnsupportedError
from qlab.nn.quantized.base import Output, QuantizedModule
from qlab.qparams import QParams, fake_quantize
from qlab.stats import TensorStats

_PART = 2**19  # elements that pass through the cache together


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer as it is deployed, to be fed the float network's values.

    Attributes:
        module: An integer module, or the float module where only its output is quantized.
        output: Scale and zero point of its output; None where it stays float.
    """

    module: nn.Module
    output: QParams | None

    @property
    def execution(self) -> str:
        """``"integer"`` or ``"simulated"``."""
        return self.module.execution if isinstance(self.module, QuantizedModule) else "simulated"

    def run(
        self, inputs: Sequence[Tensor], order: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Float inputs, quantized on entry → the layer's output as real numbers.

        Args:
            inputs: The layer's tensors, float32.
            order: The result's order in memory; ``preserve_format`` for that which the layer gives.
        """
        with torch.no_grad():
            if not isinstance(self.module, QuantizedModule):
                result = self.module(*inputs)
                return result if self.output is None else fake_quantize(result, self.output)
            bound = self.module.input_qparams or ()
            codes = [
                x if qparams is None else quantize_in_parts(x, qparams)
                for x, qparams in zip(inputs, bound, strict=True)
            ]
            return real(self.module(*codes), self.output, order)


def real(
    value: Tensor,
    qparams: QParams | None,
    order: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """A value of a quantized graph as real numbers.

    Codes are brought into the memory layout of the float network first, which later steps are
    fast in: some integer kernels give another.
    """
    if qparams is None:
        return value
    ordered = value if order is torch.preserve_format else value.contiguous(memory_format=order)
    return ops.dequantize(ordered, qparams)


def quantize_in_parts(x: Tensor, qparams: QParams) -> Tensor:
    """As `ops.quantize` with one scale for the whole tensor; large tensors go through the cache."""
    if x.device.type != "cpu" or x.numel() <= _PART or x.ndim < 2:
        return ops.quantize(x, qparams)
    codes = torch.empty_like(x, dtype=qparams.dtype.storage)
    rows = max(_PART * x.shape[0] // x.numel(), 1)
    for start in range(0, x.shape[0], rows):
        codes[start : start + rows] = ops.quantize(x[start : start + rows], qparams)
    return codes


class LayerProbe:
    """A layer of the fused float graph with the nodes that feed it.

    Args:
        graph_module: The fused float graph.
        node: The layer's node.
    """

    def __init__(self, graph_module: fx.GraphModule, node: fx.Node) -> None:
        self.name = str(node.meta["name"])
        self.node = node.name
        self.inputs = tuple(a.name for a in node.args if isinstance(a, fx.Node))
        self._module = (
            graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        )

    @property
    def module(self) -> nn.Module:
        """The float module.

        Raises:
            UnsupportedError: The operator is a function that has no module form.
        """
        if self._module is None:
            raise UnsupportedError(
                f"The layer {self.name!r} has no quantized form",
                fix="Lab.layers says why.",
            )
        return self._module

    @cached_property
    def _row(self) -> Any:
        return registry.row_for_module(type(self.module))

    @cached_property
    def has_weight(self) -> bool:
        """Whether the layer has a weight that can be quantized."""
        return self._module is not None and self._row is not None and self._row.weight

    def weight(self) -> Tensor:
        """The float weight, as the module has it.

        Raises:
            UnknownNameError: The layer has none.
        """
        if not self.has_weight:
            raise UnknownNameError(
                f"The layer {self.name!r} has no weight",
                fix="Ask for its 'activation' or 'input' instead.",
            )
        static: Any = self._row.static
        return static.weight_of(self.module)

    @cached_property
    def _weight_stats(self) -> TensorStats:
        return TensorStats.of(self.weight(), channel_axis=self._row.weight_axis)

    def weight_stats(self) -> TensorStats:
        """Statistics of the weight, per output channel too."""
        return self._weight_stats

    def quantized(
        self, weight: QParams | None, inputs: Sequence[QParams | None], output: QParams | None
    ) -> QuantizedLayer:
        """The layer as it would be deployed.

        Args:
            weight: How its weight is quantized; None where it has none, or keeps it in float.
            inputs: How each tensor input arrives; None for float.
            output: How its output is quantized; None for float.

        Raises:
            UnsupportedError: The registry has no integer form of it, or it takes codes only and an
                input stays float.
        """
        row = self._row
        if row is None or row.static is None:
            raise UnsupportedError(
                f"The layer {self.name!r} has no quantized form",
                expected="a layer of the registry with an integer module",
                received=type(self.module).__name__,
            )
        if row.weight and weight is None:
            return QuantizedLayer(self.module, output)
        static: Any = row.static
        made = static.from_qparams(
            self.module, weight=weight, output=None if static.output_of is Output.INPUT else output
        )
        if None in inputs and not made.takes_real_numbers:
            raise UnsupportedError(
                f"The layer {self.name!r} works on codes, and what feeds it stays in float",
                expected="a quantized input",
                received=f"{type(self.module).__name__} with an input in float",
                fix="Quantize the layer that feeds it, or ask about another layer.",
            )
        made.bind_inputs(*inputs)
        return QuantizedLayer(made, output)

    def arguments(self, values: dict[str, Any]) -> list[Tensor]:
        """The layer's tensor inputs out of a run's values."""
        return [values[node] for node in self.inputs]
