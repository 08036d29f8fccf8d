"""How each golden case is run with qlab, and what it is in exact arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qlab import ops
from qlab.qparams import QParams
from tests.golden import Case

NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm")
OWN_OUTPUT = ("sigmoid", "tanh", "hardsigmoid", "hardswish", "gelu", "elu", "leaky_relu", "softmax")


def run(case: Case) -> Tensor:
    """The codes that qlab computes for a case."""
    function = getattr(ops, case.op)
    if case.op == "quantize":
        return function(case.tensors["x"], case.qparams["y"])
    if case.op == "linear" or case.op.startswith("conv"):
        return function(*weighted_arguments(case), **case.kwargs)
    if case.op in NORMS:
        return function(**_norm_arguments(case))
    if case.op in ("add", "mul", "matmul"):
        return function(*case.pair("a"), *case.pair("b"), case.qparams["y"], **case.kwargs)
    if case.op == "cat":
        codes, qparams = zip(*_parts(case), strict=True)
        return ops.cat(codes, qparams, case.kwargs["dim"], case.qparams["y"])
    if case.op in OWN_OUTPUT:
        return function(*case.pair("x"), case.qparams["y"], **case.kwargs)
    return function(*case.pair("x"), **case.kwargs)


def weighted_arguments(case: Case) -> tuple:
    """Positional arguments of linear and convolution."""
    bias, y_qparams = case.tensors.get("bias"), case.qparams["y"]
    return (*case.pair("x"), *case.pair("weight"), bias, y_qparams)


def _norm_arguments(case: Case) -> dict:
    names = ("weight", "bias", "mean", "var") if case.op == "batch_norm" else ("weight", "bias")
    floats = {name: case.tensors.get(name) for name in names}
    x, x_qparams = case.pair("x")
    own = {"x": x, "x_qparams": x_qparams, "y_qparams": case.qparams["y"]}
    return {**own, **floats, **case.kwargs}


def _parts(case: Case) -> list[tuple[Tensor, QParams]]:
    return [case.pair(name) for name in case.tensors if name.startswith("part")]


def real(codes: Tensor, qparams: QParams) -> Tensor:
    """Exact real numbers of codes, in float64."""
    expand = qparams.granularity.expand
    zero_point = expand(qparams.zero_point, codes.shape).double()
    return (codes.double() - zero_point) * expand(qparams.scale, codes.shape).double()


def exact(case: Case) -> Tensor:
    """The result before quantization, in float64 and real units."""
    kwargs = dict(case.kwargs)
    relu = kwargs.pop("relu", False)
    result = _exact(case, kwargs)
    return result.relu() if relu else result


def _exact(case: Case, kwargs: dict) -> Tensor:
    if case.op == "quantize":
        return case.tensors["x"].double()
    if case.op in ("add", "mul", "matmul"):
        return getattr(torch, case.op)(real(*case.pair("a")), real(*case.pair("b")))
    if case.op == "cat":
        return torch.cat([real(*part) for part in _parts(case)], **kwargs)
    x = real(*case.pair("x"))
    if case.op == "linear" or case.op.startswith("conv"):
        bias = case.tensors.get("bias")
        bias = None if bias is None else bias.double()
        return getattr(F, case.op)(x, real(*case.pair("weight")), bias, **kwargs)
    if case.op in NORMS:
        return _exact_norm(case, x, kwargs)
    if case.op in ("add_scalar", "mul_scalar"):
        return x + kwargs["scalar"] if case.op == "add_scalar" else x * kwargs["scalar"]
    return getattr(F, case.op)(x, **kwargs)


def _exact_norm(case: Case, x: Tensor, kwargs: dict) -> Tensor:
    floats = {
        name: value.double() for name, value in case.tensors.items() if name not in ("x", "y")
    }
    if case.op == "batch_norm":
        mean, var = floats.pop("mean"), floats.pop("var")
        return F.batch_norm(x, mean, var, **floats, **kwargs)
    if case.op == "instance_norm":
        return F.instance_norm(x, **floats, **kwargs)
    return getattr(F, case.op)(x, **floats, **kwargs)


def steps(case: Case) -> Tensor:
    """`exact` in units of the output's scale, without the zero point."""
    qparams = case.qparams["y"]
    return exact(case) / qparams.granularity.expand(qparams.scale, case.tensors["y"].shape).double()


def near_tie(case: Case, within: float = 1e-4) -> Tensor:
    """Where the exact result lies in the middle between two codes."""
    fraction = steps(case).remainder(1)
    return (fraction - 0.5).abs() <= within
