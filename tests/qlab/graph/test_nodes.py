"""What is read off nodes, and how generated code reaches modules."""

import copy
import pickle

import torch

from tests.qlab.graph.test_annotate import EVERYWHERE, Net, X
from tests.qlab.graph.test_convert import converted_of


def test_generated_code_finds_modules_directly_and_sees_what_replaces_them():
    _, converted = converted_of(Net(), EVERYWHERE, X)
    assert "self._modules['left']._modules['0'](" in converted.code
    before = converted(X)
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(twin(X), before)
    head = copy.deepcopy(converted.get_submodule("head"))
    head.get_buffer("weight_codes").neg_()
    converted.set_submodule("head", head)
    assert not torch.equal(converted(X), before)
    seen = []
    converted.get_submodule("left.0").register_forward_hook(lambda *call: seen.append(call))
    converted(X)
    assert len(seen) == 1
