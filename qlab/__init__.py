"""qlab: quantization for PyTorch models, on any device."""
