"""`prepare_qat`, `quantize_qat`, `fuse_modules_qat`: training between float and integers."""

import pytest
import torch
from torch import nn

from qlab.errors import ArgumentError, DTypeError, QlabError, UnsupportedError
from qlab.fake_quantize import FakeQuantizeBase, FixedQParamsFakeQuantize
from qlab.nn import qat
from qlab.nn.intrinsic import qat as nniqat
from qlab.nn.quantizable import LSTM
from qlab.nn.quantized import dynamic as nnqd
from qlab.quantization import (
    DeQuantStub,
    QConfig,
    QuantStub,
    convert,
    default_dynamic_qat_qconfig,
    default_fake_quant,
    default_qat_qconfig,
    default_qconfig,
    fuse_modules_qat,
    get_default_qat_qconfig,
    prepare_qat,
    quantize_qat,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.fc, self.out = nn.Linear(4, 3), nn.Sigmoid()

    def forward(self, x):
        x = self.relu(self.bn(self.conv(self.quant(x))))
        return self.dequant(self.out(self.fc(x.mean((2, 3)))))


def net() -> Net:
    torch.manual_seed(0)
    made = Net().train()
    made.qconfig = get_default_qat_qconfig("onednn")
    return made


def run(model: nn.Module, steps: int = 3) -> None:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 6, 6)).square().sum().backward()
        optimizer.step()


def test_layers_become_aware_and_outputs_are_rounded():
    plain = net()
    prepared = prepare_qat(fuse_modules_qat(plain, ["conv", "bn", "relu"]))
    assert type(prepared.conv) is nniqat.ConvBnReLU2d
    assert type(prepared.fc) is qat.Linear
    assert isinstance(prepared.quant.activation_post_process, FakeQuantizeBase)
    assert type(prepared.out.activation_post_process) is FixedQParamsFakeQuantize
    assert type(plain.conv) is nn.Conv2d and not hasattr(plain.fc, "qconfig")


def test_the_integer_network_computes_what_training_saw():
    prepared = prepare_qat(fuse_modules_qat(net(), ["conv", "bn", "relu"]))
    run(prepared)
    prepared.eval()
    x = torch.randn(16, 1, 6, 6)
    step = float(prepared.out.activation_post_process.scale)
    difference = (convert(prepared)(x) - prepared(x)).abs()
    assert difference.max() <= step * 1.01
    assert (difference > 0.5 * step).float().mean() < 0.1


def test_quantize_qat_is_the_whole_way_in_one_call():
    plain = net()
    converted = quantize_qat(plain, run, (2,))
    assert "Quantized" in repr(converted) and "Quantized" not in repr(plain)
    assert converted(torch.randn(2, 1, 6, 6)).shape == (2, 3)
    assert quantize_qat(plain, run, (1,), inplace=True) is plain


def test_a_recurrent_layer_learns_with_rounding_inside():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.quant, self.lstm, self.dequant = QuantStub(), nn.LSTM(3, 4), DeQuantStub()

        def forward(self, x):
            return self.dequant(self.lstm(self.quant(x))[0])

    model = Recurrent().train()
    model.qconfig = default_qat_qconfig
    prepared = prepare_qat(model)
    assert type(prepared.lstm) is LSTM
    inside = [m for m in prepared.lstm.modules() if isinstance(m, qat.Linear)]
    assert len(inside) == 2
    prepared(torch.randn(5, 2, 3)).sum().backward()
    assert all(layer.weight.grad is not None for layer in inside)


def test_a_model_in_evaluation_mode_is_refused():
    with pytest.raises(ArgumentError, match=r"prepare_qat.*not in training mode.*model.train\(\)"):
        prepare_qat(net().eval())
    with pytest.raises(DTypeError, match="prepare_qat: not a model"):
        prepare_qat("net")
    with pytest.raises(DTypeError, match="quantize_qat: not a model"):
        quantize_qat(None, run, ())


def test_a_qconfig_that_only_observes_the_weight_is_reported():
    model = net()
    model.qconfig = QConfig(default_fake_quant, default_qconfig.weight)
    with pytest.warns(UserWarning, match=r"only observes the weight.*'conv' \(MinMaxObserver\)"):
        prepare_qat(model)


def test_a_module_that_cannot_train_is_named_and_the_model_stays_as_it_was():
    model = net()
    model.embedding = nn.Embedding(4, 2)
    with pytest.raises(QlabError, match=r"prepare_qat: 'embedding' \(Embedding\).*float_qparams"):
        prepare_qat(model, inplace=True)
    assert type(model.conv) is nn.Conv2d and type(model.fc) is nn.Linear


def test_fusing_for_training_refuses_evaluation_mode_wrong_chains_and_what_has_no_form():
    model = net()
    with pytest.raises(ArgumentError, match="no pattern fuses"):
        fuse_modules_qat(model, ["bn", "conv"])
    with pytest.raises(ArgumentError, match=r"fused for training.*model.train\(\)"):
        fuse_modules_qat(model.eval(), ["conv", "bn"])
    six = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU6()).train()
    with pytest.raises(UnsupportedError, match="ReLU6 cannot be fused in training mode"):
        fuse_modules_qat(six, ["0", "1", "2"])
    assert type(six[0]) is nn.Conv2d
    with pytest.raises(DTypeError, match="fuse_modules_qat: the modules to fuse are not named"):
        fuse_modules_qat(six, "0")


def test_converting_without_a_pass_names_the_layer():
    prepared = prepare_qat(net())
    with pytest.warns(UserWarning, match="convert: no calibration data reached 'quant'"):
        convert(prepared.eval())


def test_a_dynamic_qconfig_rounds_the_input_of_a_layer_and_not_its_output():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    model.qconfig = default_dynamic_qat_qconfig
    prepared = prepare_qat(model, {nn.Linear: qat.dynamic.Linear})
    seen: list[torch.Tensor] = []
    prepared[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(6, 4)
    y = prepared(x)
    step = prepared[0].activation_post_process.scale
    codes = seen[0] / step
    assert 0 < (seen[0] - x).abs().max() <= 0.51 * step
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    weight = prepared[0].weight_fake_quant(prepared[0].weight)
    torch.testing.assert_close(y, nn.functional.linear(seen[0], weight, prepared[0].bias))
    made = convert(prepared.eval(), {qat.dynamic.Linear: nnqd.Linear})
    assert type(made[0]) is nnqd.Linear and len(made[0]._forward_pre_hooks) == 1


def test_convert_takes_what_rounds_inputs_off_layers_that_stay_float():
    model = nn.Sequential(nn.Linear(4, 3))
    model.qconfig = default_dynamic_qat_qconfig
    made = convert(prepare_qat(model, {nn.Linear: qat.dynamic.Linear}).eval(), {})
    assert not made[0]._forward_pre_hooks and not hasattr(made[0], "activation_post_process")
