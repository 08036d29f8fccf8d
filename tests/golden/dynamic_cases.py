"""Cases of dynamically quantized modules: one list for the generator and for the tests."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One module, one input.

    Attributes:
        name: Unique.
        kind: Class name in ``torch.nn``, or ``LinearReLU``.
        args: Its positional arguments.
        shape: Shape of the input.
        kwargs: Its keyword arguments.
        qconfig: Name of the qconfig.
        scale: Standard deviation of the input.
        shift: Mean of the input.
        lengths: Of the sequences, where the input is packed.
        hidden: Shape of the initial state; zeros are used if empty.
    """

    name: str
    kind: str
    args: tuple[int, ...]
    shape: tuple[int, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    qconfig: str = "default_dynamic_qconfig"
    scale: float = 1.0
    shift: float = 0.0
    lengths: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()


QCONFIGS = ("default_dynamic_qconfig", "per_channel_dynamic_qconfig", "float16_dynamic_qconfig")
_RNN = (6, 9)
_LINEAR = (
    ("plain", (5, 16), {}, 1.0, 0.0),
    ("three_axes", (2, 3, 16), {}, 1.0, 0.0),
    ("positive", (5, 16), {}, 0.5, 9.0),
    ("negative", (5, 16), {}, 0.5, -9.0),
    ("tiny", (5, 16), {}, 1e-5, 0.0),
    ("zero", (5, 16), {}, 0.0, 0.0),
    ("no_bias", (5, 16), {"bias": False}, 3.0, 1.0),
)
_LAYERS = (
    ("plain", {}, (7, 3, 6), (), ()),
    ("deep", {"num_layers": 3}, (7, 3, 6), (), (3, 3, 9)),
    ("both", {"num_layers": 2, "bidirectional": True}, (7, 3, 6), (), (4, 3, 9)),
    ("batch_first", {"batch_first": True, "bidirectional": True}, (3, 7, 6), (), ()),
    ("packed", {"num_layers": 2, "bidirectional": True}, (7, 3, 6), (2, 7, 4), (4, 3, 9)),
    ("dropout", {"num_layers": 2, "dropout": 0.5}, (4, 2, 6), (), ()),
)

CASES = (
    *(
        Case(f"{kind}-{name}-{qconfig}", kind, (16, 11), shape, kwargs, qconfig, scale, shift)
        for kind in ("Linear", "LinearReLU")
        for name, shape, kwargs, scale, shift in _LINEAR
        for qconfig in QCONFIGS
    ),
    *(
        Case(
            f"{kind}-{name}-{qconfig}", kind, _RNN, shape, kwargs, qconfig, 2.0,
            lengths=lengths, hidden=hidden,
        )
        for kind in ("LSTM", "GRU")
        for name, kwargs, shape, lengths, hidden in _LAYERS
        for qconfig in QCONFIGS
    ),
    *(
        Case(f"{kind}-{name}-{qconfig}", kind, _RNN, (4, 6), kwargs, qconfig, 2.0, hidden=hidden)
        for kind, name, kwargs in (
            ("LSTMCell", "", {}),
            ("GRUCell", "", {}),
            ("RNNCell", "tanh", {}),
            ("RNNCell", "relu", {"nonlinearity": "relu"}),
        )
        for hidden in ((4, 9),)
        for qconfig in QCONFIGS
    ),
)  # fmt: skip
