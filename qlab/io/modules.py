"""Modules as JSON: a class by name and its constructor's arguments, tensors apart."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from qlab import registry
from qlab.errors import FormatError, QlabError, UnsupportedError
from qlab.nn.intrinsic import ConvAdd2d, FusedModule
from qlab.nn.quantized.base import QuantizedModule
from qlab.registry import SHARED

#: Classes of `torch.nn` that stay in float, and that their attributes rebuild.
_EXTRA_FLOAT = (
    nn.AlphaDropout,
    nn.BatchNorm1d,
    nn.Bilinear,
    nn.CELU,
    nn.ChannelShuffle,
    nn.CircularPad1d,
    nn.CircularPad2d,
    nn.CircularPad3d,
    nn.ConstantPad1d,
    nn.ConstantPad2d,
    nn.ConstantPad3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.CosineSimilarity,
    nn.CrossMapLRN2d,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.Embedding,
    nn.FeatureAlphaDropout,
    nn.Flatten,
    nn.Fold,
    nn.GLU,
    nn.GRU,
    nn.GRUCell,
    nn.Hardshrink,
    nn.Identity,
    nn.LocalResponseNorm,
    nn.LogSigmoid,
    nn.LogSoftmax,
    nn.LPPool1d,
    nn.LPPool2d,
    nn.LPPool3d,
    nn.LSTM,
    nn.LSTMCell,
    nn.MaxUnpool1d,
    nn.MaxUnpool2d,
    nn.MaxUnpool3d,
    nn.Mish,
    nn.PairwiseDistance,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.PReLU,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
    nn.RMSNorm,
    nn.RNN,
    nn.RNNCell,
    nn.RReLU,
    nn.SELU,
    nn.SiLU,
    nn.Softmax2d,
    nn.Softmin,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Threshold,
    nn.Unflatten,
    nn.Unfold,
    nn.UpsamplingBilinear2d,
    nn.UpsamplingNearest2d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
)
#: Recurrent layers' constructors name no arguments: these are attributes of theirs.
_RECURRENT = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
)  # fmt: skip
_NAMELESS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.GRU: _RECURRENT,
    nn.LSTM: (*_RECURRENT, "proj_size"),
    nn.RNN: (*_RECURRENT, "nonlinearity"),
}
#: Arguments that are attributes of another name.
_KEPT_AS: dict[tuple[type[nn.Module], str], str] = {(nn.PairwiseDistance, "p"): "norm"}
_MOST_LAYERS = 1000  # a recurrent layer's own loop makes each of them
_FLOAT_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_SKIPPED_ARGUMENTS = ("device", "dtype", "self")


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _quantized_classes() -> dict[str, type[QuantizedModule]]:
    def below(cls: type[QuantizedModule]) -> list[type[QuantizedModule]]:
        return [cls, *(s for child in cls.__subclasses__() for s in below(child))]

    return {_qualified(c): c for c in below(QuantizedModule) if c.__module__.startswith("qlab.")}


def float_classes() -> dict[str, type[nn.Module]]:
    """The classes of float modules that a file may name, by their full name."""
    leaves = [row for row in registry.ROWS if row.static is not None or row.output is SHARED]
    rows = [cls for row in leaves for cls in row.modules]
    return {_qualified(c): c for c in (*rows, *_EXTRA_FLOAT) if not issubclass(c, FusedModule)}


def _fused_classes() -> dict[str, type[FusedModule]]:
    rows = [cls for row in registry.ROWS for cls in row.modules]
    return {_qualified(c): c for c in rows if issubclass(c, FusedModule)}


def _float_arguments(module: nn.Module) -> dict[str, Any]:
    """Constructor arguments of a `torch.nn` module, read off the attributes of the same name."""
    if type(module) in _NAMELESS:
        return {name: getattr(module, name) for name in _NAMELESS[type(module)]}
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in _SKIPPED_ARGUMENTS or parameter.kind in _VARIADIC:
            continue
        value = getattr(module, _KEPT_AS.get((type(module), name), name), None)
        if isinstance(value, torch.Tensor) or (name == "bias" and not isinstance(value, bool)):
            value = value is not None
        arguments[name] = value
    return arguments


def describe(module: nn.Module, path: str) -> dict[str, Any]:
    """A module as JSON-ready data.

    Args:
        module: A quantized module, or a float leaf that stayed in float.
        path: Where it sits, for the error's message.

    Raises:
        UnsupportedError: A class that checkpoints do not hold, or one that does not rebuild.
    """
    if isinstance(module, QuantizedModule):
        return {"class": _qualified(type(module)), "config": module.config()}
    name = _qualified(type(module))
    function = isinstance(module, ConvAdd2d) and not isinstance(module.add, nn.Module)
    if isinstance(module, FusedModule) and name in _fused_classes() and not function:
        return {"class": name, "parts": [describe(part, path) for part in module]}
    if name not in float_classes():
        raise UnsupportedError(
            f"The layer {path!r} cannot be saved in a checkpoint",
            expected="a quantized module or one of torch.nn that the registry knows",
            received=name,
            fix="Write .pt2 instead; or quantize the layer, or replace it by those of torch.nn "
            "that their constructor's plain arguments rebuild.",
        )
    data: dict[str, Any] = {"class": name, "arguments": _listed(_float_arguments(module))}
    dtype = _float_dtype(module)
    if dtype != torch.float32:
        data["dtype"] = str(dtype).removeprefix("torch.")
    rebuilt = build(data, path)
    same_state = {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in module.state_dict().items()
    }
    if repr(rebuilt) != repr(module) or not same_state:
        raise UnsupportedError(
            f"The layer {path!r} does not rebuild from its attributes",
            expected=repr(module),
            received=repr(rebuilt),
        )
    return data


def _float_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a module's first tensor of real numbers; float32 if it has none."""
    tensors = (*module.parameters(), *module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def _listed(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple | torch.Size) else v for k, v in arguments.items()}


def build(data: dict[str, Any], path: str) -> nn.Module:
    """Inverse of `describe`; the module's tensors are still to be loaded.

    Raises:
        FormatError: An unknown class, or arguments that it does not take.
    """
    name = data.get("class")
    quantized, floats, fused = _quantized_classes(), float_classes(), _fused_classes()
    try:
        if name in quantized:
            return quantized[name].from_config(data["config"])
        if name in floats:
            arguments: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in data["arguments"].items()
            }
            if arguments.get("num_layers", 1) > _MOST_LAYERS:
                raise ValueError(f"{arguments['num_layers']} layers in one")
            dtype = _FLOAT_DTYPES[data.get("dtype", "float32")]
            return floats[name](**arguments).to(dtype).eval()
        if name in fused:
            return fused[name](*(build(part, path) for part in data["parts"])).eval()
    except (QlabError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise FormatError(
            f"The layer {path!r} cannot be rebuilt from the checkpoint: {error}"
        ) from error
    raise FormatError(
        f"The checkpoint names a class that qlab does not load, for layer {path!r}",
        expected="a quantized module of qlab or a registered class of torch.nn",
        received=repr(name)[:200],
    )
