"""The layer that writes what another reads, where channels between them may be given twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from qlab.algorithms.targets import Target, is_transposed
from qlab.analysis.study import Study
from qlab.graph import Plan
from qlab.nn.intrinsic.fold import core
from qlab.ranges import Fixed

_ELEMENT_BY_ELEMENT = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Identity, nn.Dropout),
)
_ON_IMAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout2d, nn.Flatten),
)


def find_writer(study: Study, target: Target, plan: Plan) -> fx.Node | str:
    """The node of the linear layer or convolution whose outputs a layer alone reads.

    Args:
        study: The float graph.
        target: The layer that reads, its inputs not in groups.
        plan: Whose fixed scales forbid that the writer grows.

    Returns:
        The node, or why there is none, in words.
    """
    nodes = {node.name: node for node in study.graph.graph.nodes}
    node, passed = nodes[target.source], list[fx.Node]()
    while not isinstance(_layer(study, node), nn.Linear | _ConvNd):
        called = str(node.meta.get("name", node.name))
        if node.op == "placeholder":
            return "it reads the network's input, which has the width that it has"
        if not isinstance(_layer(study, node), (*_ELEMENT_BY_ELEMENT, *_ON_IMAGES)):
            return f"{called!r}, before it, fixes the width of its input"
        passed.append(node)
        node = node.all_input_nodes[0]
    return _obstacle(study, target, node, passed, plan) or node


def _layer(study: Study, node: fx.Node) -> Any:
    if node.op != "call_module":
        return None
    return core(study.graph.get_submodule(str(node.target)))


def _obstacle(
    study: Study, target: Target, writer: fx.Node, passed: list[fx.Node], plan: Plan
) -> str | None:
    name = str(writer.meta.get("name", writer.name))
    layer, reader = _layer(study, writer), target.inner(study.graph)
    if any(len(node.users) != 1 for node in (writer, *passed)):
        return f"what {name!r} writes is read elsewhere too, and has the width that it has there"
    if is_transposed(layer) or getattr(layer, "groups", 1) != 1:
        return f"{name!r}, which writes its input, is a convolution in groups or transposed"
    if layer.weight.shape[0] != reader.weight.shape[1] or not _aligned(study, target, layer):
        return f"its input channels are not those that {name!r} writes"
    if isinstance(layer, nn.Linear) and any(
        isinstance(_layer(study, node), _ON_IMAGES) for node in passed
    ):
        return f"its input channels are not those that {name!r} writes"
    calls = Counter(str(n.target) for n in study.graph.graph.nodes if n.op == "call_module")
    own = {id(p) for p in layer.parameters()}
    owners = sum(id(p) in own for _, p in study.graph.named_parameters(remove_duplicate=False))
    if calls[str(writer.target)] > 1 or owners > len(own):
        return f"the network uses the weights of {name!r} several times"
    spec = plan.step(name).weight
    if spec is not None and isinstance(spec.policy, Fixed):
        return f"the weights of {name!r}, before it, lie on a fixed grid already"
    return None


def _aligned(study: Study, target: Target, writer: nn.Module) -> bool:
    """Whether a convolution's channels reach a linear layer as its features, and so on."""
    reader = target.inner(study.graph)
    if isinstance(writer, nn.Linear):
        return isinstance(reader, nn.Linear)
    return not isinstance(reader, nn.Linear) or study.sample()[0][target.source].ndim == 2
