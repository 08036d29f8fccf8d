"""A small vision transformer for 8×8 digits."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention written out: softmax(q·kᵀ/√d)·v per head, then a projection.

    Maps (N, tokens, width) to the same shape; `width` is a multiple of `heads`, d = width/heads.

    Source: Vaswani et al., Attention Is All You Need, 2017.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_shape = (heads, width // heads)
        self.scale = (width // heads) ** -0.5
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, self.head_shape).transpose(1, 2)
        k = self.k(x).unflatten(-1, self.head_shape).transpose(1, 2)
        v = self.v(x).unflatten(-1, self.head_shape).transpose(1, 2)
        weights = self.softmax(torch.matmul(q, k.transpose(-2, -1)) * self.scale)
        return self.proj(torch.matmul(weights, v).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention and a two-layer GELU network, each after a layer norm and added to its input.

    Maps (N, tokens, width) to the same shape.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of 2×2 pixels as 16 tokens, encoder blocks, the mean over tokens, a classifier.

    Maps (N, 1, 8, 8) to logits (N, 10).

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2020.
    """

    def __init__(self, width: int = 48, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.pos_embed = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.head(self.norm(self.blocks(x)).mean(1))
