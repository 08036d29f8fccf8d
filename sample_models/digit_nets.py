"""Small networks for 8×8 digits: (N, 1, 8, 8) float32 in [0, 1] to logits (N, 10)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sample_models.blocks import BasicBlock, conv_bn


def _named(**modules: nn.Module) -> nn.Sequential:
    """Modules that run in turn and go by their names, so that charts show more than numbers."""
    return nn.Sequential(OrderedDict(modules))


def _conv_bn(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    layers = conv_bn(
        inputs, outputs, kernel=kernel, stride=stride, groups=groups, activation=activation
    )
    return _named(**dict(zip(("conv", "bn", "act"), layers, strict=True)))


def mlp() -> nn.Module:
    """Three linear layers with ReLU between them."""
    return _named(
        flatten=nn.Flatten(),
        fc1=nn.Linear(64, 128),
        relu1=nn.ReLU(),
        fc2=nn.Linear(128, 64),
        relu2=nn.ReLU(),
        fc3=nn.Linear(64, 10),
    )


def conv_bn_relu() -> nn.Module:
    """Four convolutions, each with batch norm and ReLU, and a linear classifier."""
    return _named(
        block1=_conv_bn(1, 16),
        block2=_conv_bn(16, 32, stride=2),
        block3=_conv_bn(32, 32),
        block4=_conv_bn(32, 64, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, 10),
    )


def residual() -> nn.Module:
    """A stem and three residual blocks, one of which keeps its input as it is."""
    return _named(
        stem=_conv_bn(1, 16),
        block1=BasicBlock(16, 16),
        block2=BasicBlock(16, 32, stride=2),
        block3=BasicBlock(32, 48, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(48, 10),
    )


QUIETEST_GAMMA, LOUDEST_GAMMA = 0.3, 20.0


def depthwise() -> nn.Module:
    """Depthwise-separable blocks with ReLU6, whose channels differ widely in weight range.

    The spread is built in: every batch norm starts with gammas from 0.3 to 20, most of them small,
    where usual practice is 1 everywhere. Folding gamma into the convolution gives the channel's
    weights the same spread, while ReLU6 clips the loud channels, so that the activations stay in
    [0, 6]. Training runs from there and keeps the spread, because nothing asks it to undo it. Large
    MobileNets come to such weights by training alone; a network this small needs the start.

    Source: Howard et al., MobileNets, 2017; the effect on quantization: Nagel et al., Data-Free
    Quantization Through Weight Equalization and Bias Correction, 2019, figure 2.
    """
    model = _named(
        stem=_conv_bn(1, 24, activation=nn.ReLU6),
        block1=_separable(24, 32),
        block2=_separable(32, 48, stride=2),
        block3=_separable(48, 48),
        block4=_separable(48, 64, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, 10),
    )
    _spread_channels(model)
    return model


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise convolution, then a pointwise one."""
    return _named(
        dw=_conv_bn(inputs, inputs, stride=stride, groups=inputs, activation=nn.ReLU6),
        pw=_conv_bn(inputs, outputs, kernel=1, activation=nn.ReLU6),
    )


@torch.no_grad()
def _spread_channels(model: nn.Module) -> None:
    """Gammas from 0.3 to 20, in random order: 0.3·(20/0.3)^(u⁴) for u evenly spaced in [0, 1]."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            channels = module.num_features
            share = torch.linspace(0, 1, channels)[torch.randperm(channels)] ** 4
            module.weight.copy_(QUIETEST_GAMMA * (LOUDEST_GAMMA / QUIETEST_GAMMA) ** share)


class Norms(nn.Module):
    """Norms that no convolution can absorb.

    Group and instance norm compute their statistics anew for each image, layer norm for each
    vector, and the batch norm comes after an addition, so none folds into a convolution: each
    stays a step of its own in the quantized network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.group_norm = nn.GroupNorm(4, 16)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.batch_norm = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(16, 48, 3, stride=2, padding=1)
        self.instance_norm = nn.InstanceNorm2d(48, affine=True)
        self.relu3 = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.layer_norm = nn.LayerNorm(192)
        self.fc = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.group_norm(self.conv1(x)))
        x = self.relu2(self.batch_norm(x + self.conv2(x)))
        x = self.relu3(self.instance_norm(self.conv3(x)))
        return self.fc(self.layer_norm(self.flatten(self.pool(x))))
