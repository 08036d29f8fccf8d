"""A small convolutional net for the eager workflow, with stubs and a skip addition."""

import torch
from torch import Tensor, nn

from qlab.nn.quantized import FloatFunctional
from qlab.nn.stubs import DeQuantStub, QuantStub


class ConvNet(nn.Module):
    """Maps (N, 3, 8, 8) to (N, 4); ``fusable`` lists its chains."""

    fusable = (("conv1", "bn1", "relu1"), ("conv2", "bn2"))

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.skip = FloatFunctional()
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(self.quant(x))))
        x = self.skip.add_relu(x, self.bn2(self.conv2(x)))
        return self.dequant(self.fc(self.mean(self.pool(x)).flatten(1)))


def conv_net() -> ConvNet:
    """In evaluation mode, its batch norms as after training."""
    net = ConvNet().eval()
    for norm in (net.bn1, net.bn2):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    return net


def batches() -> list[Tensor]:
    """Calibration data."""
    return [torch.randn(4, 3, 8, 8) for _ in range(3)]
