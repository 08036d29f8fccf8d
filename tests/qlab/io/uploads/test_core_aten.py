"""Archives of programs that were taken apart to core operators lift as those that were not."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qlab
from qlab.io.checkpoint import checkpoint_bytes, load_quantized
from qlab.io.standalone import expected_warnings
from qlab.io.uploads import load_model

torch.manual_seed(0)  # for the networks below, which are made once
IMAGES = torch.randn(4, 3, 16, 16)
TOKENS = torch.randn(4, 6, 16)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.norm(y.transpose(1, 2).flatten(2) + x)


class Flash(Attention):
    """Attention as the CPU's own kernel is recorded."""

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        return self.norm(y.transpose(1, 2).flatten(2) + x)


CONVOLUTIONS = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2, 2),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.LogSoftmax(1),
)  # fmt: skip
CASES = {
    "linear": (nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)), TOKENS),
    "convolutions": (CONVOLUTIONS, IMAGES),
    "attention": (Attention(), TOKENS),
    "flash": (Flash(), TOKENS),
    "encoder": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), TOKENS),
}


def _archive(model: nn.Module, x: torch.Tensor, core: bool) -> bytes:
    buffer = io.BytesIO()
    with expected_warnings():
        program = torch.export.export(model.eval(), (x,))
        torch.export.save(program.run_decompositions() if core else program, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_layers_are_found_again_and_quantized(name):
    model, x = CASES[name]
    read = load_model(_archive(model, x, core=True))
    with torch.no_grad():
        torch.testing.assert_close(read(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    weighted = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.LayerNorm)
    layers = {path for path, m in model.named_modules() if isinstance(m, weighted)}
    found = {path for path, m in read.named_modules() if isinstance(m, weighted)}
    assert {path for path in layers if "self_attn" not in path} <= found
    lab = qlab.Lab(read, (x,), [x])
    steps = lab.plan("int8").to_frame()
    left = set(steps.index[steps.execution == "float"])
    assert not {step for step in left if "addmm" in step or "norm" in step or "conv" in step}
    assert 20.0 < lab.compare("int8").output["sqnr"] < 70.0
    converted = lab.convert("int8")
    with torch.no_grad():
        assert torch.equal(load_quantized(checkpoint_bytes(converted))(x), converted(x))


class Several(nn.Module):
    """Reads what a norm gives besides its result, too."""

    def forward(self, x):
        y, mean, rstd = torch.ops.aten.native_layer_norm(x, [16], None, None, 1e-5)
        return y + mean * rstd


def test_what_is_read_besides_the_first_result_stays_an_operator():
    read = load_model(_archive(Several(), TOKENS, core=False))
    torch.testing.assert_close(read(TOKENS), Several()(TOKENS))
    assert any("native_layer_norm" in str(node.target) for node in read.graph.nodes)
    lab = qlab.Lab(Several(), (TOKENS,), [TOKENS])
    torch.testing.assert_close(lab.graph(TOKENS), Several()(TOKENS))


@pytest.mark.filterwarnings("ignore:The tensor attributes self.layer._flat_weights:UserWarning")
@pytest.mark.parametrize("cls", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_operators_are_read_and_travel_in_float(cls):
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = cls(16, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.layer(x)[0])

    model = Reading().eval()
    read = load_model(_archive(model, TOKENS, core=False))
    with torch.no_grad():
        torch.testing.assert_close(read(TOKENS), model(TOKENS))
        converted = qlab.Lab(read, (TOKENS,), [TOKENS]).convert("int8")
        assert torch.equal(load_quantized(checkpoint_bytes(converted))(TOKENS), converted(TOKENS))


def test_bilinear_is_read():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.product = nn.Bilinear(16, 16, 4)

        def forward(self, x):
            return self.product(x, x + 1)

    model = Product()
    for core in (False, True):
        read = load_model(_archive(model, TOKENS, core))
        torch.testing.assert_close(read(TOKENS), model(TOKENS))
