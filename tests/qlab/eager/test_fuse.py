"""fuse_modules: which chains become one, and that a refusal changes nothing."""

import copy

import pytest
import torch
from torch import nn

from qlab.eager import fuse_known_modules, fuse_modules
from qlab.errors import ArgumentError, DTypeError, UnknownNameError
from qlab.nn import intrinsic as nni
from tests.qlab.eager.nets import conv_net


def test_chains_become_one_module_and_identities():
    model, x = conv_net(), torch.randn(2, 3, 8, 8)
    fused = fuse_modules(model, model.fusable)
    assert type(fused.conv1) is nni.ConvReLU2d
    assert type(fused.conv2) is nn.Conv2d
    for name in ("bn1", "relu1", "bn2"):
        assert type(getattr(fused, name)) is nn.Identity
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


def test_one_chain_may_be_given_alone():
    model = conv_net()
    assert type(fuse_modules(model, ["conv2", "bn2"]).bn2) is nn.Identity
    nested = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert type(fuse_modules(nested.eval(), ["0.0", "0.1"])[0][0]) is nni.LinearReLU


def test_inplace_changes_the_model_and_a_copy_does_not():
    model = conv_net()
    fuse_modules(model, model.fusable)
    assert type(model.bn1) is nn.BatchNorm2d
    assert fuse_modules(model, model.fusable, inplace=True) is model
    assert type(model.bn1) is nn.Identity


def refused(chains, error, message, model=None):
    model = model or conv_net()
    kinds, state = [type(m) for m in model.modules()], copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        fuse_modules(model, chains, inplace=True)
    assert [type(m) for m in model.modules()] == kinds
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_a_wrong_pattern_leaves_the_model_as_it_was():
    message = r"no pattern fuses these modules.*Conv2d \+ ReLU.*Received ReLU \+ Conv2d"
    refused([["conv2", "bn2"], ["relu1", "conv1"]], ArgumentError, message)


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        (
            [["conv1", "bn1"], ["bn1", "relu1"]],
            r"'bn1' is.*\['conv1', 'bn1'\] and \['bn1', 'relu1'\]",
        ),
        ([["conv1", "bn1", "relu1"], ["conv1", "bn1"]], r"'conv1' is to be fused twice"),
        ([["conv1", "conv1"]], r"'conv1' is.*\['conv1', 'conv1'\] and \['conv1', 'conv1'\]"),
        ([["conv1", "bn1"], ["again", "relu1"]], r"'again', which is the module 'conv1', is"),
        ([["conv1", "bn1"], []], "a chain to fuse is empty"),
        ([], "a chain to fuse is empty"),
    ],
)
def test_a_module_is_fused_once(chains, message):
    model = conv_net()
    model.again = model.conv1
    refused(chains, ArgumentError, message, model)


def test_an_unknown_path_names_the_nearest():
    refused([["conv2", "bn2"], ["conv1", "bn_1"]], UnknownNameError, "Did you mean 'bn1'")


def test_training_mode_is_refused():
    refused([["conv1", "bn1"]], ArgumentError, r"Call model\.eval\(\) first", conv_net().train())


def test_hooks_move_to_the_fused_module():
    seen = []
    model = conv_net()
    model.conv1.register_forward_pre_hook(lambda module, args: seen.append("before"))
    model.conv1.register_forward_hook(lambda module, args, output: seen.append("lost"))
    model.relu1.register_forward_hook(lambda module, args, output: seen.append("after"))
    fuse_modules(model, model.fusable)(torch.randn(1, 3, 8, 8))
    assert seen == ["before", "after"]
    seen.clear()
    model(torch.randn(1, 3, 8, 8))
    assert seen == ["before", "lost", "after"]


def test_own_fusers():
    pair = [nn.Linear(2, 2), nn.Tanh()]
    model = nn.Sequential(*pair).eval()

    def linear_tanh(is_qat, linear, tanh):
        assert not is_qat
        return nn.Sequential(linear, tanh)

    config = {"additional_fuser_method_mapping": {(nn.Linear, nn.Tanh): linear_tanh}}
    fused = fuse_modules(model, ["0", "1"], fuse_custom_config_dict=config)
    assert type(fused[0]) is nn.Sequential
    assert type(fuse_known_modules(pair, False, {(nn.Linear, nn.Tanh): linear_tanh})[1]) is (
        nn.Identity
    )
    replaced = fuse_modules(model, ["0", "1"], fuser_func=lambda chain, qat, extra: chain[::-1])
    assert type(replaced[0]) is nn.Tanh


def test_what_is_no_model_or_no_list_of_names_is_refused():
    with pytest.raises(DTypeError, match=r"fuse_modules: not a model.*NoneType"):
        fuse_modules(None, ["conv"])
    with pytest.raises(DTypeError, match=r"modules to fuse are not named.*None"):
        fuse_modules(nn.Sequential(nn.Linear(1, 1)), None)
