"""Modules quantized on their own inside a graph, given and giving integers or not.

For generator and tests.
"""

from typing import Any

import torch
from torch import Tensor, nn

#: Indexes of inputs taken and of outputs given as integers.
CASES = {f"in {i} out {o}": (i, o) for i in ([], [0]) for o in ([], [0])}
#: The network's own.
OUTER = {f"net in {i} out {o}": (i, o) for i in ([], [0]) for o in ([], [0])}


class Inner(nn.Module):
    """Two layers; as a module of its own, so that it can be named."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.conv(x)))


class Net(nn.Module):
    """A layer before it and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.end = nn.Conv2d(3, 4, 3), Inner(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.inner(self.first(x)))


def batches() -> list[Tensor]:
    """Three batches of images."""
    torch.manual_seed(3)
    return [(1 + index) * torch.randn(2, 3, 8, 8) for index in range(3)]


def converted(library: Any, quantization: Any, workflow: Any, net: nn.Module, case: str) -> Any:
    """The network prepared, calibrated and converted by a library.

    Args:
        library: ``torch`` or ``qlab``.
        quantization: ``torch.ao.quantization`` or ``qlab.quantization``.
        workflow: Its module ``quantize_fx``.
        net: The float network.
        case: A name in `CASES` or `OUTER`.
    """
    qconfig = quantization.QConfig(
        activation=quantization.MinMaxObserver,
        weight=quantization.default_per_channel_weight_observer,
    )
    mapping = quantization.QConfigMapping().set_global(qconfig)
    kind = quantization.fx.custom_config.PrepareCustomConfig
    custom = kind()
    if case in OUTER:
        taken, given = OUTER[case]
        custom.set_input_quantized_indexes(taken).set_output_quantized_indexes(given)
    else:
        taken, given = CASES[case]
        own = kind().set_input_quantized_indexes(taken).set_output_quantized_indexes(given)
        example = (torch.randn(2, 4, 6, 6),)
        custom.set_standalone_module_name("inner", mapping, example, own, None)
    prepared = workflow.prepare_fx(net.eval(), mapping, (batches()[0],), custom)
    for batch in batches():
        prepared(batch)
    return workflow.convert_fx(prepared)


def fed(library: Any, case: str) -> Any:
    """The first batch; where the network takes codes, in those of the range calibrated on."""
    x = batches()[0]
    if case in OUTER and OUTER[case][0]:
        low, high = torch.cat(batches()).aminmax()
        scale = float((high - low) / 255)
        zero_point = int(-torch.round(low / scale))
        return library.quantize_per_tensor(x, scale, zero_point, library.quint8)
    return x


def looked_at(converted: Any, given: Any, quantized: Any) -> dict[str, Tensor]:
    """What the network and the inner module give, what that one is given, and scales.

    Args:
        converted: The converted network.
        given: What it is fed.
        quantized: Tells whether a tensor is one of codes.

    Returns:
        The numbers; for outputs of codes these as ``….codes``, and scale and zero point.
    """
    seen: dict[str, Any] = {}

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen["inner.x"], seen["inner.y"] = inputs[0].dequantize(), output

    modules = dict(converted.named_modules())
    inner = modules["inner"]
    handle = inner.register_forward_hook(look)
    with torch.no_grad():
        seen["y"] = converted(given)
    handle.remove()
    found = {}
    for name, value in seen.items():
        found[name] = value.dequantize()
        if quantized(value):
            found[f"{name}.codes"] = value.int_repr().int()
            found[f"{name}.at"] = torch.tensor([value.q_scale(), float(value.q_zero_point())])
    for name, module in modules.items():
        if (scale := getattr(module, "scale", None)) is not None and hasattr(module, "weight"):
            found[f"scale.{name}"] = torch.tensor([float(scale), float(module.zero_point)])
    return {name: value.contiguous().clone() for name, value in found.items()}
