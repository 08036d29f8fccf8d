"""ResNet-18 and MobileNetV2 with seeded random weights, for benchmarks.

They have the shapes, and so the speed and memory, of the networks that people deploy, and know
nothing: their logits mean nothing. Submodule names follow torchvision's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sample_models.blocks import BasicBlock, conv_bn

RESIDUAL_GAMMA = 0.5


class ResNet(nn.Module):
    """ResNet-18: (N, 3, H, W) to logits (N, 1000), made for 224×224.

    Source: He et al., Deep Residual Learning for Image Recognition, 2015.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, stride=2), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, stride=2), BasicBlock(256, 256))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, stride=2), BasicBlock(512, 512))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


class InvertedResidual(nn.Module):
    """Expand with a 1×1, filter each channel with a 3×3, project with a linear 1×1.

    The input is added where the shape stays: (N, inputs, H, W) to
    (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [conv_bn(inputs, width, kernel=1, activation=nn.ReLU6)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn(width, width, stride=stride, groups=width, activation=nn.ReLU6),
            *conv_bn(width, outputs, kernel=1, activation=None),
        )
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1: (N, 3, H, W) to logits (N, 1000), made for 224×224.

    Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, table 2.
    """

    STAGES = (
        # expansion, outputs, blocks, stride of the first block
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [conv_bn(3, 32, stride=2, activation=nn.ReLU6)]
        inputs = 32
        for expansion, outputs, blocks, first_stride in self.STAGES:
            for index in range(blocks):
                stride = first_stride if index == 0 else 1
                features.append(InvertedResidual(inputs, outputs, stride, expansion))
                inputs = outputs
        features.append(conv_bn(inputs, 1280, kernel=1, activation=nn.ReLU6))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


@torch.no_grad()
def build_untrained(architecture: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build with every parameter and buffer drawn from one seeded generator.

    Convolutions and linear layers get He-normal weights over the fan-in, which keep the mean
    square of the activations from layer to layer. Batch norms get running means, running
    variances, gammas and betas scattered around 0, 1, 1 and 0, so that folding one into a
    convolution is as much of a change as in a trained network. The last batch norm of a residual
    branch gets half the gamma, so that sums of branches do not grow with depth.

    Returns:
        The model in training mode; the global random state is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = architecture()
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            running_mean, running_var, batches_tracked = module.buffers()
            batches_tracked.zero_()
            nn.init.normal_(running_mean, 0, 0.1, generator=generator)
            nn.init.uniform_(running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.bn2.weight.mul_(RESIDUAL_GAMMA)
        elif isinstance(module, InvertedResidual):
            module.conv[-1].get_parameter("weight").mul_(RESIDUAL_GAMMA)
    return model
