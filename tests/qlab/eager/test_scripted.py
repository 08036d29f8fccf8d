"""The TorchScript workflow is refused by name, with the way that exists."""

import importlib

import pytest

from qlab import quantization
from qlab.errors import UnsupportedError

FACE = importlib.import_module("qlab.quantization.quantize_jit")


@pytest.mark.parametrize("name", FACE.__all__)
def test_it_names_what_to_use_instead(name):
    with pytest.raises(UnsupportedError, match=f"{name} works on TorchScript.*Use .*(fx|dynamic)"):
        getattr(FACE, name)(object(), qconfig_dict={})
    assert getattr(quantization, name) is getattr(FACE, name)
