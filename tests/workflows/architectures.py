"""Small nets, one for each way in which people write models."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Functional(nn.Module):
    """Calls functions and methods; weights are its own parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3) / 8)
        self.bias = nn.Parameter(torch.randn(8) / 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        y = F.conv2d(x, self.weight, self.bias, padding=1)
        x = F.relu(x + y, inplace=True)
        x = F.max_pool2d(x, 2)
        x = x * torch.sigmoid(x) + 0.5
        return self.fc(torch.flatten(x.mean((2, 3)), 1))


class Encoder(nn.Module):
    """Class token, learned positions, fused query-key-value, chunked heads, GELU."""

    def __init__(self, width: int = 16, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width) / 4)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.head = nn.Linear(width, 5)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = x + self.attend(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


class Named(nn.Module):
    """A dict out, with a tuple in it; keyword arguments in; a size computed on the way."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: Tensor, flag: bool = True) -> dict[str, object]:
        y = self.fc1(x * scale)
        y = y.view(y.size(0), y.shape[1] // 4, 4)
        z = self.fc2(y)
        return {"hidden": y, "both": (z, z.sum(1)), "count": x.shape[0]}


class Twice(nn.Module):
    """One linear layer and one ReLU, each called twice."""

    def __init__(self):
        super().__init__()
        self.fc, self.relu, self.out = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.relu(self.fc(self.relu(self.fc(x)))))


class Unsupported(nn.Module):
    """Operators without an integer form between ones that have it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 4)
        self.silu = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.silu(self.fc1(x))
        y = torch.where(y > 0, y, torch.erf(y))
        return F.log_softmax(self.fc2(y), dim=-1)


NETS = {
    "functional": (Functional, lambda: (torch.randn(4, 3, 8, 8),)),
    "encoder": (Encoder, lambda: (torch.randn(4, 3, 8, 8),)),
    "named": (Named, lambda: (torch.randn(4, 6), torch.rand(4, 6) + 0.5)),
    "twice": (Twice, lambda: (torch.randn(4, 6),)),
    "unsupported": (Unsupported, lambda: (torch.randn(4, 6),)),
}
