"""Whatever each operator is asked for, codes are read as they were written."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlab.granularity import PerGroup
from qlab.graph import annotate, convert, fuse, trace
from qlab.nn.quantized import DeQuantize, Quantize, QuantizedModule
from qlab.qconfig import QConfigMapping, qconfig_of
from qlab.ranges import TensorSpec
from tests.qlab.graph.test_convert import statistics
from tests.workflows.architectures import Encoder, Functional

QCONFIGS = {
    "float": None,
    "int8": qconfig_of(TensorSpec("quint8"), TensorSpec.int8_weight()),
    "signed": qconfig_of(TensorSpec("qint8", symmetric=True), TensorSpec.int8_weight()),
    "int4": qconfig_of(TensorSpec("quint4"), TensorSpec("qint4", symmetric=True)),
    "int16": qconfig_of(TensorSpec("qint16", symmetric=True), TensorSpec.int8_weight()),
    "float8": qconfig_of(TensorSpec("float8_e4m3fn"), TensorSpec("float8_e4m3fn")),
    "weight": qconfig_of(None, TensorSpec("qint4", True, PerGroup(4, 1))),
    "activation": qconfig_of(TensorSpec("quint8"), None),
}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def prepared(model):
    torch.manual_seed(0)
    graph = fuse(trace(model().eval(), X))
    return (
        graph,
        statistics(graph, X),
        [step.name for step in annotate(graph, QConfigMapping()).steps],
    )


GRAPHS = [prepared(Functional), prepared(Encoder)]


@settings(max_examples=40)
@given(st.data())
def test_codes_are_read_as_they_were_written(data):
    graph, stats, names = data.draw(st.sampled_from(GRAPHS))
    mapping = QConfigMapping()
    for name in names:
        mapping.set_module_name(name, QCONFIGS[data.draw(st.sampled_from(sorted(QCONFIGS)))])
    plan = annotate(graph, mapping)
    assert plan.unmatched == ()
    converted = convert(graph, plan, plan.qparams(stats))
    for node in converted.graph.nodes:
        if node.op != "call_module":
            continue
        module = converted.get_submodule(node.target)
        read = [argument.meta.get("qparams") for argument in node.args]
        if not isinstance(module, QuantizedModule):
            moves = node.meta["name"] in ("flatten",)
            assert moves or read == [None] * len(read)
        elif isinstance(module, Quantize):
            assert read == [None]
        else:
            bound = module.input_qparams
            assert all((a is None) == (b is None) for a, b in zip(read, bound, strict=True))
            assert all(a is None or a.same_as(b) for a, b in zip(read, bound, strict=True))
        if isinstance(module, QuantizedModule) and not isinstance(module, DeQuantize):
            written = node.meta.get("qparams")
            assert (written is None) == (module.output_qparams is None)
            assert written is None or written.same_as(module.output_qparams)
    with torch.no_grad():
        result = converted(X)
        assert result.isfinite().all()
        if not plan.values and not plan.quantized_steps:
            assert torch.equal(result, graph(X))


def test_nothing_asked_is_the_float_network_bit_by_bit():
    for graph, stats, _ in GRAPHS:
        plan = annotate(graph, QConfigMapping())
        converted = convert(graph, plan, plan.qparams(stats))
        assert plan.values == ()
        assert torch.equal(converted(X), graph(X))
