"""A worked sum ends in the code that the deployed layer gives, at every place that is asked."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qlab
from qlab import ops
from qlab.analysis.worked_sums import (
    INT16,
    Terms,
    one_scale,
    terms_of,
    with_reduced_range,
    worked_sum,
)
from qlab.dtypes import float8_e4m3fn, qint8, quint8
from qlab.errors import ArgumentError, UnsupportedError
from qlab.granularity import PerAxis
from qlab.nn.intrinsic import LinearTanh
from qlab.qconfig import QConfigMapping
from qlab.qparams import QParams, quantize
from qlab.ranges import TensorSpec


def one(scale: float, zero_point: int, dtype: qlab.QDType = quint8) -> QParams:
    return QParams.per_tensor(scale, zero_point, dtype)


CONVOLUTIONS = [
    (nn.Linear(5, 3), (2, 4, 5)),
    (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 7)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 5)),
    (nn.Conv2d(4, 4, 3, dilation=2, padding="same", groups=4), (1, 4, 6, 6)),
    (nn.Conv2d(3, 2, (1, 3), padding=(0, 1), padding_mode="reflect"), (1, 3, 4, 5)),
    (nn.Conv3d(2, 3, 2, bias=False), (1, 2, 3, 4, 3)),
]


@pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=lambda x: str(x)[:12])
def test_the_terms_of_every_output_sum_up_to_it(module: nn.Module, shape: tuple[int, ...]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = module(x).detach()
    flat = (
        y.reshape(-1, y.shape[-1]).T
        if isinstance(module, nn.Linear)
        else y.transpose(0, 1).flatten(1)
    )
    for channel, outputs in enumerate(flat):
        for position, output in enumerate(outputs):
            terms = terms_of(module, x, channel, position, relu=False)
            assert terms.result == pytest.approx(float(output), abs=1e-5)


def test_a_layer_of_a_model_ends_in_the_code_it_is_deployed_with():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    lab = qlab.Lab(model.eval(), x, [x])
    converted = lab.convert()
    codes = x
    for node in converted.graph.nodes:
        if node.op == "call_module" and str(node.target) == "0":
            break
    module = converted.get_submodule("0")
    codes = module(quantize(x, module.input_qparams[0]))
    for channel, position in ((0, 0), (3, 71), (1, 40)):
        worked = lab.worked_sum("0", channel, position)
        assert worked.code == int(codes.transpose(0, 1).flatten(1)[channel, position])
        assert worked.terms.relu
        assert sum(worked.parts) == worked.accumulator == int(worked.partial[-1])


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-1, 1)), min_size=1, max_size=12),
    st.integers(0, 255),
    st.integers(-128, 127),
)
def test_every_step_agrees_with_the_operator(pairs: list[tuple[float, float]], z_x: int, z_w: int):
    x, weight = torch.tensor(pairs).T
    qparams = one(0.02, z_x), one(0.01, z_w, qint8), one(0.05, 7)
    worked = worked_sum(Terms(x, weight, 0.3), qparams)
    assert sum(worked.parts) == worked.accumulator
    scale = qparams[0].scale * qparams[1].scale
    assert worked.real == float(torch.tensor(float(worked.accumulator)) * scale + 0.3)
    codes = quantize(x[None], qparams[0]), quantize(weight[None], qparams[1])
    bias = torch.tensor([0.3])
    expected = ops.linear(codes[0], qparams[0], codes[1], qparams[1], bias, qparams[2])
    assert worked.code == int(expected)


def test_the_largest_codes_saturate_16_bits_and_a_reduced_range_never_does():
    terms = Terms(torch.ones(3), torch.ones(3))
    qparams = one(1 / 255, 0), one(1 / 127, 0, qint8), one(4 / 255, 0)
    worked = worked_sum(terms, qparams)
    assert worked.pairs.tolist() == [2 * 255 * 127, 255 * 127]
    assert worked.saturated.tolist() == [INT16.max, 255 * 127]
    assert (worked.saturated_pairs, worked.worst_pair) == (1, 0)
    assert worked.result == pytest.approx(3, abs=0.01)
    assert worked.saturated_result == pytest.approx((32767 + 32385) / 255 / 127, abs=0.01)
    reduced = worked_sum(terms, with_reduced_range(qparams))
    assert reduced.qparams[0].quant_max == 127
    assert reduced.saturated_pairs == 0
    assert reduced.saturated_code == reduced.code
    assert reduced.qparams[0].scale_value == pytest.approx(1 / 127)


def test_one_scale_of_a_channel():
    qparams = TensorSpec(qint8, True, PerAxis(0)).qparams_of(torch.tensor([[1.0], [2.0]]))
    assert one_scale(qparams, 1).scale_value == pytest.approx(2 / 127.5)
    whole = one(0.5, 3)
    assert one_scale(whole, 5) is whole


def test_what_has_no_integer_sum_says_so():
    terms = Terms(torch.ones(2), torch.ones(2))
    with pytest.raises(UnsupportedError, match="the weight is no integer of at most 8 bits"):
        worked_sum(terms, (one(1.0, 0), one(1.0, 0, float8_e4m3fn), one(1.0, 0)))
    with pytest.raises(UnsupportedError, match="Only sums of linear layers and convolutions"):
        terms_of(nn.LayerNorm(2), torch.ones(1, 2), 0, 0, relu=False)
    tanh = LinearTanh(nn.Linear(2, 3), nn.Tanh())
    with pytest.raises(UnsupportedError, match=r"alone or with a ReLU.*Received LinearTanh"):
        terms_of(tanh, torch.ones(1, 2), 0, 0, relu=False)
    with pytest.raises(ArgumentError, match="No such channel"):
        terms_of(nn.Linear(2, 3), torch.ones(1, 2), 3, 0, relu=False)
    with pytest.raises(ArgumentError, match="No such position"):
        terms_of(nn.Linear(2, 3), torch.ones(1, 2), 0, 1, relu=False)
    lab = qlab.Lab(nn.Sequential(nn.Linear(2, 2)).eval(), torch.ones(1, 2), [torch.ones(4, 2)])
    with pytest.raises(UnsupportedError, match="does not sum integers"):
        lab.worked_sum("0", mapping=QConfigMapping())
