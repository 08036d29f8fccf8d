"""A lifted call computes what the function did, and refuses what has no integer form."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qlab.errors import UnsupportedError
from qlab.registry import lift_call, row_for_function, row_for_method, row_for_module

X = torch.linspace(-3, 7, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6)
ROW = torch.linspace(-2, 2, 4)

CALLS = {
    "linear": (F.linear, (X, torch.randn(5, 6), torch.randn(5)), {}),
    "linear without bias": (F.linear, (X, torch.randn(5, 6)), {}),
    "conv1d": (F.conv1d, (X[0], torch.randn(4, 3, 2)), {"groups": 2}),
    "conv2d": (F.conv2d, (X, torch.randn(8, 2, 3, 3), torch.randn(8), 2, 1, 1, 2), {}),
    "conv2d same": (F.conv2d, (X, torch.randn(8, 4, 3, 3)), {"padding": "same"}),
    "conv3d": (F.conv3d, (X, torch.randn(3, 2, 2, 3, 3)), {}),
    "conv_transpose1d": (F.conv_transpose1d, (X[0], torch.randn(6, 3, 2)), {"groups": 2}),
    "conv_transpose2d": (F.conv_transpose2d, (X, torch.randn(4, 2, 3, 3), ROW, 2, 1, 1, 2), {}),
    "conv_transpose3d": (F.conv_transpose3d, (X, torch.randn(2, 3, 2, 3, 3)), {"dilation": 2}),
    "layer_norm": (F.layer_norm, (X, (6,), torch.randn(6), torch.randn(6), 1e-3), {}),
    "layer_norm plain": (F.layer_norm, (X, [6]), {"eps": 1e-3}),
    "group_norm": (F.group_norm, (X, 2, ROW, ROW), {"eps": 1e-3}),
    "add": (operator.add, (X, ROW.reshape(4, 1, 1)), {}),
    "add number": (torch.add, (X, 2), {"alpha": 3}),
    "number + x": (operator.add, (2.5, X), {}),
    "sub": (operator.sub, (X, 1.5), {}),
    "mul": (torch.mul, (X, X), {}),
    "number * x": (operator.mul, (3, X), {}),
    "div": (operator.truediv, (X, 4), {}),
    "matmul": (torch.matmul, (X, X.transpose(-2, -1)), {}),
    "cat": (torch.cat, ([X, X], 1), {}),
    "cat of a tuple": (torch.cat, ((X, X),), {"dim": -1}),
    "mean": (torch.mean, (X, (2, 3)), {"keepdim": True}),
    "mean of all": (torch.mean, (X,), {}),
    "prelu": (F.prelu, (X, ROW), {}),
    "relu": (F.relu, (X,), {"inplace": False}),
    "relu6": (F.relu6, (X,), {}),
    "hardtanh": (F.hardtanh, (X, -2.0, 3.0), {}),
    "clamp": (torch.clamp, (X, 0, 6), {}),
    "clamp below": (torch.clamp, (X,), {"min": 0}),
    "clamp above": (torch.clamp, (X,), {"max": 1.5}),
    "sigmoid": (torch.sigmoid, (X,), {}),
    "tanh": (torch.tanh, (X,), {}),
    "hardsigmoid": (F.hardsigmoid, (X,), {}),
    "hardswish": (F.hardswish, (X,), {}),
    "gelu": (F.gelu, (X,), {"approximate": "tanh"}),
    "elu": (F.elu, (X, 0.7), {}),
    "leaky_relu": (F.leaky_relu, (X, 0.2), {}),
    "softmax": (torch.softmax, (X, -1), {}),
    "functional softmax": (F.softmax, (X,), {"dim": 1, "_stacklevel": 3, "dtype": None}),
    "dropout": (F.dropout, (X,), {"p": 0.4, "training": False}),
    "max_pool2d": (F.max_pool2d, (X, 3, 2, 1), {"ceil_mode": True, "return_indices": False}),
    "max_pool1d": (F.max_pool1d, (X[0], 2), {}),
    "max_pool3d": (F.max_pool3d, (X, 2), {}),
    "avg_pool1d": (F.avg_pool1d, (X[0], 2), {}),
    "avg_pool2d": (F.avg_pool2d, (X, 3, 2, 1, False, False), {}),
    "avg_pool3d": (F.avg_pool3d, (X, 2), {}),
    "adaptive_avg_pool1d": (F.adaptive_avg_pool1d, (X[0], 3), {}),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d, (X, (1, 2)), {}),
    "adaptive_avg_pool3d": (F.adaptive_avg_pool3d, (X, 2), {}),
    "interpolate": (F.interpolate, (X,), {"scale_factor": 2.0, "mode": "bilinear"}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_lifted_call_computes_the_same(name: str):
    function, args, kwargs = CALLS[name]
    row = row_for_function(function)
    assert row is not None
    module, inputs = lift_call(row, args, kwargs)
    assert not module.training
    assert row_for_module(type(module)) is not None
    torch.testing.assert_close(module(*inputs), function(*args, **kwargs))


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("add", (X,), {}),
        ("relu", (), {}),
        ("softmax", (-1,), {}),
        ("clamp", (0.0,), {}),
        ("mean", (-1,), {}),
        ("mean", ((1, 2),), {"keepdim": True}),
        ("div", (2,), {}),
    ],
)
def test_methods_lift_as_their_functions(method: str, args: tuple, kwargs: dict):
    row = row_for_method(method)
    assert row is not None
    module, inputs = lift_call(row, (X, *args), kwargs)
    torch.testing.assert_close(module(*inputs), getattr(X, method)(*args, **kwargs))


def test_tensors_pass_through_untouched():
    node = object()
    module, inputs = lift_call(row_for_function(torch.cat), ([node, X],), {})
    assert inputs == (node, X)
    row = row_for_function(F.linear)
    weight = torch.randn(3, 6)
    module, inputs = lift_call(row, (node, "weight node"), {}, constant=lambda _: weight)
    assert inputs == (node,) and isinstance(module, nn.Linear)
    assert module.weight.data_ptr() == weight.data_ptr()


REFUSED = {
    "alpha": (torch.add, (X, X), {"alpha": 2}, "alpha scales the second tensor"),
    "two tensors": (operator.sub, (X, X), {}, "only a number can be subtracted"),
    "by a tensor": (operator.truediv, (X, X), {}, "only a number other than 0"),
    "by zero": (operator.truediv, (X, 0), {}, "only a number other than 0"),
    "rounding": (torch.div, (X, 2), {"rounding_mode": "floor"}, "it rounds"),
    "dtype": (torch.mean, (X,), {"dtype": torch.float64}, "its own dtype"),
    "softmax dtype": (torch.softmax, (X, 1), {"dtype": torch.float64}, "its own dtype"),
    "tensor bounds": (torch.clamp, (X, X), {}, "bounds must be numbers"),
    "training": (F.dropout, (X,), {}, "drops elements in training"),
    "indices": (F.max_pool2d, (X, 2), {"return_indices": True}, "it returns indices"),
    "antialias": (
        F.interpolate,
        (X, 3),
        {"mode": "bilinear", "antialias": True},
        "it filters",
    ),
    "no channels": (F.group_norm, (X, 2), {}, "number of channels"),
    "unknown argument": (torch.add, (X, X), {"out": X}, "no integer module.*'out'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forms_without_an_integer_module_say_why(name: str):
    function, args, kwargs, message = REFUSED[name]
    with pytest.raises(UnsupportedError, match=message):
        lift_call(row_for_function(function), args, kwargs)


def test_rows_that_move_elements_are_not_lifted():
    with pytest.raises(UnsupportedError, match="flatten cannot be lifted"):
        lift_call(row_for_function(torch.flatten), (X,), {})
