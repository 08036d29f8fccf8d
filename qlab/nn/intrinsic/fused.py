"""Float modules that are quantized as one: a layer with what follows it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import type_before_parametrizations

from qlab.errors import ArgumentError
from qlab.nn.functions import Add


class _FusedModule(nn.Sequential):
    """What the reference derives its fused modules from, and code its own: any parts."""


class FusedModule(_FusedModule):
    """Layers that run in turn and are quantized as one integer module.

    A subclass names the classes of its parts; a part of another class is refused. The parts are
    given in their order or by the names that the signature shows: ``conv``, ``bn``, ``relu``, ….

    Raises:
        ArgumentError: The modules given are not of the classes in `parts`, in that order, or bear
            other names.
    """

    parts: ClassVar[tuple[type[nn.Module], ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            parameters = [Parameter(n, _BY_NAME, annotation=nn.Module) for n in cls._part_names()]
            vars_of: Any = cls
            vars_of.__signature__ = Signature(parameters)

    @classmethod
    def _part_names(cls) -> tuple[str, ...]:
        """What the reference calls the parts."""
        return tuple(map(_part_name, cls.parts))

    def __init__(self, *modules: nn.Module, **named: nn.Module) -> None:
        if named:
            names = self._part_names()[len(modules) :]
            if named.keys() != set(names):
                raise ArgumentError(
                    f"{type(self).__name__}: its parts have other names",
                    expected=", ".join(self._part_names()),
                    received=", ".join([*["one by its place"] * len(modules), *named]),
                )
            modules = (*modules, *(named[name] for name in names))
        received = tuple(map(_kind, modules))
        if received != self.parts:
            raise ArgumentError(
                f"{type(self).__name__} cannot hold these modules",
                expected=", ".join(part.__name__ for part in self.parts),
                received=", ".join(part.__name__ for part in received) or "no modules",
            )
        super().__init__(*modules)

    @property
    def behind(self) -> tuple[Callable[..., Tensor], ...]:
        """What is done with the first layer's result; its batch norm does not count."""
        return tuple(part for part in list(self)[1:] if not isinstance(part, _BatchNorm))


def _part_name(part: type[nn.Module]) -> str:
    known = (name for kind, name in _NAMES.items() if issubclass(part, kind))
    return next(known, part.__name__.lower())


def _kind(module: nn.Module) -> type[nn.Module]:
    """The class of a part; a reference module counts as the float module that it is."""
    kind = type_before_parametrizations(module)
    return kind.float_type if getattr(kind, "_IS_REFERENCE", False) else kind


_BY_NAME = Parameter.POSITIONAL_OR_KEYWORD
_NAMES: dict[type[nn.Module], str] = {
    Add: "add",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
    nn.Linear: "linear",
    nn.modules.batchnorm._BatchNorm: "bn",
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Tanh: "tanh",
}


class ConvReLU1d(FusedModule):
    """``relu(conv(x))`` of ``nn.Conv1d`` and ``nn.ReLU``."""

    parts = (nn.Conv1d, nn.ReLU)


class ConvReLU2d(FusedModule):
    """``relu(conv(x))`` of ``nn.Conv2d`` and ``nn.ReLU``."""

    parts = (nn.Conv2d, nn.ReLU)


class ConvReLU3d(FusedModule):
    """``relu(conv(x))`` of ``nn.Conv3d`` and ``nn.ReLU``."""

    parts = (nn.Conv3d, nn.ReLU)


class LinearReLU(FusedModule):
    """``relu(linear(x))`` of ``nn.Linear`` and ``nn.ReLU``."""

    parts = (nn.Linear, nn.ReLU)


class Conv1dReLU6(FusedModule):
    """``relu6(conv(x))`` of ``nn.Conv1d`` and ``nn.ReLU6``."""

    parts = (nn.Conv1d, nn.ReLU6)


class Conv2dReLU6(FusedModule):
    """``relu6(conv(x))`` of ``nn.Conv2d`` and ``nn.ReLU6``."""

    parts = (nn.Conv2d, nn.ReLU6)


class Conv3dReLU6(FusedModule):
    """``relu6(conv(x))`` of ``nn.Conv3d`` and ``nn.ReLU6``."""

    parts = (nn.Conv3d, nn.ReLU6)


class LinearReLU6(FusedModule):
    """``relu6(linear(x))`` of ``nn.Linear`` and ``nn.ReLU6``."""

    parts = (nn.Linear, nn.ReLU6)


class ConvBn1d(FusedModule):
    """``bn(conv(x))`` of ``nn.Conv1d`` and ``nn.BatchNorm1d``."""

    parts = (nn.Conv1d, nn.BatchNorm1d)


class ConvBn2d(FusedModule):
    """``bn(conv(x))`` of ``nn.Conv2d`` and ``nn.BatchNorm2d``."""

    parts = (nn.Conv2d, nn.BatchNorm2d)


