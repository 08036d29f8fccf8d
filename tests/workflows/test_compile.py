"""Converted models under ``torch.compile``, whole: no graph break, and the same integers."""

import os
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qlab
from qlab import qconfig as qconfigs
from qlab.eager import quantize_dynamic
from qlab.graph import convert_fx, prepare_fx
from qlab.nn.intrinsic import quantized as nniq
from qlab.quantization.backend_config import get_onednn_backend_config

IMAGE = torch.randn(2, 6, 12, 12, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
#: Torch's own import of its compiler; nothing of ours is scripted.
SCRIPTED = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"


class Arithmetic(nn.Module):
    """Two convolutions whose results meet in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        parts = [a + b, a * b, a * 2.5, b + 1.0, torch.relu(a + x)]
        return torch.cat(parts, 1).mean((2, 3))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.q(x), self.k(x).transpose(-1, -2)).softmax(-1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.unsqueeze(1))[0]


class Bag(nn.Module):
    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.bag = bag

    def forward(
        self, x: Tensor, offsets: Tensor | None = None, shares: Tensor | None = None
    ) -> Tensor:
        return self.bag(x, offsets, shares)


class Fused(nn.Module):
    """What oneDNN's backend config fuses: sums behind convolutions, GELU behind linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = (self.b(self.c(a)) + a).relu()
        rows = (self.d(b) + b).mean((2, 3))
        return self.down(F.gelu(self.up(rows)))


MODELS = {
    "convolutions": nn.Sequential(
        nn.Conv2d(6, 8, 3, stride=2, padding=1, padding_mode="reflect"), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"), nn.Hardswish(),
        nn.ConvTranspose2d(8, 4, 2, 2), nn.LeakyReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(144, 4),
    ),
    "norms": nn.Sequential(
        nn.Conv2d(6, 8, 1), nn.GroupNorm(2, 8), nn.GELU(), nn.InstanceNorm2d(8, affine=True),
        nn.Sigmoid(), nn.BatchNorm2d(8), nn.Tanh(), nn.AdaptiveAvgPool2d((3, 3)), nn.ELU(),
        nn.Upsample(scale_factor=2),
    ),
    "clamps": nn.Sequential(nn.Conv2d(6, 4, 1), nn.MaxPool2d(2), nn.ReLU6(), nn.Hardtanh(-1, 1)),
    "rows": nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.PReLU()),
    "arithmetic": Arithmetic(),
    "attention": Attention(),
    "fused": Fused(),
}  # fmt: skip
ON_ROWS = ("rows", "attention")


def converted(model: nn.Module, x: Tensor, mapping: Any = "int8") -> nn.Module:
    backend = get_onednn_backend_config() if isinstance(model, Fused) else None
    prepared = prepare_fx(model.eval(), mapping, x, backend_config=backend)
    prepared(x)
    return convert_fx(prepared)


def compiled(model: nn.Module, **options) -> nn.Module:
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, **{"backend": "aot_eager", **options})


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_every_operator_gives_the_same_integers(name: str):
    x = ROWS if name in ON_ROWS else IMAGE
    model = converted(MODELS[name], x)
    assert torch.equal(compiled(model)(x), model(x))


@torch.no_grad()
def test_integer_biases():
    mapping = qlab.presets.get("int8").mapping().set_integer_biases()
    model = converted(MODELS["convolutions"], IMAGE, mapping)
    assert torch.equal(compiled(model)(IMAGE), model(IMAGE))


@torch.no_grad()
@pytest.mark.parametrize(
    "mapping", ["int8-weights-only", "int4-weights", "int16-activations", "float8"]
)
def test_every_preset(mapping: str):
    layers = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    model = converted(layers, IMAGE, mapping)
    assert torch.equal(compiled(model)(IMAGE), model(IMAGE))


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "kind"), [(nn.Sequential(nn.Linear(16, 8)), nn.Linear), (Recurrent(), nn.LSTM)]
)
def test_dynamic_models(model: nn.Module, kind: type[nn.Module]):
    quantized = quantize_dynamic(model.eval(), {kind}, dtype=qlab.qint8)
    assert torch.equal(compiled(quantized)(ROWS), quantized(ROWS))


@torch.no_grad()
def test_an_embedding():
    indices = torch.tensor([[0, 9], [3, 3]])
    model = converted(nn.Sequential(nn.Embedding(10, 8)), indices, "int8-weights-only")
    assert torch.equal(compiled(model)(indices), model(indices))


