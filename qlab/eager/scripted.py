"""The TorchScript workflow of old code: refused by name, with the way that exists."""

from __future__ import annotations

from typing import Any, NoReturn

from qlab.errors import UnsupportedError

_INSTEAD = {
    "prepare_jit": "prepare_fx",
    "convert_jit": "convert_fx",
    "quantize_jit": "prepare_fx and convert_fx",
    "prepare_dynamic_jit": "prepare_fx with a dynamic qconfig",
    "convert_dynamic_jit": "convert_fx",
    "quantize_dynamic_jit": "quantize_dynamic",
    "script_qconfig": "the qconfig as it is, and prepare_fx",
    "script_qconfig_dict": "a QConfigMapping, and prepare_fx",
    "fuse_conv_bn_jit": "fuse_fx, or fuse_modules",
}


def _refuse(name: str) -> NoReturn:
    raise UnsupportedError(
        f"{name} works on TorchScript, which torch has deprecated and qlab does not read",
        expected="a torch.nn.Module",
        fix=f"Use {_INSTEAD[name]} on the module that was scripted; torch.compile or "
        "torch.export take its result.",
    )


def prepare_jit(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use `prepare_fx`."""
    _refuse("prepare_jit")


def convert_jit(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use `convert_fx`."""
    _refuse("convert_jit")


def quantize_jit(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use `prepare_fx` and `convert_fx`."""
    _refuse("quantize_jit")


def prepare_dynamic_jit(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use `prepare_fx` with a dynamic qconfig."""
    _refuse("prepare_dynamic_jit")


def convert_dynamic_jit(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use `convert_fx`."""
    _refuse("convert_dynamic_jit")


def quantize_dynamic_jit(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use `quantize_dynamic`."""
    _refuse("quantize_dynamic_jit")


def fuse_conv_bn_jit(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use `fuse_fx` or `fuse_modules`."""
    _refuse("fuse_conv_bn_jit")


def script_qconfig(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use the qconfig as it is."""
    _refuse("script_qconfig")


def script_qconfig_dict(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises `UnsupportedError`: use a `QConfigMapping`."""
    _refuse("script_qconfig_dict")
