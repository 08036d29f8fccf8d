"""Quantization-aware layers: float layers that train with a rounded weight."""

from qlab.nn.qat.layers import Conv1d, Conv2d, Conv3d, Embedding, EmbeddingBag, Linear

__all__ = ["Conv1d", "Conv2d", "Conv3d", "Embedding", "EmbeddingBag", "Linear"]
