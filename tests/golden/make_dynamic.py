"""Golden vectors of dynamically quantized modules, made with torch 2.13's own (deprecated) ones.

Run by hand: ``python -m tests.golden.make_dynamic``. The suite reads the committed result only.
Integer weights run on the reference's ``onednn`` engine, float16 weights, which it does not have,
on ``fbgemm``.
"""

import json
import warnings
from pathlib import Path

import torch
import torch.ao.nn.intrinsic as nni
import torch.ao.nn.intrinsic.quantized.dynamic as nniqd
import torch.ao.nn.quantized.dynamic as nnqd
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.ao import quantization
from torch.nn.utils.rnn import pack_padded_sequence

from tests.golden.dynamic_cases import CASES, Case

TARGET = Path(__file__).with_name("dynamic.safetensors")


def floating(case: Case) -> nn.Module:
    """The float module of a case; weights large enough for gates to saturate now and then."""
    if case.kind == "LinearReLU":
        return nni.LinearReLU(nn.Linear(*case.args, **case.kwargs), nn.ReLU())
    module = getattr(nn, case.kind)(*case.args, **case.kwargs)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)
    return module


def outputs(result: object) -> list[Tensor]:
    """The tensors of a result, however nested, in order."""
    if isinstance(result, nn.utils.rnn.PackedSequence):
        return [result.data]
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in outputs(part)]


def vectors(case: Case) -> dict[str, Tensor]:
    torch.manual_seed(sum(map(ord, case.name)))
    module = floating(case).eval()
    tensors = {f"state.{name}": value.detach().clone() for name, value in module.named_parameters()}
    x = case.scale * torch.randn(case.shape) + case.shift
    tensors["x"] = x
    given = (
        pack_padded_sequence(x, list(case.lengths), case.kwargs.get("batch_first", False), False)
        if case.lengths
        else x
    )
    hidden = []
    if case.hidden:
        hidden = [torch.randn(case.hidden) for _ in range(2 if "LSTM" in case.kind else 1)]
        tensors |= {f"h{index}": value for index, value in enumerate(hidden)}
    for part in module.modules():
        part.qconfig = getattr(quantization, case.qconfig)
    half = case.qconfig.startswith("float16")
    torch.backends.quantized.engine = "fbgemm" if half else "onednn"
    kinds = {"LinearReLU": nniqd.LinearReLU}
    quantized = kinds.get(case.kind) or getattr(nnqd, case.kind)
    state = (tuple(hidden) if len(hidden) > 1 else hidden[0],) if hidden else ()
    result = quantized.from_float(module)(given, *state)
    return tensors | {f"y{index}": value for index, value in enumerate(outputs(result))}


def main() -> None:
    warnings.simplefilter("ignore")
    named = {
        f"{case.name}/{key}": value.contiguous()
        for case in CASES
        for key, value in vectors(case).items()
    }
    save_file(named, TARGET, metadata={"made_with": json.dumps({"torch": torch.__version__})})


if __name__ == "__main__":
    main()
