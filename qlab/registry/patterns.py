"""Chains of layers that become one before quantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from qlab.errors import ArgumentError, UnknownNameError, UnsupportedError
from qlab.nn import functions
from qlab.nn import intrinsic as nni
from qlab.nn.intrinsic.fold import fold_batch_norm

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Pattern:
    """Layers in a chain that become one.

    Attributes:
        modules: Their classes, in order. A function counts as the module it lifts to.
        fused: The class they become in evaluation mode, batch norm folded into the weights.
        train: The class they become in training mode, or None where that is not supported.
    """

    modules: tuple[type[nn.Module], ...]
    fused: type[nn.Module]
    train: type[nn.Module] | None = None

    def fuse(self, chain: Sequence[nn.Module]) -> nn.Module:
        """One module that does what the chain does; the chain is left as it was.

        In evaluation mode batch norm is folded into a copy of the layer before it; in training
        mode the parts are kept, in a module of class `train`.

        Args:
            chain: Modules of the classes in `modules`, all in the same mode.

        Raises:
            ArgumentError: Some are in training mode and some are not.
            UnsupportedError: In training mode, and the pattern has no `train`; or the batch norm
                has no running statistics.
        """
        if len({module.training for module in self._same_mode(chain)}) > 1:
            raise ArgumentError(
                f"Cannot fuse {self.title}: some modules are in training mode, some are not",
                fix="Call model.eval() (or model.train()) on the whole model first.",
            )
        if chain[0].training:
            if self.train is None:
                raise UnsupportedError(
                    f"{self.title} cannot be fused in training mode",
                    fix="Call model.eval() first.",
                )
            return self.train(*chain)
        layer, *rest = chain
        if rest and isinstance(rest[0], _BATCH_NORMS) and not isinstance(layer, _BATCH_NORMS):
            layer, rest = fold_batch_norm(layer, rest[0]), rest[1:]
        if type(layer) is self.fused:
            return layer
        return self.fused(layer, *rest).eval()

    @staticmethod
    def _same_mode(chain: Sequence[nn.Module]) -> Iterator[nn.Module]:
        """The modules whose modes must agree: in training a batch norm may be frozen."""
        for module in chain:
            if not (chain[0].training and isinstance(module, _BATCH_NORMS)):
                yield module

    @property
    def title(self) -> str:
        """For people: ``Conv2d + BatchNorm2d + ReLU``."""
        return " + ".join(module.__name__ for module in self.modules)


#: Longer chains first: the first match wins.
PATTERNS: tuple[Pattern, ...] = (
    Pattern((nn.Conv1d, nn.BatchNorm1d, nn.ReLU), nni.ConvReLU1d, nni.ConvBnReLU1d),
    Pattern((nn.Conv2d, nn.BatchNorm2d, nn.ReLU), nni.ConvReLU2d, nni.ConvBnReLU2d),
    Pattern((nn.Conv3d, nn.BatchNorm3d, nn.ReLU), nni.ConvReLU3d, nni.ConvBnReLU3d),
    Pattern((nn.Linear, nn.BatchNorm1d, nn.ReLU), nni.LinearReLU),
    Pattern((nn.Conv1d, nn.BatchNorm1d, nn.ReLU6), nni.Conv1dReLU6),
    Pattern((nn.Conv2d, nn.BatchNorm2d, nn.ReLU6), nni.Conv2dReLU6),
    Pattern((nn.Conv3d, nn.BatchNorm3d, nn.ReLU6), nni.Conv3dReLU6),
    Pattern((nn.Linear, nn.BatchNorm1d, nn.ReLU6), nni.LinearReLU6),
    Pattern((nn.Conv1d, nn.BatchNorm1d), nn.Conv1d, nni.ConvBn1d),
    Pattern((nn.Conv2d, nn.BatchNorm2d), nn.Conv2d, nni.ConvBn2d),
    Pattern((nn.Conv3d, nn.BatchNorm3d), nn.Conv3d, nni.ConvBn3d),
    Pattern((nn.Linear, nn.BatchNorm1d), nn.Linear, nni.LinearBn1d),
    Pattern((nn.Conv1d, nn.ReLU), nni.ConvReLU1d, nni.ConvReLU1d),
    Pattern((nn.Conv2d, nn.ReLU), nni.ConvReLU2d, nni.ConvReLU2d),
    Pattern((nn.Conv3d, nn.ReLU), nni.ConvReLU3d, nni.ConvReLU3d),
    Pattern((nn.Linear, nn.ReLU), nni.LinearReLU, nni.LinearReLU),
    Pattern((nn.Conv1d, nn.ReLU6), nni.Conv1dReLU6),
    Pattern((nn.Conv2d, nn.ReLU6), nni.Conv2dReLU6),
    Pattern((nn.Conv3d, nn.ReLU6), nni.Conv3dReLU6),
    Pattern((nn.Linear, nn.ReLU6), nni.LinearReLU6),
    Pattern((nn.BatchNorm2d, nn.ReLU), nni.BNReLU2d, nni.BNReLU2d),
    Pattern((nn.BatchNorm3d, nn.ReLU), nni.BNReLU3d, nni.BNReLU3d),
    Pattern((functions.Add, nn.ReLU), nni.AddReLU, nni.AddReLU),
)

#: Chains whose fused form gives other integers than its parts in turn, for want of a requantization
#: in between. They become one only where a person asks for it: by a backend config that describes
#: them, such as that of oneDNN, or by name. An addition takes the chain as either of its operands.
ON_REQUEST: tuple[Pattern, ...] = (
    Pattern((nn.Conv2d, nn.BatchNorm2d, functions.Add, nn.ReLU), nni.ConvAddReLU2d),
    Pattern((nn.Conv2d, nn.BatchNorm2d, functions.Add), nni.ConvAdd2d),
    Pattern((nn.Conv2d, functions.Add, nn.ReLU), nni.ConvAddReLU2d),
    Pattern((nn.Conv2d, functions.Add), nni.ConvAdd2d),
    Pattern((nn.Linear, nn.BatchNorm1d, nn.LeakyReLU), nni.LinearLeakyReLU),
    Pattern((nn.Linear, nn.LeakyReLU), nni.LinearLeakyReLU),
    Pattern((nn.Linear, nn.Tanh), nni.LinearTanh),
    Pattern((nn.Linear, nn.GELU), nni.LinearGELU),
)


def patterns_of(given: object) -> tuple[Pattern, ...]:
    """Patterns given as such, or by title: ``"Linear + GELU"``.

    Args:
        given: A sequence of them.

    Raises:
        ArgumentError: No sequence, or something else in it.
        UnknownNameError: A title that no pattern of `PATTERNS` or `ON_REQUEST` has.
    """
    known = {pattern.title: pattern for pattern in (*PATTERNS, *ON_REQUEST)}
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ArgumentError(
            "Patterns come in a sequence",
            expected="a tuple of qlab.registry.Pattern or of their titles",
            received=repr(given),
        )
    found = []
    for one in given:
        if isinstance(one, str) and one not in known:
            raise UnknownNameError.of("pattern", one, sorted(known))
        pattern = known[one] if isinstance(one, str) else one
        if not isinstance(pattern, Pattern):
            raise ArgumentError(
                "A pattern is a chain of layers",
                expected="a qlab.registry.Pattern, or its title, such as 'Linear + GELU'",
                received=repr(one),
            )
        found.append(pattern)
    return tuple(found)
