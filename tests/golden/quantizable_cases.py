"""Cases of LSTM and attention through prepare and convert: one list for generator and tests."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One module, taken apart, calibrated and converted.

    Attributes:
        name: Unique.
        kind: ``LSTM`` or ``MultiheadAttention``.
        args: Its positional arguments.
        shape: Shape of the input.
        kwargs: Its keyword arguments.
    """

    name: str
    kind: str
    args: tuple[int, ...]
    shape: tuple[int, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("lstm", "LSTM", (6, 9), (5, 3, 6)),
    Case("lstm-deep", "LSTM", (6, 9), (5, 3, 6), {"num_layers": 2}),
    Case("lstm-both", "LSTM", (6, 9), (5, 3, 6), {"bidirectional": True}),
    Case("lstm-no-bias", "LSTM", (6, 9), (5, 3, 6), {"bias": False}),
    Case("attention", "MultiheadAttention", (8, 2), (5, 3, 8)),
    Case("attention-bias-kv", "MultiheadAttention", (8, 2), (5, 3, 8), {"add_bias_kv": True}),
    Case("attention-zero", "MultiheadAttention", (8, 2), (5, 3, 8), {"add_zero_attn": True}),
)


class Wrapped(nn.Module):
    """The module between stubs; ``stubs`` are classes of the library under test."""

    def __init__(self, module: nn.Module, quant: nn.Module, dequant: nn.Module) -> None:
        super().__init__()
        self.module, self.quant, self.dequant = module, quant, dequant

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.quant(x)
        args = (x, x, x) if isinstance(self.module, nn.MultiheadAttention) else (x,)
        y, rest = self.module(*args)
        rest = rest if isinstance(rest, tuple) else (rest,)
        return tuple(self.dequant(part) for part in (y, *rest))
