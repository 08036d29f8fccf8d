"""Cases of quantization-aware training: one list for generator and tests.

A case is a small network with its stubs, which modules to fuse, and a qconfig by name; the library
under test brings the stubs, the workflow and the qconfigs.
"""

import importlib
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
        rows: Of a table, where the input is indices into it.
        special: The layer is swapped by a mapping of its own, there are no stubs, and no graph
            is made.
    """

    name: str
    layers: Callable[[], list[nn.Module]]
    shape: tuple[int, ...]
    fuse: tuple[tuple[int, ...], ...] = ()
    qconfig: str = "onednn"
    rows: int = 0
    special: bool = False

    def inputs(self) -> Tensor:
        """A batch for every step."""
        if self.rows:
            return torch.randint(self.rows, (STEPS, *self.shape))
        return torch.randn(STEPS, *self.shape)


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
    Case("conv1d-bn", lambda: [nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)], (4, 3, 9), ((0, 1),)),
    Case("conv1d-relu", lambda: [nn.Conv1d(3, 6, 3), nn.ReLU()], (4, 3, 9), ((0, 1),)),
    Case("conv1d-alone", lambda: [nn.Conv1d(3, 6, 3), nn.Conv1d(6, 2, 1)], (4, 3, 9)),
    Case("conv3d-alone", lambda: [nn.Conv3d(2, 4, 2), nn.Conv3d(4, 2, 1)], (4, 2, 4, 4, 4)),
    Case(
        "conv3d-bn-relu",
        lambda: [nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.ReLU()],
        (4, 2, 4, 4, 4),
        ((0, 1, 2),),
    ),
    Case(
        "embedding",
        lambda: [nn.Embedding(12, 6)],
        (4, 5),
        qconfig="default_embedding_qat_qconfig",
        rows=12,
        special=True,
    ),
    Case(
        "bag",
        lambda: [nn.EmbeddingBag(12, 6, mode="sum")],
        (4, 5),
        qconfig="default_embedding_qat_qconfig",
        rows=12,
        special=True,
    ),
    Case(
        "dynamic-linear",
        lambda: [nn.Linear(6, 5)],
        (8, 6),
        qconfig="default_dynamic_qat_qconfig",
        special=True,
    ),
)


class Apply(nn.Module):
    """A function of one tensor as a layer that is traced through."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _keeping(*between: Callable[[Tensor], Tensor] | nn.Module) -> list[nn.Module]:
    """A convolution, what is called in between, and a linear layer of six inputs."""
    layers = [part if isinstance(part, nn.Module) else Apply(part) for part in between]
    return [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *layers, nn.Linear(6, 4)]


