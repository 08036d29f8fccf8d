"""Modules: fused float ones, quantized ones, and the stubs between them."""
