"""What a Lab knows of one tensor, and how one number of a layer comes about."""

from __future__ import annotations

from torch import Tensor

from qlab.analysis.what_if import compare_policies
from qlab.analysis.worked_norms import WorkedNorm, norm_in_layer
from qlab.analysis.worked_sums import WorkedSum, sum_in_layer
from qlab.errors import DTypeError, UnknownNameError
from qlab.lab.arguments import Mapping
from qlab.lab.base import LabBase
from qlab.qparams import QParams
from qlab.ranges import QuantizationError, TensorSpec
from qlab.stats import TensorStats


class TensorLab(LabBase):
    """A `LabBase` asked about one tensor of one layer; see `Lab`."""

    def statistics(
        self, name: str, kind: str = "activation", mapping: Mapping = None
    ) -> TensorStats:
        """What one tensor of a layer looked like in float.

        Of an output that a configuration only ever reads clamped (a convolution in front of
        ReLU6) that is the clamped tensor: what lies outside is never represented.

        Args:
            name: A layer.
            kind: ``"activation"`` (its output), ``"input"`` (its first tensor input) or
                ``"weight"``.
            mapping: The configuration that decides what is clamped.

        Raises:
            UnknownNameError: No such layer or kind, or the layer has no such tensor.
        """
        probe = self._study.probe(name)
        if kind == "weight":
            return probe.weight_stats()
        if kind == "activation":
            plan = self.plan(mapping)
            clamped = plan.step(name).bounds is not None
            return self._study.stats(plan.range_node(probe.node) if clamped else probe.node)
        if kind == "input":
            return self._study.stats(probe.inputs[0])
        raise UnknownNameError.of("kind of tensor", kind, ["activation", "input", "weight"])

    def weight(self, name: str) -> Tensor:
        """A layer's float weight after fusion, output channels first.

        Raises:
            UnknownNameError: No such layer, or it has no weight.
        """
        return self._study.probe(name).weight()

    def layer_inputs(self, name: str) -> tuple[Tensor, ...]:
        """A layer's float inputs on the small fixed sample that `what_if` runs on.

        Raises:
            UnknownNameError: No such layer.
        """
        probe = self._study.probe(name)
        return tuple(probe.arguments(self._study.layer_sample(probe)[0]))

    def qparams(self, name: str, spec: TensorSpec, kind: str = "activation") -> QParams:
        """Scale and zero point that a spec gives a tensor of a layer, from cached statistics.

        As `Lab.convert` uses them: with all codes of the type, whatever part of them an observer
        chose the scale for.

        Args:
            name: A layer.
            spec: How to quantize.
            kind: ``"activation"`` (its output), ``"input"`` or ``"weight"``.

        Raises:
            UnknownNameError: As `statistics`.
        """
        probe = self._study.probe(name)
        if not isinstance(spec, TensorSpec):
            raise DTypeError(
                "A scale follows from a spec",
                expected="a TensorSpec",
                received=type(spec).__name__,
            )
        if kind == "weight":
            return self._study.weight_qparams(name, spec)[0]
        self.statistics(name, kind)
        node = probe.node if kind == "activation" else probe.inputs[0]
        return self._study.activation_qparams(node, spec)

    def policies(
        self, name: str, spec: TensorSpec, kind: str = "activation", mapping: Mapping = None
    ) -> dict[str, QuantizationError]:
        """Every range policy on one tensor under an otherwise equal spec, by the policy's label.

        Policies that do not apply to the spec's data type or granularity are left out. An output
        is judged by the tensor that gives its range under ``mapping``: its own, or the clamped
        one, or the one it shares a scale with, as in `what_if`.

        Raises:
            UnknownNameError: No such layer, or it has no weight.
        """
        return compare_policies(self._study, self.plan(mapping), name, spec, kind)

    def worked_sum(
        self, name: str, channel: int = 0, position: int = 0, mapping: Mapping = None
    ) -> WorkedSum:
        """One output of a linear layer or convolution step by step, from codes to code.

        Args:
            name: The layer.
            channel: Of its output.
            position: Among that channel's outputs over the sample and space, flattened.
            mapping: The configuration that deploys it.

        Raises:
            UnknownNameError: No such layer.
            UnsupportedError: It sums no integers.
            ArgumentError: No such channel or position.
        """
        return sum_in_layer(self._study, self.plan(mapping), name, channel, position)

    def worked_norm(self, name: str, group: int = 0, mapping: Mapping = None) -> WorkedNorm:
        """One mean's worth of a quantized normalization step by step.

        Args:
            name: A layer, group, instance or batch norm.
            group: Which of the sets of numbers that share a mean.
            mapping: The configuration that deploys it.

        Raises:
            UnknownNameError: No such layer.
            UnsupportedError: It is no norm, or does not turn codes into codes.
            ArgumentError: No such group.
        """
        return norm_in_layer(self._study, self.plan(mapping), name, group)
