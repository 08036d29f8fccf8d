"""Whether data is what a model takes, and made-up data where there is none."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor, nn

from qlab.errors import ArgumentError, ShapeError, UnsupportedError
from qlab.io.uploads.arrays import UploadedData
from qlab.io.uploads.models import UploadedInput, UploadedModel

_MOST_PERMUTED = 4


def matched(data: UploadedData, inputs: Sequence[UploadedInput]) -> UploadedData:
    """The data under the names, in the order and in the dtypes that a model takes.

    Arrays that are named as the inputs are theirs, and others are left out. Where no name fits and
    there are as many arrays as inputs, shapes and dtypes tell which is which, if only one way fits.
    Floats become floats of the input's width, integers integers or floats; 0 and 1 become a mask.

    Args:
        data: As it was read.
        inputs: What the model takes.

    Raises:
        ArgumentError: An input without data, or data that could belong to several.
        ShapeError: Other sizes than the model takes, or fewer samples than it takes at once.
        UnsupportedError: Numbers of another kind, or beyond the table that the model looks up.
    """
    arrays, labels, label = dict(data.inputs), data.labels, data.label
    names = [each.name for each in inputs]
    if label in names and labels is not None:  # an input that is called as labels often are
        arrays, labels, label = arrays | {label: labels}, None, ""
    if not set(names) <= set(arrays):
        arrays = _by_fit(arrays, inputs)
    for each in inputs:
        problem = _problem(arrays[each.name], each)
        if problem is not None:
            raise problem
    found = {each.name: _cast(arrays[each.name], each.dtype) for each in inputs}
    return replace(data, inputs=found, labels=labels, label=label)


def _by_fit(arrays: dict[str, Tensor], inputs: Sequence[UploadedInput]) -> dict[str, Tensor]:
    """Arrays whose names say nothing, by the inputs that they alone fit."""
    if len(arrays) == len(inputs) == 1:
        return {inputs[0].name: next(iter(arrays.values()))}
    ways = []
    if len(arrays) == len(inputs) <= _MOST_PERMUTED:
        ways = [
            order
            for order in permutations(arrays.values())
            if all(_problem(x, each) is None for x, each in zip(order, inputs, strict=True))
        ]
    if len(ways) == 1:
        return {each.name: x for each, x in zip(inputs, ways[0], strict=True)}
    raise ArgumentError(
        "The data does not say which array is which input"
        if ways
        else "The data lacks inputs of the model",
        expected=", ".join(map(str, inputs)),
        received=", ".join(_described(name, x) for name, x in arrays.items()),
        fix="Name the arrays as the model's inputs: numpy.savez(path, "
        + ", ".join(f"{each.name}=…" for each in inputs)
        + ").",
    )


def _described(name: str, x: Tensor) -> str:
    return f"{name} {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def _problem(x: Tensor, wanted: UploadedInput) -> Exception | None:
    """Why an array cannot be an input; None if it can."""
    told = {"expected": str(wanted), "received": _described("an array", x)}
    fixed = zip(x.shape[1:], wanted.shape[1:], strict=False)
    if x.ndim != len(wanted.shape) or any(size not in (None, found) for found, size in fixed):
        return ShapeError(f"The data does not have the shape of the input {wanted.name}", **told)
    if wanted.shape and wanted.shape[0] is not None and len(x) < wanted.shape[0]:
        return ShapeError("The data has fewer samples than the model takes at once", **told)
    whole = not x.dtype.is_floating_point
    if not wanted.dtype.is_floating_point and not whole:
        return UnsupportedError(f"The input {wanted.name} takes whole numbers", **told)
    if wanted.dtype == torch.bool and whole and not bool(((x == 0) | (x == 1)).all()):
        return UnsupportedError(f"The input {wanted.name} takes True and False alone", **told)
    if wanted.rows is not None and not 0 <= int(x.min()) <= int(x.max()) < wanted.rows:
        return UnsupportedError(
            f"The input {wanted.name} has numbers that the model's table lacks",
            expected=f"0 to {wanted.rows - 1}",
            received=f"{int(x.min())} to {int(x.max())}",
        )
    return None


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def made_up(model: UploadedModel, samples: int, seed: int = 0) -> UploadedData:
    """Random inputs for a model without data: they show that it runs, and nothing of real data.

    Normal numbers, rows of the table that integers are looked up in (else zeros), and True or 1 for
    masks, in the shapes that the model's example inputs have.

    Args:
        model: The model.
        samples: How many; a model that takes batches of one size gets whole ones.
        seed: The same one gives the same numbers.

    Raises:
        UnsupportedError: The model takes tensors inside lists or dicts.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = batch_of(model.inputs)
    samples = max(samples, batch or 1)
    found = {}
    for each, example in zip(model.inputs, flat_examples(model), strict=True):
        shape = (samples, *example.shape[1:]) if example.ndim else ()
        if each.dtype.is_floating_point:
            found[each.name] = torch.randn(shape, generator=generator).to(each.dtype)
        elif each.dtype == torch.bool:
            found[each.name] = torch.ones(shape, dtype=torch.bool)
        elif "mask" in each.name:
            found[each.name] = torch.ones(shape, dtype=each.dtype)
        else:
            rows = each.rows or 1
            found[each.name] = torch.randint(rows, shape, generator=generator).to(each.dtype)
    return UploadedData(found)


def flat_examples(model: UploadedModel) -> tuple[Tensor, ...]:
    """A model's example inputs, one tensor for each of its inputs.

    Raises:
        UnsupportedError: They are nested: tensors inside lists or dicts.
    """
    examples = model.example_inputs
    if not all(isinstance(each, Tensor) for each in examples) or len(examples) != len(model.inputs):
        raise UnsupportedError(
            "The model takes tensors inside lists or dicts, which arrays cannot be given to",
            expected="one tensor per argument",
            fix="Export a model whose forward takes its tensors one by one.",
        )
    return tuple(examples)


def inputs_of(model: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[UploadedInput, ...]:
    """What a model takes, as far as its forward's names and inputs of one call tell.

    Any number of samples, and images of any height and width: whether it takes them, a run tells.
    """
    names = inspect.signature(model.forward).parameters
    return tuple(
        UploadedInput(name, (None, *_free(x)), x.dtype)
        for name, x in zip(names, example_inputs, strict=False)
    )


def _free(x: Tensor) -> tuple[int | None, ...]:
    return (x.shape[1], None, None) if x.ndim == 4 else tuple(x.shape[1:])


def batch_of(inputs: Sequence[UploadedInput]) -> int | None:
    """How many samples a model takes at once; None where any number will do."""
    sizes = {each.shape[0] for each in inputs if each.shape}
    fixed = sizes - {None}
    return max(size for size in fixed if size is not None) if fixed else None
