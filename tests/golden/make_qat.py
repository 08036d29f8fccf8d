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

from tests.golden.qat_cases import CASES, Case, Net, build, build_fx, finish, train

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
    prepared = build(quantization, case, state)
    x = case.inputs()
    target = torch.randn(len(x), *plain(x[0]).shape)
    losses = train(prepared, x, target, freeze)
    gradients = {
        f"gradient.{name}": parameter.grad.clone()
        for name, parameter in prepared.named_parameters()
    }
    trained = {f"trained.{key}": value.clone() for key, value in prepared.state_dict().items()}
    prepared.eval()
    with torch.no_grad():
        y_fake, y = prepared(x[0]), finish(quantization, case, prepared)(x[0])
    tensors = {"x": x, "target": target, "losses": losses, "y_fake": y_fake, "y": y}
    if not case.special:
        graph = build_fx(quantization, quantize_fx, case, state)
        tensors["fx_losses"] = train(graph, x, target, freeze)
        graph.eval()
        with torch.no_grad():
            tensors["fx_y_fake"], tensors["fx_y"] = graph(x[0]), quantize_fx.convert_fx(graph)(x[0])
    return {**{f"state.{key}": v for key, v in state.items()}, **gradients, **trained, **tensors}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "onednn"
    kept = load_file(TARGET) if TARGET.exists() else {}
    known = {name.partition("/")[0] for name in kept}
    named = kept | {
        f"{case.name}/{key}": value.contiguous()
        for case in CASES
        if case.name not in known
        for key, value in vectors(case).items()
    }
    save_file(named, TARGET, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
