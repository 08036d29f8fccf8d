"""Where tensors can be put."""

from __future__ import annotations

from functools import cache

import torch

from qlab.errors import ArgumentError


def usable_device(device: torch.device | str | int) -> torch.device:
    """The device of a name, if tensors can be put there.

    Raises:
        ArgumentError: There is no such device, or it holds no numbers.
    """
    try:
        found = torch.device(device)
        usable = found.type != "meta"
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(
            "This machine has no such device", received=f"{device!r} ({reason})", fix=_DEVICES
        ) from error
    if not usable:
        raise ArgumentError("The meta device holds no numbers", received=device, fix=_DEVICES)
    return found


_DEVICES = 'Pass "cpu", or "cuda" where torch.cuda.is_available().'


@cache
def device_names() -> dict[str, str]:
    """Names of the devices that a `Lab` can run on here, and what people call them."""
    found = {"cpu": "CPU"}
    if no_cuda() is None:
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return found


@cache
def no_cuda() -> str | None:
    """Why this process has no CUDA device, in words, or None."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return "PyTorch finds no CUDA device, or no driver for one"
