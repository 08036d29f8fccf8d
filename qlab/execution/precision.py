"""Full float32: what a float pass computes does not hang on a device's shortcuts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_TORCH: Any = torch.backends
_BACKENDS: tuple[Any, ...] = (
    _TORCH.cuda.matmul,
    _TORCH.cudnn.conv,
    _TORCH.cudnn.rnn,
    _TORCH.mkldnn.matmul,
    _TORCH.mkldnn.conv,
    _TORCH.mkldnn.rnn,
)
_LOCK = threading.Lock()
_depth = 0
_before: tuple[str | None, bool | None, list[str]] = (None, None, [])


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and products of float32 tensors use all 24 bits of their mantissas inside.

    cuDNN by default rounds what a float32 convolution is given to 11 bits (TF32), so that what
    calibration sees on CUDA would differ from the CPU by far more than the order of sums. Within
    this context TF32 and bfloat16 are off, for CUDA and for oneDNN; afterwards, also after errors,
    PyTorch's settings are what they were.

    Those settings are PyTorch's own and belong to the process, not to a thread: what other threads
    run meanwhile is in full float32, too. Contexts may nest and overlap in any number of threads;
    the last to leave restores what the first found. A setting that someone changes in between is
    overwritten then.
    """
    global _depth, _before
    with _LOCK:
        if not _depth:
            _before = _settings()
            matmul, cudnn, precisions = _before
            _apply(matmul and "highest", cudnn and False, ["ieee"] * len(precisions))
        _depth += 1
    try:
        yield
    finally:
        with _LOCK:
            _depth -= 1
            if not _depth:
                _apply(*_before)


def _settings() -> tuple[str | None, bool | None, list[str]]:
    """By both of PyTorch's interfaces: a reader of either must not meet the other half-set."""
    matmul = _older(torch.get_float32_matmul_precision)
    cudnn = _older(lambda: _TORCH.cudnn.allow_tf32)
    return matmul, cudnn, [backend.fp32_precision for backend in _BACKENDS]


def _older(read: Callable[[], Any]) -> Any:
    """A setting by the older interface; None where the newer one said what it has no word for."""
    try:
        return read()
    except RuntimeError:
        return None


def _apply(matmul: str | None, cudnn: bool | None, precisions: list[str]) -> None:
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if cudnn is not None:
        _TORCH.cudnn.allow_tf32 = cudnn
    for backend, precision in zip(_BACKENDS, precisions, strict=True):
        backend.fp32_precision = precision
