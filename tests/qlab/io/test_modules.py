"""Float layers as JSON: each class of torch.nn that a checkpoint may name comes back bit-equal."""

import json

import pytest
import torch
from torch import nn

import qlab
from qlab.errors import FormatError, UnsupportedError
from qlab.io.checkpoint import checkpoint_bytes, load_quantized
from qlab.io.modules import build, describe

IMAGES, VECTORS = torch.randn(2, 4, 6, 6), torch.randn(2, 5, 4)
ONE_INPUT = [
    (nn.AlphaDropout(0.3), IMAGES),
    (nn.BatchNorm1d(5, affine=False), VECTORS),
    (nn.ChannelShuffle(2), IMAGES),
    (nn.CircularPad2d((1, 0, 2, 1)), IMAGES),
    (nn.ConstantPad2d(1, 3.5), IMAGES),
    (nn.CrossMapLRN2d(3, beta=0.5), IMAGES),
    (nn.Fold((3, 3), 2), torch.randn(2, 8, 4)),
    (nn.GLU(1), IMAGES),
    (nn.Hardshrink(0.3), IMAGES),
    (nn.LPPool2d(1.5, 2, ceil_mode=True), IMAGES.abs()),
    (nn.LocalResponseNorm(3, k=2.0), IMAGES),
    (nn.LogSigmoid(), IMAGES),
    (nn.PixelUnshuffle(2), IMAGES),
    (nn.RReLU(0.1, 0.2), IMAGES),
    (nn.ReflectionPad1d((2, 1)), VECTORS),
    (nn.ReplicationPad3d(1), IMAGES.unsqueeze(1)),
    (nn.Softmax2d(), IMAGES),
    (nn.Softmin(1), IMAGES),
    (nn.Softshrink(0.2), IMAGES),
    (nn.Softsign(), IMAGES),
    (nn.Unfold(2, stride=2), IMAGES),
    (nn.UpsamplingBilinear2d(scale_factor=2), IMAGES),
    (nn.UpsamplingNearest2d((3, 9)), IMAGES),
    (nn.ZeroPad2d(1), IMAGES),
    (nn.GRU(4, 3, 2, bidirectional=True), VECTORS),
    (nn.GRUCell(4, 3, bias=False), VECTORS[0]),
    (nn.LSTM(4, 3, batch_first=True), VECTORS),
    (nn.LSTMCell(4, 3), VECTORS[0]),
    (nn.RNN(4, 3, nonlinearity="relu", bias=False, dropout=0.1, num_layers=2), VECTORS),
    (nn.RNNCell(4, 3, nonlinearity="relu"), VECTORS[0]),
]
TWO_INPUTS = [
    (nn.Bilinear(4, 4, 3), (VECTORS, VECTORS + 1)),
    (nn.CosineSimilarity(1, 1e-4), (VECTORS, VECTORS + 1)),
    (nn.PairwiseDistance(1.0, keepdim=True), (VECTORS, VECTORS + 1)),
    (nn.MaxUnpool2d(2), nn.MaxPool2d(2, return_indices=True)(IMAGES)),
]
CASES = [(layer, (x,)) for layer, x in ONE_INPUT] + TWO_INPUTS


@pytest.mark.parametrize(("layer", "inputs"), CASES, ids=[type(m).__name__ for m, _ in CASES])
def test_a_float_layer_is_rebuilt(layer, inputs):
    layer.eval()
    built = build(json.loads(json.dumps(describe(layer, "layer"))), "layer")
    assert not built.training
    built.load_state_dict(layer.state_dict())
    with torch.no_grad():
        found, expected = built(*inputs), layer(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_projections_are_described():
    layer = nn.LSTM(4, 3, proj_size=2)
    assert build(describe(layer, "layer"), "layer").proj_size == 2


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 4), layer, nn.Linear(3, 2)

    def forward(self, x):
        y, _ = self.layer(self.first(x))
        return self.last(y)


@pytest.mark.parametrize("cls", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_recurrent_layer_travels_in_float(cls):
    model = Recurrent(cls(4, 3, batch_first=True))
    mapping = qlab.presets.get("int8").mapping().set_module_name("layer", None)
    converted = qlab.Lab(model, VECTORS, [VECTORS]).convert(mapping)
    with torch.no_grad():
        read = load_quantized(checkpoint_bytes(converted))
        assert type(read.layer) is cls
        assert torch.equal(read(VECTORS), converted(VECTORS))


class Casting(nn.Module):
    """Casts as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, mask):
        kept = mask.bool() & (mask.long() > 0) & (mask.int() < 9)
        y = self.linear(x.float()).double().half().float()
        return y * kept.float()


def test_casts_by_method_travel():
    inputs = (VECTORS, torch.randint(0, 2, (2, 5, 4)))
    converted = qlab.Lab(Casting(), inputs, [inputs]).convert()
    with torch.no_grad():
        read = load_quantized(checkpoint_bytes(converted))
        assert torch.equal(read(*inputs), converted(*inputs))


def test_a_layer_that_its_arguments_do_not_describe_is_refused_with_the_way_out():
    with pytest.raises(UnsupportedError, match=r"'odd' cannot be saved.*FractionalMax.*\.pt2"):
        describe(nn.FractionalMaxPool2d(2, output_size=3), "odd")


def test_a_recurrent_layer_of_a_billion_layers_is_refused():
    data = describe(nn.GRU(4, 3), "layer")
    data["arguments"]["num_layers"] = 10**9
    with pytest.raises(FormatError, match="1000000000 layers in one"):
        build(data, "layer")
