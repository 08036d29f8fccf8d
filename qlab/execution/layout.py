"""A program whose 2-d convolutions run in the memory order that the CPU's kernels prefer."""

from __future__ import annotations

import copy
import operator
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from qlab.execution.program import Instruction, Program, Read
from qlab.nn.functions import Add, Cat, Mul
from qlab.nn.intrinsic.fused import FusedModule

# What these compute of an element does not depend on where in memory it lies.
_MODULES = {
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.SiLU,
    nn.GELU,
    nn.ELU,
    nn.Sigmoid,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Dropout,
    nn.Identity,
    Add,
    Mul,
    Cat,
}
# What these compute may overwrite what they are given; their gradient needs only the result.
_OVERWRITING = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)
# What these return is new memory, which nothing else holds.
_ANEW = (nn.Conv2d, nn.Linear, Add)
_FUNCTIONS = {
    operator.add,
    operator.mul,
    torch.add,
    torch.mul,
    torch.cat,
    torch.relu,
    torch.flatten,
    functional.relu,
    functional.relu6,
    functional.adaptive_avg_pool2d,
}


def channels_last(program: Program) -> Program:
    """The same program with the weights of 2-d convolutions in channels-last order.

    Their outputs then are in that order too, and so are those of the elementwise layers, poolings
    and additions behind them, so that most convolutions of the CPU need not reorder their input
    and output. A tensor that any other instruction reads is brought into the usual order, since
    that may ask for strides. Sums are taken in another order: values are those of the program
    within the rounding of float32. Holds one more copy of these weights.

    Activations fused with what they follow overwrite its result, which nobody else sees: fresh
    memory for a large tensor costs more than filling it.

    Returns:
        The program itself where nothing would change: no such layer, or not on the CPU.
    """
    faster = {i.name: f for i in program.instructions if (f := _faster(i)) is not None}
    if not faster:
        return program
    strict = {name for i in program.instructions if not _indifferent(i) for name in i.reads}
    found: list[Instruction] = []
    ordered: set[str] = set()  # values that may lie in channels-last order
    for instruction in program.instructions:
        name, made = instruction.name, faster.get(instruction.name, instruction)
        made = _overwriting(made)
        if _indifferent(instruction) and (
            name in faster or not ordered.isdisjoint(instruction.reads)
        ):
            if name in strict:
                found += _reordered(made)
                continue
            ordered.add(name)
        found.append(made)
    return Program(tuple(found))


def _reordered(made: Instruction) -> tuple[Instruction, Instruction]:
    """An instruction under another name, and its value in the usual order under its own."""
    inner = f"{made.name}, channels last"
    usual = Instruction(
        made.name, "call_method", "contiguous", (Read(inner),), {}, (inner,), made.meta
    )
    return replace(made, name=inner), usual


def _indifferent(instruction: Instruction) -> bool:
    """Whether an instruction's values do not depend on its inputs' order in memory."""
    if instruction.op == "call_module":
        module = instruction.target
        parts = module if isinstance(module, FusedModule) else (module,)
        return all(type(part) in _MODULES for part in parts)
    return instruction.op == "call_function" and instruction.target in _FUNCTIONS


def _faster(instruction: Instruction) -> Instruction | None:
    """A convolution with its weight in channels-last order; None for all else."""
    if instruction.op != "call_module" or not _indifferent(instruction):
        return None
    module = instruction.target
    if not isinstance(module, FusedModule):
        layer = _with_ordered_weight(module)
    elif (first := _with_ordered_weight(module[0])) is None:
        layer = None
    else:
        layer = copy.copy(module)
        layer.__dict__["_modules"] = {**module._modules, "0": first}
    return None if layer is None else replace(instruction, target=layer)


def _overwriting(instruction: Instruction) -> Instruction:
    """A fused layer whose activations work in place, as far as that changes nothing outside."""
    module = instruction.target
    if not isinstance(module, FusedModule) or type(module[0]) not in _ANEW:
        return instruction
    parts = dict(module._modules)
    for name, part in list(parts.items())[1:]:
        if type(part) not in _OVERWRITING:
            break
        parts[name] = copy.copy(part)
        parts[name].__dict__["inplace"] = True
    layer = copy.copy(module)
    layer.__dict__["_modules"] = parts
    return replace(instruction, target=layer)


def _with_ordered_weight(module: nn.Module) -> nn.Module | None:
    if type(module) is not nn.Conv2d or not torch.backends.mkldnn.is_available():
        return None
    weight = module._parameters.get("weight")
    if weight is None or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    ordered = weight.detach().contiguous(memory_format=torch.channels_last)
    copied = copy.copy(module)
    parameters = {**module._parameters, "weight": nn.Parameter(ordered, requires_grad=False)}
    copied.__dict__["_parameters"] = parameters
    return copied
