"""Cases of quantization-aware training: one list for generator and tests.

A case is a small network with its stubs, which modules to fuse, and a qconfig by name; the library
under test brings the stubs, the workflow and the qconfigs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS, FREEZE_AFTER, RATE = 6, 3, 0.05


@dataclass(frozen=True)
class Case:
    """One network in training.

    Attributes:
        name: Unique.
        layers: Makes the layers between the stubs.
        shape: Shape of a batch of inputs.
        fuse: Chains of layers, by position.
        qconfig: Name in the library's ``quantization`` module, or a backend of
            ``get_default_qat_qconfig``.
    """

    name: str
    layers: Callable[[], list[nn.Module]]
    shape: tuple[int, ...]
    fuse: tuple[tuple[int, ...], ...] = ()
    qconfig: str = "onednn"


CASES = (
    Case(
        "conv-bn-relu",
        lambda: [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)],
        (4, 3, 6, 6),
        ((0, 1, 2),),
    ),
    Case(
        "conv-bn",
        lambda: [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)],
        (4, 3, 6, 6),
        ((0, 1),),
    ),
    Case(
        "depthwise",
        lambda: [nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), nn.ReLU()],
        (4, 4, 6, 6),
        ((0, 1, 2),),
        "default_qat_qconfig",
    ),
    Case("conv-relu", lambda: [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU()], (4, 3, 6, 6), ((0, 1),)),
    Case(
        "conv1d",
        lambda: [nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU()],
        (4, 3, 9),
        ((0, 1, 2),),
    ),
    Case("conv3d", lambda: [nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)], (4, 2, 4, 4, 4), ((0, 1),)),
    Case("conv3d-relu", lambda: [nn.Conv3d(2, 4, 2), nn.ReLU()], (4, 2, 4, 4, 4), ((0, 1),)),
    Case("linear", lambda: [nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)], (8, 6)),
    Case(
        "linear-relu",
        lambda: [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)],
        (8, 6),
        ((0, 1),),
        "default_qat_qconfig_v2",
    ),
    Case("linear-bn", lambda: [nn.Linear(6, 5), nn.BatchNorm1d(5)], (8, 6), ((0, 1),)),
)


class Net(nn.Module):
    """Layers between stubs."""

    def __init__(self, layers: list[nn.Module], quant: nn.Module, dequant: nn.Module) -> None:
        super().__init__()
        self.quant, self.layers, self.dequant = quant, nn.Sequential(*layers), dequant

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.layers(self.quant(x)))


def qconfig_of(quantization: Any, case: Case) -> Any:
    """The case's qconfig from a library's ``quantization`` module."""
    named = getattr(quantization, case.qconfig, None)
    return named or quantization.get_default_qat_qconfig(case.qconfig)


def build(quantization: Any, case: Case, state: dict[str, Tensor] | None = None) -> nn.Module:
    """The case's network, fused and prepared for training by a library.

    Args:
        quantization: ``torch.ao.quantization`` or ``qlab.quantization``.
        case: Which.
        state: Parameters of the plain network to begin with.
    """
    net = Net(case.layers(), quantization.QuantStub(), quantization.DeQuantStub())
    if state is not None:
        net.load_state_dict(state)
    net.train()
    net.qconfig = qconfig_of(quantization, case)
    if case.fuse:
        chains = [[f"layers.{position}" for position in chain] for chain in case.fuse]
        net = quantization.fuse_modules_qat(net, chains)
    return quantization.prepare_qat(net)


def build_fx(
    quantization: Any, workflow: Any, case: Case, state: dict[str, Tensor] | None = None
) -> nn.Module:
    """The case's network as a graph, prepared for training by a library.

    Args:
        quantization: ``torch.ao.quantization`` or ``qlab.quantization``.
        workflow: Its module ``quantize_fx``.
        case: Which.
        state: Parameters of the plain network to begin with.
    """
    net = Net(case.layers(), nn.Identity(), nn.Identity())
    if state is not None:
        net.load_state_dict(state)
    if hasattr(quantization, case.qconfig):
        mapping = quantization.QConfigMapping().set_global(qconfig_of(quantization, case))
    else:
        mapping = quantization.get_default_qat_qconfig_mapping(case.qconfig)
    example = (torch.zeros(case.shape),)
    return workflow.prepare_qat_fx(net.layers.train(), mapping, example)


def train(prepared: nn.Module, x: Tensor, target: Tensor, freeze: Callable[..., None]) -> Tensor:
    """The losses of six steps; ``freeze`` is applied to every module after three."""
    optimizer = torch.optim.SGD(prepared.parameters(), RATE, momentum=0.9)
    losses = []
    for step in range(STEPS):
        if step == FREEZE_AFTER:
            prepared.apply(freeze)
        loss = F.mse_loss(prepared(x[step]), target[step])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)
