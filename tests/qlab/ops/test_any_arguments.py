"""Every operator: the same codes however a tensor lies in memory, and errors of qlab in words."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from qlab import ops
from qlab.dtypes import QDType, qint8, quint8
from qlab.errors import QlabError
from qlab.granularity import PerAxis
from qlab.qparams import QParams
from tests.qlab.ops.examples import W, X, Y, codes

torch.manual_seed(0)
LINE, PLANE, SPACE = (codes(quint8, 2, 6, *(n,) * axes) for n, axes in ((8, 1), (8, 2), (4, 3)))
SIX, EIGHT, BIAS = torch.rand(6) + 0.5, torch.rand(8), torch.randn(4)
ROWS = codes(quint8, 5, 8), X, codes(qint8, 4, 8), W, BIAS, Y
WEIGHTS = {n: codes(qint8, 4, 6, *(2,) * n) for n in (1, 2, 3)}
PLACES = {1: LINE, 2: PLANE, 3: SPACE}
FUNCTIONS = ["celu", "elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu"]
FUNCTIONS += ["sigmoid", "softmax", "tanh"]
CALLS: dict[str, tuple[Any, ...]] = {
    "add": (PLANE, X, PLANE.flip(1), Y, Y), "mul": (PLANE, X, PLANE.flip(1), Y, Y),
    "add_scalar": (PLANE, X, 0.5), "mul_scalar": (PLANE, X, 0.5),
    "add_scalar_qparams": (X, 0.5), "mul_scalar_qparams": (X, 0.5),
    "cat": ([PLANE, PLANE], [X, X], 1, Y), "matmul": (LINE, X, codes(quint8, 2, 8, 3), Y, Y),
    "relu": (PLANE, X), "relu6": (PLANE, X), "hardtanh": (PLANE, X, -1.0, 1.0),
    "threshold": (PLANE, X, 0.1, 0.2), "prelu": (PLANE, X, codes(qint8, 6), W, Y),
    "linear": ROWS, "linear_gelu": ROWS,
    "linear_dynamic": (torch.randn(5, 8), codes(qint8, 4, 8), W, BIAS),
    "conv2d_add": (PLANE, X, WEIGHTS[2], W, BIAS, codes(quint8, 2, 4, 7, 7), Y, Y),
    "batch_norm": (PLANE, X, SIX, SIX, SIX, SIX, 1e-5, Y),
    "group_norm": (PLANE, X, 2, SIX, SIX, 1e-5, Y),
    "instance_norm": (PLANE, X, SIX, SIX, 1e-5, Y),
    "layer_norm": (PLANE, X, (8,), EIGHT, EIGHT, 1e-5, Y),
    "quantize": (torch.randn(2, 6, 8, 8), X), "dequantize": (PLANE, X),
    "dynamic_qparams": (torch.randn(3, 4), quint8), "mean": (PLANE, X),
    "embedding": (torch.tensor([[1, 2], [3, 0]]), codes(quint8, 10, 8), X),
    "embedding_bag": (torch.tensor([[1, 2], [3, 0]]), codes(quint8, 10, 8), X),
    "interpolate": (PLANE, X, 5),
    **dict.fromkeys(FUNCTIONS, (PLANE, X, Y)),
    **{f"{kind}_pool{n}d": (PLACES[n], X, 2) for n in PLACES for kind in (
        "avg", "max", "adaptive_avg", "adaptive_max",
    )},
    **{f"conv{n}d": (PLACES[n], X, WEIGHTS[n], W, BIAS, Y) for n in PLACES},
    **{f"conv_transpose{n}d": (PLACES[n], X, WEIGHTS[n].transpose(0, 1).contiguous(), W, BIAS, Y)
       for n in PLACES},
}  # fmt: skip
NO_OPERATORS = {
    "ConvOptions", "ConvTransposeOptions", "PackedWeight", "Ready", "counts", "kernel_for",
    "reset_counts", "use",
}  # fmt: skip
NO_NUMBERS = (None, "x", [], [[1]], object(), torch.tensor([1, 0]), -(10**20), 10**20, torch.nan)


def call(name: str, *arguments: Any, **named: Any) -> Any:
    return getattr(ops, name)(*arguments, **named)


def changed(name: str, kind: type) -> Iterator[tuple[int, Any, Any]]:
    """Every argument of a kind, and what replaces it by the place it takes."""
    given = CALLS[name]
    for index, value in enumerate(given):
        if isinstance(value, kind):
            yield index, value, lambda new, i=index: (*given[:i], new, *given[i + 1 :])


def equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a.same_as(b)


def layouts(x: Tensor) -> Iterator[Tensor]:
    yield torch.stack([x, x], -1)[..., 0]
    yield torch.cat([x.reshape(-1)[:1], x.reshape(-1)])[1:].view(x.shape)
    yield x.flip(0).contiguous().flip(0)
    if x.dim() > 1:
        yield x.transpose(0, -1).contiguous().transpose(0, -1)
    if x.dim() in (4, 5):
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        yield x.contiguous(memory_format=form)


def test_every_operator_is_here():
    assert set(CALLS) == set(ops.__all__) - NO_OPERATORS


@pytest.mark.parametrize("name", CALLS)
def test_layouts_of_memory_change_no_code(name: str):
    wanted = call(name, *CALLS[name])
    for _, value, into in changed(name, Tensor):
        for laid in layouts(value):
            assert equal(call(name, *into(laid)), wanted)


@pytest.mark.parametrize("name", CALLS)
def test_a_batch_of_nothing_gives_nothing_or_is_refused(name: str):
    for index, value, into in changed(name, Tensor):
        if index == 0:
            try:
                found = call(name, *into(value[:0]))
            except QlabError:
                continue
            assert not isinstance(found, Tensor) or not found.numel()


def refused(name: str, *arguments: Any, **named: Any) -> None:
    """Nothing but an error of qlab; what is taken after all must give a result."""
    try:
        assert call(name, *arguments, **named) is not None
    except QlabError as error:
        assert str(error)


@pytest.mark.parametrize("name", CALLS)
def test_other_tensors_are_refused_in_words(name: str):
    for _, value, into in changed(name, Tensor):
        for wrong in (3, "x", value.tolist(), value.numpy()):
            with pytest.raises(QlabError):
                call(name, *into(wrong))
        with pytest.raises(QlabError, match="dense"):
            call(name, *into(value.to_sparse()))
        for other in (None, value.to("meta"), value.bool(), value.double(), value.unsqueeze(0)):
            refused(name, *into(other))
        for other in (value.reshape(-1), value.reshape(-1)[0], value[..., :0], value[..., :1]):
            refused(name, *into(other))


def broken(kind: QDType) -> Iterator[QParams]:
    for scale in (torch.nan, torch.inf, 0.0, -1.0):
        yield QParams(torch.tensor(scale), torch.tensor(0, dtype=torch.int32), kind)
    yield QParams(torch.tensor(1.0), torch.tensor(999, dtype=torch.int32), kind)


@pytest.mark.parametrize("name", CALLS)
def test_parameters_that_are_none_are_refused(name: str):
    for _, value, into in changed(name, QParams):
        for wrong in broken(value.dtype):
            with pytest.raises(QlabError, match=r"[Ss]cale|zero point"):
                call(name, *into(wrong))
        scales = torch.tensor([0.1, torch.nan, 0.1, 0.1]), torch.zeros(4, dtype=torch.int32)
        for other in (None, 3, (0.1, 3), QParams(*scales, value.dtype, PerAxis(0))):
            refused(name, *into(other))


@pytest.mark.parametrize("name", CALLS)
def test_options_that_make_no_sense_are_refused_in_words(name: str):
    for kind in (int, float, tuple, list, QDType):
        for _, _, into in changed(name, kind):
            for wrong in NO_NUMBERS:
                refused(name, *into(wrong))
    parameters = list(inspect.signature(getattr(ops, name)).parameters.values())
    options = [p.name for p in parameters[len(CALLS[name]) :] if p.kind != p.VAR_KEYWORD]
    if parameters[-1].kind == inspect.Parameter.VAR_KEYWORD:
        options = ["stride", "padding", "dilation", "groups", "padding_mode", "output_padding"]
        options += ["relu", "packed"]
        with pytest.raises(QlabError, match="nonsense"):
            call(name, *CALLS[name], nonsense=1)
    for option in options:
        for wrong in NO_NUMBERS:
            refused(name, *CALLS[name], **{option: wrong})
        if option in ("relu", "integer_bias", "reduce_range", "ceil_mode"):
            for wrong in ("yes", 2, None):
                with pytest.raises(QlabError, match="switch"):
                    call(name, *CALLS[name], **{option: wrong})
        if option == "packed":
            with pytest.raises(QlabError, match="PackedWeight"):
                call(name, *CALLS[name], packed=3)


@pytest.mark.parametrize("name", ["conv2d", "conv2d_add", "conv_transpose2d"])
def test_sizes_beyond_any_memory_are_refused(name: str):
    option = "stride" if "transpose" in name else "padding"
    with pytest.raises(QlabError, match="larger than any memory"):
        call(name, *CALLS[name], **{option: 2**30})
    with pytest.raises(QlabError, match=f"invalid {option}.*at most 2147483647"):
        call(name, *CALLS[name], **{option: 10**12})
    index = next(i for i, value in enumerate(CALLS[name]) if value is W) - 1
    for empty in (CALLS[name][index][:0], CALLS[name][index][..., :0]):
        with pytest.raises(QlabError, match=r"no elements|do not fit each other"):
            call(name, *CALLS[name][:index], empty, *CALLS[name][index + 1 :])


def test_fractions_are_refused_though_equal_whole_numbers_were_seen():
    ops.conv2d(*CALLS["conv2d"], padding=1, stride=(1, 1))
    for wrong in ({"padding": 1.0}, {"stride": (1.0, 1)}, {"groups": True}):
        with pytest.raises(QlabError, match="invalid"):
            ops.conv2d(*CALLS["conv2d"], **wrong)
