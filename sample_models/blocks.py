"""Blocks that several of the sample models are made of."""

from torch import Tensor, nn


def conv_bn(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, unless None, an activation.

    Maps (N, inputs, H, W) to (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉) for an odd kernel.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a skip connection: y = relu(f(x) + skip(x)).

    The skip is the identity, or a 1×1 convolution with batch norm (`downsample`) where the shape
    changes. Maps (N, inputs, H, W) to (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉).

    Each ReLU is a module of its own: one shared between two places could be fused into neither.

    Source: He et al., Deep Residual Learning for Image Recognition, 2015.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        changes_shape = stride != 1 or inputs != outputs
        self.downsample = (
            conv_bn(inputs, outputs, kernel=1, stride=stride, activation=None)
            if changes_shape
            else None
        )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        skip = x if self.downsample is None else self.downsample(x)
        return self.relu2(y + skip)
