"""Layers, data and configurations whose causes are looked for, and what holds for each cause."""

import pytest
import torch
from torch import Tensor, nn

import qlab
from qlab import QConfigMapping, TensorSpec
from qlab.analysis.causes import Cause
from qlab.dtypes import qint8, quint8
from qlab.errors import UnsupportedError
from qlab.qconfig import qconfig_of
from qlab.ranges import MSE

PER_TENSOR = TensorSpec(qint8, symmetric=True)
PER_CHANNEL = TensorSpec.int8_weight()
SEARCHED = TensorSpec.uint8_activation(policy=MSE())


def mapping_of(activation: TensorSpec | None, weight: TensorSpec | None) -> QConfigMapping:
    return QConfigMapping().set_global(qconfig_of(activation, weight))


DEFAULT = mapping_of(SEARCHED, PER_CHANNEL)
MINMAX = mapping_of(TensorSpec(quint8), PER_CHANNEL)


def batches(count: int = 8, size: int = 64, features: int = 16) -> list[Tensor]:
    return [torch.randn(size, features) for _ in range(count)]


def linear(features: int = 16, outputs: int = 16) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(features, outputs, bias=False))
    nn.init.uniform_(model[0].weight, -0.5, 0.5)
    return model


def found(
    model: nn.Module, mapping: QConfigMapping, data: list[Tensor] | None = None, layer: str = "0"
) -> dict[tuple[str, str], Cause]:
    """The causes of a layer by kind and tensor, in their order."""
    data = data or batches()
    lab = qlab.Lab(model.eval(), data[0][:1], data)
    causes = lab.causes(layer, mapping)
    for cause in causes:
        check(lab, cause, mapping)
    return {(cause.kind, cause.tensor): cause for cause in causes}


def check(lab: qlab.Lab, cause: Cause, mapping: QConfigMapping) -> None:
    """What holds for every cause: numbers in the words, a remedy that is one, nothing mutated."""
    before = mapping.copy()
    assert cause.sentence.endswith(".") and any(c.isdigit() for c in cause.sentence)
    harmless = cause.kind == "dead channels" and cause.gain == 0
    assert (cause.remedy is None) == (cause.gain is None or harmless)
    if cause.remedy is None:
        with pytest.raises(UnsupportedError, match="No change of the configuration avoids"):
            cause.apply(mapping)
    else:
        changed = cause.apply(mapping)
        assert changed != mapping
        assert not lab.plan(changed).unmatched
    assert mapping == before


def quiet(data: list[Tensor] | None = None, mapping: QConfigMapping = DEFAULT) -> set[str]:
    """The kinds of cause that an even layer has."""
    return {kind for kind, _ in found(linear(), mapping, data)}
