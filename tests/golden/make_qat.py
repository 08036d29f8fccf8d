"""Golden vectors of quantization-aware training by torch 2.13's own eager workflow.

Run by hand: ``python -m tests.golden.make_qat``. The suite reads the committed result. Makes the
cases that the file does not have; those that it has stay byte for byte, since the order in which a
machine adds up a gradient shows in its last bit.
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.intrinsic.qat import LinearBn1d, freeze_bn_stats
from torch.ao.quantization import quantize_fx

from tests.golden.qat_cases import CASES, SHARING, Case, Net, build, build_fx, finish, train

TARGET = Path(__file__).with_name("qat.safetensors")


def freeze(module: nn.Module) -> None:
    quantization.disable_observer(module)
    if isinstance(module, LinearBn1d):
        module.freeze_bn_stats()  # the reference's function passes over this class
    freeze_bn_stats(module)


def vectors(case: Case) -> dict[str, Tensor]:
    torch.manual_seed(sum(map(ord, case.name)))
    plain = Net(case.layers(), nn.Identity(), nn.Identity())
    for parameter in plain.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    x = case.inputs()
    with torch.no_grad():
        target = torch.randn(len(x), *plain(x[0]).shape)
    tensors = {f"state.{key}": value for key, value in state.items()}
    tensors |= {"x": x, "target": target}
    if case not in SHARING:
        tensors |= eager(case, state, x, target)
    return tensors if case.special else tensors | graph(case, state, x, target)


def eager(case: Case, state: dict[str, Tensor], x: Tensor, target: Tensor) -> dict[str, Tensor]:
    prepared = build(quantization, case, state)
    losses = train(prepared, x, target, freeze)
    gradients = {
        f"gradient.{name}": parameter.grad.clone()
        for name, parameter in prepared.named_parameters()
    }
    trained = {f"trained.{key}": value.clone() for key, value in prepared.state_dict().items()}
    prepared.eval()
    with torch.no_grad():
        y_fake, y = prepared(x[0]), finish(quantization, case, prepared)(x[0])
    return gradients | trained | {"losses": losses, "y_fake": y_fake, "y": y}


def graph(case: Case, state: dict[str, Tensor], x: Tensor, target: Tensor) -> dict[str, Tensor]:
    prepared = build_fx(quantization, quantize_fx, case, state)
    tensors = {"fx_losses": train(prepared, x, target, freeze)}
    if case in SHARING:
        trained = prepared.state_dict()
        tensors |= {f"fx_trained.{key}": value.clone() for key, value in trained.items()}
    prepared.eval()
    with torch.no_grad():
        tensors |= {"fx_y_fake": prepared(x[0]), "fx_y": quantize_fx.convert_fx(prepared)(x[0])}
    return tensors


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "onednn"
    kept = load_file(TARGET) if TARGET.exists() else {}
    known = {name.partition("/")[0] for name in kept}
    named = kept | {
        f"{case.name}/{key}": value.contiguous()
        for case in CASES + SHARING
        if case.name not in known
        for key, value in vectors(case).items()
    }
    save_file(named, TARGET, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