def _flat(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


class Joined(nn.Module):
    """Two convolutions, by turns of other ranges, and what makes one tensor of them."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.join, self.last = join, nn.Conv2d(channels, 4, 1)
        self.right.weight.data.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.join(self.left(x), self.right(x)))


def _joined(join: Callable[[Tensor, Tensor], Tensor], channels: int) -> Callable[[], list[Any]]:
    return lambda: [Joined(join, channels)]


def _skip(a: Tensor, b: Tensor) -> Tensor:
    """As in a U-Net: ``b`` is pooled and later joined behind another tensor."""
    pooled = F.interpolate(F.max_pool2d(b, 2), scale_factor=2.0)
    return torch.cat([a, b, pooled], 1)


def _dense(a: Tensor, b: Tensor) -> Tensor:
    both = torch.cat([a, b], 1)
    return torch.cat([both, F.avg_pool2d(a, 3, 1, 1), b], 1)


def _clamped(clamp: Callable[[Tensor], Tensor] | nn.Module) -> list[nn.Module]:
    layers = _keeping(nn.MaxPool2d(6), _flat)
    return [*layers[:2], clamp if isinstance(clamp, nn.Module) else Apply(clamp), *layers[3:]]


#: What joins tensors.
_JOINING = (
    ("cat", _joined(lambda a, b: torch.cat([a, b], 1), 8)),
    ("cat-relu", _joined(lambda a, b: torch.cat([F.relu(b), F.relu(a)], 1), 8)),
    ("cat-pooled", _joined(lambda a, b: torch.cat([a, F.max_pool2d(b, 3, 1, 1)], 1), 8)),
    ("cat-skip", _joined(_skip, 12)),
    ("cat-twice", _joined(_dense, 16)),
    ("pixel-shuffle", _joined(lambda a, b: F.pixel_shuffle(a + b, 2), 1)),
    ("pixel-unshuffle", _joined(lambda a, b: F.pixel_unshuffle(a + b, 2), 16)),
    ("stack", _joined(lambda a, b: torch.stack([a, b], 1).reshape(-1, 8, 4, 4), 8)),
)

#: Operators that keep their input's range, and those that by the reference do not; trained as
#: graphs only.
SHARING = tuple(
    Case(name, layers, (4, 3, 8, 8))
    for name, layers in (
        ("adaptive-avg-pool", lambda: _keeping(nn.AdaptiveAvgPool2d(1), _flat)),
        ("avg-pool", lambda: _keeping(lambda x: F.avg_pool2d(x, 6), _flat)),
        ("mean", lambda: _keeping(lambda x: x.mean((2, 3)))),
        ("max-pool", lambda: _keeping(lambda x: F.max_pool2d(x, 6).squeeze(-1).squeeze(-1))),
        ("reshape", lambda: _keeping(nn.MaxPool2d(6), lambda x: x.reshape(x.shape[0], 6))),
        ("view", lambda: _keeping(nn.AdaptiveAvgPool2d(1), lambda x: x.view(-1, 6))),
        ("permute", lambda: _keeping(lambda x: x.permute(0, 2, 3, 1).mean((1, 2)))),
        ("method-flatten", lambda: _keeping(nn.AvgPool2d(6), lambda x: x.flatten(1))),
        ("flatten-module", lambda: _keeping(nn.AvgPool2d(6), nn.Flatten())),
        ("slice", lambda: _keeping(lambda x: x[:, :, 1, 2])),
        ("dropout", lambda: _keeping(nn.Dropout(0.3), nn.MaxPool2d(6), _flat)),
        ("relu6", lambda: _clamped(nn.ReLU6())),
        ("hardtanh", lambda: _clamped(nn.Hardtanh(-0.5, 0.7))),
        ("clamp", lambda: _clamped(lambda x: torch.clamp(x, -0.5, 0.7))),
        ("method-clamp", lambda: _clamped(lambda x: x.clamp(-0.5, 0.7))),
    )
) + tuple(Case(name, layers, (4, 3, 4, 4)) for name, layers in _JOINING)

#: Those that are trained as graphs.
GRAPHS = (*(case for case in CASES if not case.special), *SHARING)


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
    stubs = (nn.Identity, nn.Identity)
    if not case.special:
        stubs = (quantization.QuantStub, quantization.DeQuantStub)
    net = Net(case.layers(), *(stub() for stub in stubs))
    if state is not None:
        net.load_state_dict(state)
    net.train()
    net.qconfig = qconfig_of(quantization, case)
    if case.fuse:
        chains = [[f"layers.{position}" for position in chain] for chain in case.fuse]
        net = quantization.fuse_modules_qat(net, chains)
    return quantization.prepare_qat(net, _mapping(quantization, case, "qat"))


def finish(quantization: Any, case: Case, prepared: nn.Module) -> nn.Module:
    """The trained network in integers."""
    return quantization.convert(prepared, mapping=_mapping(quantization, case, "quantized"))


def _mapping(quantization: Any, case: Case, place: str) -> dict[type, type] | None:
    """Which class becomes which: float ones ("qat"), or those in training ("quantized").

    The reference has quantization-aware `Conv1d` and `ConvReLU1d`, and in the eager workflow swaps
    them in only when told to.
    """
    root = quantization.__name__.rpartition(".")[0]

    def get(path: str, name: str) -> type:
        return getattr(importlib.import_module(f"{root}.nn.{path}"), name)

    if case.special:
        kind = case.layers()[0].__class__
        part = ".dynamic" if kind is nn.Linear else ""
        aware, made = (get(path + part, kind.__name__) for path in ("qat", "quantized"))
        return {kind: aware} if place == "qat" else {aware: made}
    lone, with_relu = get("qat", "Conv1d"), get("intrinsic.qat", "ConvReLU1d")
    if place == "qat":
        known = quantization.get_default_qat_module_mappings()
        return known | {nn.Conv1d: lone, get("intrinsic", "ConvReLU1d"): with_relu}
    known = quantization.get_default_static_quant_module_mappings()
    made = get("quantized", "Conv1d"), get("intrinsic.quantized", "ConvReLU1d")
    return known | {lone: made[0], with_relu: made[1]}


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
    torch.manual_seed(0)  # for dropout
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
