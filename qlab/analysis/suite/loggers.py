"""Modules that keep what passes through them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qlab.analysis.suite.metrics import compute_sqnr
from qlab.errors import UnsupportedError
from qlab.ops import checks


class OutputLogger(nn.Module):
    """Keeps every tensor that it is called with, and gives it back.

    Where the value is codes it is called with a `QTensor`. Of a recurrent layer it keeps the
    output and its states.

    Args:
        ref_node_name: Name of the node whose output or input is logged; that of the layer.
        prev_node_name: Name of the node that gives the value.
        model_name: What the caller calls the model.
        ref_name: What loggers of corresponding layers in other models have too.
        prev_node_target_type: What the node that gives the value calls, as text.
        ref_node_target_type: What the layer's node calls, as text.
        results_type: ``"node_output"`` or ``"node_input"``.
        index_within_arg: Position in an argument that is a list.
        index_of_arg: Which argument.
        fqn: Path of the layer's module, or of the module that calls the function.
        qconfig_str: The qconfig that the value was quantized by, as text.

    Attributes:
        stats: The tensors, one per call.
        stats_rnn: ``(output, (h, c))`` or ``(output, h)``, one per call.
        enabled: Whether calls are taken notice of.
        save_activations: Whether tensors are kept.
    """

    _is_impure = True  # nothing reads its output, and the call must stay in the graph

    def __init__(
        self,
        ref_node_name: str,
        prev_node_name: str,
        model_name: str,
        ref_name: str,
        prev_node_target_type: str,
        ref_node_target_type: str,
        results_type: str,
        index_within_arg: int,
        index_of_arg: int,
        fqn: str | None,
        qconfig_str: str | None = "",
    ) -> None:
        super().__init__()
        self.stats: list[Tensor] = []
        self.stats_rnn: list[tuple[Tensor, Tensor | tuple[Tensor, Tensor]]] = []
        self.ref_node_name = ref_node_name
        self.prev_node_name = prev_node_name
        self.model_name = model_name
        self.ref_name = ref_name
        self.prev_node_target_type = prev_node_target_type
        self.ref_node_target_type = ref_node_target_type
        self.results_type = results_type
        self.index_within_arg = index_within_arg
        self.index_of_arg = index_of_arg
        self.fqn = fqn
        self.qconfig_str = qconfig_str
        self.enabled = True
        self.save_activations = True

    def forward(self, x: Any) -> Any:
        """Keeps a tensor, ``(output, (h, c))`` or ``(output, h)``; other values pass by."""
        if self.enabled and self.save_activations:
            match x:
                case Tensor():
                    self.stats.append(x.detach())
                case (Tensor() as output, (Tensor() as h, Tensor() as c)):
                    self.stats_rnn.append((output.detach(), (h.detach(), c.detach())))
                case (Tensor() as output, Tensor() as h):
                    self.stats_rnn.append((output.detach(), h.detach()))
        return x

    def __repr__(self) -> str:
        shown = {
            name: value
            for name, value in vars(self).items()
            if name != "training" and not name.startswith("_")
        }
        return f"{type(self).__name__}({shown})"


class OutputComparisonLogger(OutputLogger):
    """Keeps tensors, and how far each is from what it should be.

    Attributes:
        comparison_fn: The measure; `compute_sqnr`.
        comparison_fn_name: Its name in results.
        comparisons: One number per call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.comparison_fn = compute_sqnr
        self.comparison_fn_name = "sqnr"
        self.comparisons: list[Tensor] = []

    def forward(self, x: Any, x_ref: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keeps ``x`` and ``comparison_fn(x, x_ref)``; gives ``x``.

        Raises:
            UnsupportedError: Not a tensor.
        """
        if not self.enabled:
            return x
        if not isinstance(x, Tensor):
            raise UnsupportedError(
                f"The output of {self.ref_node_name!r} cannot be compared",
                expected="a tensor",
                received=type(x).__name__,
            )
        if self.save_activations:
            self.stats.append(x.detach())
        self.comparisons.append(self.comparison_fn(x, x_ref))
        return x


def loggers_set_enabled(model: nn.Module, enabled: bool) -> None:
    """Sets ``enabled`` of all `OutputLogger` of a model: off while it is calibrated."""
    checks.model("loggers_set_enabled", model)
    for module in model.modules():
        if isinstance(module, OutputLogger):
            module.enabled = enabled


def loggers_set_save_activations(model: nn.Module, save_activations: bool) -> None:
    """Sets ``save_activations`` of all `OutputLogger` of a model: off to save memory."""
    checks.model("loggers_set_save_activations", model)
    for module in model.modules():
        if isinstance(module, OutputLogger):
            module.save_activations = save_activations
