"""Equalization and bias correction of modules that a person names, without a graph.

They go with eager mode, where nothing tells which layers follow one another. With a graph,
`Lab.repair_with` finds the layers itself and refuses where the mathematics does not hold.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qlab.algorithms.parts import (
    Named,
    channel_range,
    converged,
    expand_groups_in_paired_modules_list,
    get_param,
    layer_of,
    process_paired_modules_list_to_name,
)
from qlab.algorithms.scale_groups import (
    input_rows,
    output_rows,
    scale_along,
    scale_input,
    scale_output,
)
from qlab.algorithms.targets import channel_means
from qlab.errors import ArgumentError, ShapeError, UnknownNameError
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic.fold import core

_ROUNDS = 1000


def cross_layer_equalization(
    module1: nn.Module,
    module2: nn.Module,
    output_axis: int | None = None,
    input_axis: int | None = None,
) -> None:
    """Gives each channel the same range of weights where one layer writes and the next reads it.

    With r and r' the difference of a channel's largest and smallest weight in the two,
    ``s = sqrt(r / r')``: weights and bias of the first are divided by s, weights of the second
    multiplied. A channel without range in one of them stays as it is. Both are changed in place.

    Args:
        module1: A linear layer or convolution, fused with an activation or not.
        module2: The one that reads its output, with only positively homogeneous functions between.
        output_axis: Axis of the first weight along which its output channels lie; by default the
            layer's own, which is 0, or 1 of a transposed convolution.
        input_axis: Axis of the second weight along which the channels lie that it reads; by
            default the layer's own, groups included. 0 fits a depthwise convolution, too.

    Raises:
        UnsupportedError: One is neither a linear layer nor a convolution.
        ShapeError: The second does not read as many channels as the first writes, or a weight has
            no such axis, or the first has a bias for other channels.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.
    """
    first, second = layer_of(module1), layer_of(module2)
    one = channel_range(output_rows(first)) if output_axis is None else _along(first, output_axis)
    other = channel_range(input_rows(second)) if input_axis is None else _along(second, input_axis)
    if len(one) != len(other):
        raise ShapeError(
            "Equalization: the second layer does not read what the first writes",
            expected=f"{len(one)} input channels",
            received=f"{len(other)}",
        )
    if first.bias is not None and len(first.bias) != len(one):
        raise ShapeError(
            "Equalization: the first layer's bias is not of these channels",
            expected=f"output_axis of the {len(first.bias)} channels that it writes",
            received=f"output_axis={output_axis}, {len(one)} channels",
        )
    alive = (one > 0) & (other > 0)
    factors = torch.where(alive, (one / other.clamp_min(1e-30)).sqrt(), torch.ones_like(one))
    scale_output(first, 1.0 / factors, output_axis)
    if input_axis is None:
        scale_input(second, factors)
    else:
        scale_along(second, factors, input_axis)


def _along(layer: Any, axis: int) -> Tensor:
    """Ranges of a weight's channels along an axis that the caller names."""
    return channel_range(layer.weight.detach(), axis)


def equalize(
    model: nn.Module,
    paired_modules_list: Sequence[Sequence[Named]],
    threshold: float = 1e-4,
    inplace: bool = True,
) -> nn.Module:
    """Equalizes layers of a float model that follow one another, until nothing moves.

    Args:
        model: The float model.
        paired_modules_list: Two or more layers each, as modules or names, that follow one another
            with only ReLU or another positively homogeneous function between them.
        threshold: Done where a round changes weights by less than this norm, summed over layers.
        inplace: Whether the model itself is changed, or a copy of it.

    Returns:
        The equalized model.

    Raises:
        ArgumentError: A single layer in a list, a module that is not the model's, or no end
            after 1,000 rounds.
        UnknownNameError: No such layer; lists those that exist.
        UnsupportedError: A layer that is neither linear nor a convolution.
        ShapeError: Layers that do not follow one another.
    """
    groups = process_paired_modules_list_to_name(model, paired_modules_list)
    pairs = expand_groups_in_paired_modules_list(groups)
    made = model if inplace else copy.deepcopy(model)
    layers = {name: layer_of(made.get_submodule(name)) for group in groups for name in group}
    for _ in range(_ROUNDS):
        before = {name: copy.deepcopy(layer) for name, layer in layers.items()}
        for first, second in pairs:
            cross_layer_equalization(made.get_submodule(first), made.get_submodule(second))
        if converged(layers, before, threshold):
            return made
    raise ArgumentError(
        "Equalization found no end",
        expected=f"weights that move by less than {threshold:g} after {_ROUNDS} rounds",
        received="weights that still move",
        fix="Choose a larger threshold, or look for layers listed in a circle.",
    )


def bias_correction(
    float_model: nn.Module,
    quantized_model: nn.Module,
    img_data: Iterable[Sequence[Any]],
    target_modules: Collection[type[nn.Module]] = (nnq.Linear, nnq.Conv2d),
    neval_batches: int | None = None,
) -> None:
    """Takes the mean error of quantized layers back by their biases, in place.

    Layer by layer, in the order of ``named_modules``: the float layer of the same name is given
    what the quantized one reads, and the mean difference of the outputs of each channel, over all
    batches, is taken off the quantized layer's bias. Layers without bias stay as they are.

    Args:
        float_model: The model that was quantized, fused as the quantized one is.
        quantized_model: Its quantized form, whose layers have the same names.
        img_data: Batches whose first entry is the model's input; gone through once per layer.
        target_modules: Which types of layers are corrected.
        neval_batches: How many batches at most.

    Raises:
        ArgumentError: No batches.
        UnknownNameError: The float model has no layer of that name.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2.
    """
    floats = dict(float_model.named_modules())
    for name, module in list(quantized_model.named_modules()):
        if type(module) not in tuple(target_modules) or get_param(module, "bias") is None:
            continue
        if name not in floats:
            raise UnknownNameError.of("layer", name, floats)
        error = _mean_error(floats[name], (quantized_model, module), img_data, neval_batches)
        _shift_bias(module, -error)


def _mean_error(
    layer: nn.Module,
    quantized: tuple[nn.Module, nn.Module],
    data: Iterable[Sequence[Any]],
    most: int | None,
) -> Tensor:
    """Mean over all samples of what a quantized layer gives beyond the float one, (C,)."""
    sums, count = list[Tensor](), 0
    model, module = quantized

    def compare(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal count
        wanted = layer(inputs[0].dequantize())
        difference = output.dequantize() - wanted
        means = channel_means(difference, core(layer))
        samples = difference.numel() // means.numel()
        sums.append(means * samples)
        count += samples

    handle = module.register_forward_hook(compare)
    try:
        with torch.no_grad():
            for done, batch in enumerate(data):
                if done == most:
                    break
                model(batch[0])
    finally:
        handle.remove()
    if not count:
        raise ArgumentError(
            "Bias correction needs data",
            expected="batches that reach every layer, and can be gone through again for the next",
            received="none",
        )
    return torch.stack(sums).sum(0) / count


def _shift_bias(module: Any, shift: Tensor) -> None:
    old = get_param(module, "bias")
    new = (old.detach().double() + shift).to(old.dtype)
    if callable(module.bias):
        module.set_weight_bias(module.weight(), new)
    else:
        module.bias.data = new
