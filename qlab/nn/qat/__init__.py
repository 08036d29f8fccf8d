"""Quantization-aware layers: float layers that train with a rounded weight."""

from qlab.aliases import submodules
from qlab.nn.qat.layers import Conv1d, Conv2d, Conv3d, Embedding, EmbeddingBag, Linear

__getattr__ = submodules(__name__)

__all__ = ["Conv1d", "Conv2d", "Conv3d", "Embedding", "EmbeddingBag", "Linear"]
