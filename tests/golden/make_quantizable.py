"""Golden vectors of LSTM and attention through torch 2.13's own prepare and convert.

Run by hand: ``python -m tests.golden.make_quantizable``. The suite reads the committed result.
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.ao import quantization

from tests.golden.quantizable_cases import CASES, Case, Wrapped

TARGET = Path(__file__).with_name("quantizable.safetensors")


def vectors(case: Case) -> dict[str, Tensor]:
    torch.manual_seed(sum(map(ord, case.name)))
    module = getattr(nn, case.kind)(*case.args, **case.kwargs).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tensors = {f"state.{name}": value.detach().clone() for name, value in module.named_parameters()}
    model = Wrapped(module, quantization.QuantStub(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.QConfig(
        quantization.MinMaxObserver, quantization.default_weight_observer
    )
    calibration, x = torch.randn(4, *case.shape), torch.randn(case.shape)
    prepared = quantization.prepare(model)
    with torch.no_grad():
        for batch in calibration:
            prepared(batch)
        result = quantization.convert(prepared)(x)
    outputs = {f"y{index}": value for index, value in enumerate(result)}
    return {**tensors, "calibration": calibration, "x": x, **outputs}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "onednn"
    named = {
        f"{case.name}/{key}": value.contiguous()
        for case in CASES
        for key, value in vectors(case).items()
    }
    save_file(named, TARGET, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
