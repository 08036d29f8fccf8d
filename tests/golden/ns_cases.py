"""Models that the reference's numeric suite was run on; only torch, so that both sides use them."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Convolution with batch norm and ReLU, an addition, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = x + self.conv2(x)
        return self.fc(torch.flatten(self.pool(x), 1))


class EagerNet(nn.Module):
    """The same for the eager workflow: its stubs and arithmetic are handed in."""

    def __init__(self, quant: nn.Module, dequant: nn.Module, arithmetic: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant, self.arithmetic = quant, dequant, arithmetic
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        x = self.relu(self.bn(self.conv(x)))
        x = self.arithmetic.add(x, self.conv2(x))
        return self.dequant(self.head(x))


class Recurrent(nn.Module):
    """An LSTM and a linear layer, for dynamic quantization."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0])