class ConvBn3d(FusedModule):
    """``bn(conv(x))`` of ``nn.Conv3d`` and ``nn.BatchNorm3d``."""

    parts = (nn.Conv3d, nn.BatchNorm3d)


class ConvBnReLU1d(FusedModule):
    """``relu(bn(conv(x)))`` of ``nn.Conv1d``, ``nn.BatchNorm1d`` and ``nn.ReLU``."""

    parts = (nn.Conv1d, nn.BatchNorm1d, nn.ReLU)


class ConvBnReLU2d(FusedModule):
    """``relu(bn(conv(x)))`` of ``nn.Conv2d``, ``nn.BatchNorm2d`` and ``nn.ReLU``."""

    parts = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)


class ConvBnReLU3d(FusedModule):
    """``relu(bn(conv(x)))`` of ``nn.Conv3d``, ``nn.BatchNorm3d`` and ``nn.ReLU``."""

    parts = (nn.Conv3d, nn.BatchNorm3d, nn.ReLU)


class LinearBn1d(FusedModule):
    """``bn(linear(x))`` of ``nn.Linear`` and ``nn.BatchNorm1d``."""

    parts = (nn.Linear, nn.BatchNorm1d)


class LinearLeakyReLU(FusedModule):
    """``leaky_relu(linear(x))`` of ``nn.Linear`` and ``nn.LeakyReLU``."""

    parts = (nn.Linear, nn.LeakyReLU)


class LinearTanh(FusedModule):
    """``tanh(linear(x))`` of ``nn.Linear`` and ``nn.Tanh``."""

    parts = (nn.Linear, nn.Tanh)


class LinearGELU(FusedModule):
    """``gelu(linear(x))`` of ``nn.Linear`` and ``nn.GELU``."""

    parts = (nn.Linear, nn.GELU)


class BNReLU2d(FusedModule):
    """``relu(bn(x))`` of ``nn.BatchNorm2d`` and ``nn.ReLU``."""

    parts = (nn.BatchNorm2d, nn.ReLU)

    @classmethod
    def _part_names(cls) -> tuple[str, ...]:
        return "batch_norm", "relu"


class BNReLU3d(FusedModule):
    """``relu(bn(x))`` of ``nn.BatchNorm3d`` and ``nn.ReLU``."""

    parts = (nn.BatchNorm3d, nn.ReLU)

    @classmethod
    def _part_names(cls) -> tuple[str, ...]:
        return "batch_norm", "relu"


class AddReLU(FusedModule):
    """``relu(a + b)`` of an addition and ``nn.ReLU``."""

    parts = (Add, nn.ReLU)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (Sequential takes one)
        self, a: Tensor, b: Tensor
    ) -> Tensor:
        """Float tensors whose shapes broadcast → their sum, 0 where it is negative."""
        add, relu = self
        return relu(add(a, b))


class ConvAdd2d(FusedModule):
    """``conv(x) + other``: a convolution and the sum that its result goes into.

    Args:
        conv: ``nn.Conv2d``.
        add: Adds two tensors: ``torch.add``, ``operator.add`` or a module.

    Raises:
        ArgumentError: Another class than ``nn.Conv2d``, or ``add`` cannot be called.
    """

    parts = (nn.Conv2d,)

    def __init__(self, conv: nn.Module, add: Callable[..., Tensor]) -> None:
        super().__init__(conv)
        if not callable(add):
            raise ArgumentError(
                f"{type(self).__name__}: add must be a function of two tensors",
                expected="torch.add, operator.add or a module",
                received=repr(add),
            )
        self.add = add

    @property
    def behind(self) -> tuple[Callable[..., Tensor], ...]:
        """The sum."""
        return (self.add,)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (Sequential takes one)
        self, x1: Tensor, x2: Tensor
    ) -> Tensor:
        """Float tensors, (N, C, H, W) and one that broadcasts with the result → their sum."""
        return self.add(self[0](x1), x2)


class ConvAddReLU2d(ConvAdd2d):
    """``relu(conv(x) + other)``; arguments as `ConvAdd2d`, and ``relu``, an ``nn.ReLU``."""

    def __init__(self, conv: nn.Module, add: Callable[..., Tensor], relu: nn.Module) -> None:
        super().__init__(conv, add)
        if _kind(relu) is not nn.ReLU:
            raise ArgumentError(
                "ConvAddReLU2d cannot hold this module",
                expected="ReLU",
                received=type(relu).__name__,
            )
        self.relu = relu

    @property
    def behind(self) -> tuple[Callable[..., Tensor], ...]:
        """The sum and the ReLU."""
        return self.add, self.relu

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """As `ConvAdd2d`, 0 where the sum is negative."""
        return self.relu(super().forward(x1, x2))