FLAT, STARTS = torch.tensor([1, 2, 9, 3, 3, 0]), torch.tensor([0, 2, 2, 5])
BAGS: dict[str, tuple[dict[str, Any], tuple[Tensor, ...]]] = {
    "rows of bags": ({}, (FLAT.reshape(2, 3),)),
    "offsets": ({}, (FLAT, STARTS)),
    "the last offset": ({"include_last_offset": True}, (FLAT, torch.tensor([0, 2, 2, 6]))),
    "means": ({"mode": "mean"}, (FLAT.int(), STARTS.int())),
    "shares": ({}, (FLAT, STARTS, torch.linspace(-1, 1, 6))),
}


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [qconfigs.float_qparams_weight_only_qconfig, qconfigs.float_qparams_weight_only_qconfig_4bit],
)
@pytest.mark.parametrize("name", BAGS)
def test_bags_of_rows(name: str, config: qconfigs.QConfig):
    options, given = BAGS[name]
    layer = nn.EmbeddingBag(10, 8, **{"mode": "sum", **options})
    mapping = qconfigs.QConfigMapping().set_object_type(nn.EmbeddingBag, config)
    prepared = prepare_fx(Bag(layer).eval(), mapping, given)
    prepared(*given)
    model = convert_fx(prepared)
    assert isinstance(model.get_submodule("bag"), qlab.nn.quantized.EmbeddingBag)
    fast = compiled(model)
    assert torch.equal(fast(*given), model(*given))
    if name == "rows of bags":  # any number of them, of any length
        for other in (FLAT.reshape(3, 2), FLAT.reshape(6, 1), FLAT.reshape(1, 6)):
            assert torch.equal(fast(other), model(other))


@torch.no_grad()
def test_a_bag_whose_numbers_change_is_read_anew():
    prepared = prepare_fx(Bag(nn.EmbeddingBag(10, 8)).eval(), "int8-weights-only", (FLAT, STARTS))
    prepared(FLAT, STARTS)
    model = convert_fx(prepared)
    fast, layer = compiled(model), model.get_submodule("bag")
    before = fast(FLAT, STARTS)
    layer.weight_scale = layer.weight_scale * 0.5
    assert torch.equal(fast(FLAT, STARTS), model(FLAT, STARTS))
    assert not torch.equal(fast(FLAT, STARTS), before)


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_a_traced_table_is_refused(monkeypatch, index: int):
    table = torch.zeros((10, 4), dtype=torch.uint8), qlab.QParams.per_tensor(0.1, 3, qlab.quint8)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(RuntimeError, match="embedding: an index lies outside the table"):
        qlab.ops.embedding(torch.tensor([0, index]), *table)


@torch.no_grad()
def test_changes_after_compiling_are_noticed():
    """Other batch sizes, weights changed in place, scales assigned, another state loaded."""
    layers = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    model, other = converted(layers, IMAGE), converted(layers, IMAGE * 3)
    fast = compiled(model)
    for x in (IMAGE, IMAGE[:1], torch.cat([IMAGE, IMAGE]), IMAGE[:, :, :8]):
        assert torch.equal(fast(x), model(x))
    before, layer = fast(IMAGE), model.get_submodule("0")
    layer.weight_codes.neg_()
    assert torch.equal(fast(IMAGE), model(IMAGE))
    assert not torch.equal(fast(IMAGE), before)
    layer.weight_codes.neg_()
    layer.weight_scale = layer.weight_scale * 0.5
    assert torch.equal(fast(IMAGE), model(IMAGE))
    assert not torch.equal(fast(IMAGE), before)
    model.load_state_dict(other.state_dict())
    assert torch.equal(fast(IMAGE), other(IMAGE))


@torch.no_grad()
@pytest.mark.parametrize("dynamic", [None, True])
def test_fused_layers_of_any_batch(dynamic: bool | None):
    model = converted(Fused(), IMAGE)
    kinds = {type(module) for module in model.modules()}
    assert kinds >= {nniq.ConvAddReLU2d, nniq.ConvAdd2d, nniq.LinearGELU}
    assert ".last_use(" in model.code
    fast = compiled(model, dynamic=dynamic)
    for x in (IMAGE, torch.cat([IMAGE, IMAGE]), IMAGE[:1], torch.cat([IMAGE] * 3)):
        wanted = model(x)
        assert torch.equal(model(x), wanted), "a second call, in place"
        assert torch.equal(fast(x), wanted)


@torch.no_grad()
def test_a_model_that_never_ran_compiles():
    model = converted(MODELS["convolutions"], IMAGE)
    for module in model.modules():
        getattr(module, "_cache", {}).clear()
    result = compiled(model)(IMAGE)
    assert torch.equal(result, model(IMAGE))


@torch.no_grad()
@pytest.mark.filterwarnings(SCRIPTED)
def test_machine_code_gives_the_same_integers():
    if shutil.which("g++") is None and os.environ.get("QLAB_REQUIRE_COMPILER") != "1":
        pytest.skip("no C++ compiler (g++); QLAB_REQUIRE_COMPILER=1 forbids this")
    layers = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = converted(layers, IMAGE)
    assert torch.equal(compiled(model, backend="inductor")(IMAGE), model(IMAGE))
