"""What a command works on: a model and its data, found by the words of the command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from qlab.cli.batches import head, limited
from qlab.cli.files import (
    MADE_UP,
    FileData,
    data_by_name,
    data_for,
    is_file,
    known_model,
    open_model_file,
)
from qlab.errors import ArgumentError, DTypeError, QlabError, UnknownNameError
from qlab.graph.inputs import Inputs
from qlab.io.uploads import Preprocessing, UploadedModel, batch_of

#: Calibration images of a sample model where none are asked for, trained and untrained.
IMAGES = {True: 256, False: 4}
#: What batches that are dicts call their labels.
LABELS = ("labels", "label")


class OwnCodeError(QlabError, RuntimeError):
    """A person's own factory or loader, or the module it is in, failed."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A float model and its data, as `qlab.Lab` takes them.

    Attributes:
        name: What it was called on the command line.
        model: In eval mode.
        example_inputs: Inputs of one call, a batch of one sample or of as many as the model takes.
        calibration: Batches.
        evaluation: Batches of inputs and labels; None where the calibration data serves.
        about: What the data are, where they come from a file or are made up.
        made_up: Whether the data are random, so that they say nothing of real data.
        batch: How many samples the model takes at once; None for any number.
    """

    name: str
    model: nn.Module
    example_inputs: Inputs
    calibration: Any
    evaluation: Any | None
    about: str = ""
    made_up: bool = False
    batch: int | None = None


def load_subject(
    model: str,
    data: str | None = None,
    samples: int | None = None,
    *,
    architecture: str | None = None,
    images: Preprocessing | Mapping[str, Any] | None = None,
) -> Subject:
    """Finds a model and its data.

    Args:
        model: The name of a sample model; or a file, ``.pt2`` or weights in ``.safetensors``; or
            ``package.module:factory``, a callable without arguments that returns a float
            ``nn.Module``. The module is imported, which runs it; a file runs nothing.
        data: A file: ``.npz``, ``.npy``, ``.safetensors`` or a ``.zip`` of images; or
            ``package.module:loader``, a callable that returns batches as `Lab` takes them, or
            ``{"calibration": batches, "evaluation": batches}``; or ``random``, made-up inputs for
            a model whose file says what it takes. A sample model brings its own.
        samples: At most so many calibration samples; if not given, all, and of a sample model 256
            (4 where it is large and untrained).
        architecture: What weights belong to: a sample model's name, or one of torchvision or timm.
        images: What is done to images of a zip file.

    Raises:
        UnknownNameError: No sample model has this name, or no architecture.
        ArgumentError: A model without data, or a file that is not there.
        DTypeError: The factory returned no module.
        OwnCodeError: It could not be imported, or raised an error.
        QlabError: A file that is refused, or data that do not fit the model.
    """
    if samples is not None and samples < 1:
        raise ArgumentError("Calibration needs samples", expected="1 or more", received=samples)
    if not is_file(model) and architecture is not None:
        raise ArgumentError(
            "The architecture is for weights in safetensors",
            received=model,
            fix="Leave it out, or name a .safetensors file.",
        )
    if is_file(model):
        return _from_file(model, architecture, _Source(data, samples, images))
    if ":" in model:
        return _own(model, _Source(data, samples, images))
    return _sample(model, _Source(data, samples, images))


@dataclass(frozen=True)
class _Source:
    """Where data come from, as `load_subject` was told."""

    name: str | None
    samples: int | None
    images: Preprocessing | Mapping[str, Any] | None

    @property
    def is_file(self) -> bool:
        return self.name is not None and (self.name == MADE_UP or is_file(self.name))

    def of_model(self, model: UploadedModel) -> FileData:
        """A file's data, or made-up ones, for a model that says what it takes."""
        assert self.name is not None
        return data_for(model, self.name, self.images)

    def limit(self, batches: Any, batch: int | None = None) -> Any:
        """As many samples as asked for, in whole batches where the model takes no others."""
        if self.samples is None:
            return batches
        size = batch or 1
        return list(limited(batches, -(-self.samples // size) * size))


def app_folder() -> Path:
    """Where the app lies: inside the package of a wheel, or the checkout.

    Raises:
        ArgumentError: This installation came without it.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "_app", package.parent):
        if (folder / "app.py").is_file() and (folder / "sample_models").is_dir():
            return folder
    raise ArgumentError(
        "This installation of qlab has no app and no sample models",
        expected=f"them in {package / '_app'}",
        fix="Install qlab's wheel, or an editable checkout.",
    )


def sample_models() -> ModuleType:
    """The package of sample models, which a wheel keeps out of the way of other packages."""
    folder = app_folder() / "sample_models"
    loaded = sys.modules.get("sample_models")
    if loaded is not None and Path(str(loaded.__file__)).parent == folder:
        return loaded
    spec = importlib.util.spec_from_file_location(
        "sample_models", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sample_models"] = module
    spec.loader.exec_module(module)
    return module


def _sample(name: str, source: _Source) -> Subject:
    models = sample_models()
    if name not in models.names():
        error = UnknownNameError.of("model", name, models.names())
        raise UnknownNameError(
            error.problem,
            expected=f"a sample model ({', '.join(models.names())}), a .pt2 or .safetensors file, "
            "or package.module:factory",
            fix=error.fix,
        )
    sample = models.load(name)
    if source.is_file:
        return _with_file(name, known_model(sample.model, sample.example_inputs), source)
    if source.name is not None:
        calibration, evaluation = _data(source.name, source.samples)
    else:
        samples = source.samples
        try:
            calibration = sample.calibration(samples or IMAGES[sample.trained])
        except ValueError as error:
            raise ArgumentError(f"{name} has fewer images: {error}", received=samples) from error
        evaluation = sample.evaluation() or None
    return Subject(name, sample.model, sample.example_inputs, calibration, evaluation)


def _from_file(path: str, architecture: str | None, source: _Source) -> Subject:
    """A model file, which is read as data and runs nothing."""
    if source.name is None:
        raise _without_data(path, f"--data {MADE_UP}: made-up inputs, to see that it works")
    if architecture is not None:
        sample_models()  # where it is part of a wheel, it is not on Python's path
    model = open_model_file(path, architecture)
    if source.is_file:
        return _with_file(path, model, source)
    calibration, evaluation = _data(source.name, source.samples)
    batch = batch_of(model.inputs)
    return Subject(path, model.model, model.example_inputs, calibration, evaluation, batch=batch)


def _with_file(name: str, model: UploadedModel, source: _Source) -> Subject:
    found = source.of_model(model)
    calibration = source.limit(found.calibration, found.batch)
    return Subject(
        name,
        model.model,
        model.example_inputs,
        calibration,
        found.evaluation,
        found.about,
        found.made_up,
        found.batch,
    )


def _without_data(model: str, other: str = "") -> ArgumentError:
    ways = "--data with a file (.npz, .npy, .safetensors, .zip of images) or package.module:loader"
    return ArgumentError(
        f"The model {model!r} comes without data",
        expected=ways + (f", or {other}" if other else ""),
        fix="The loader returns batches to calibrate with, a list or a DataLoader.",
    )


def _own(factory: str, source: _Source) -> Subject:
    if source.name is None:
        raise _without_data(factory)
    made = _called(factory)
    if not isinstance(made, nn.Module):
        raise DTypeError(
            f"{factory} returned no model",
            expected="a torch.nn.Module",
            received=type(made).__name__,
        )
    model = made.eval()
    if source.is_file:
        found = data_by_name(model, source.name, source.images)
        calibration, evaluation = source.limit(found.calibration), found.evaluation
        example = _example(model, calibration, source.name)
        return Subject(factory, model, example, calibration, evaluation, found.about)
    calibration, evaluation = _data(source.name, source.samples)
    example = _example(model, calibration, source.name)
    return Subject(factory, model, example, calibration, evaluation)


def _data(loader: str, samples: int | None) -> tuple[Any, Any | None]:
    """Calibration and evaluation batches that a loader returned."""
    made, evaluation = _called(loader), None
    if isinstance(made, Mapping):
        if "calibration" not in made:
            raise ArgumentError(
                f"{loader} returned no calibration data",
                expected='batches, or a dict with "calibration" and perhaps "evaluation"',
                received=", ".join(map(str, made)) or "an empty dict",
            )
        made, evaluation = made["calibration"], made.get("evaluation")
    if isinstance(made, Tensor):
        made = [made]
    if not isinstance(made, Iterable):
        raise DTypeError(
            f"{loader} returned no batches",
            expected="a tensor, a list of batches or a DataLoader",
            received=type(made).__name__,
        )
    if samples is not None:
        made = list(limited(made, samples))
    return (list(made) if isinstance(made, Iterator) else made), evaluation


def _example(model: nn.Module, batches: Iterable[Any], loader: str) -> Inputs:
    """Inputs of one call: one sample of the first batch, as many inputs as forward requires."""
    first = next(iter(batches), None)
    if first is None:
        raise ArgumentError(f"{loader} returned no batches", expected="at least one")
    one = head(first, 1)
    if isinstance(one, Tensor):
        return (one,)
    parameters = inspect.signature(model.forward).parameters.values()
    if isinstance(one, Mapping):
        # A forward that may be given labels, to compute a loss of them, works without.
        labels = {p.name for p in parameters if p.name in LABELS and p.default is not p.empty}
        taken = [p.name for p in parameters if p.name in one and p.name not in labels]
        return {name: one[name] for name in taken}
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in places and p.default is p.empty]
    return tuple(one[: max(1, len(required))])


def _called(name: str) -> Any:
    """What ``package.module:function`` returns; a module that is a model already counts as it."""
    found = _found(name)
    if isinstance(found, nn.Module) or not isinstance(found, Callable):
        return found
    try:
        return found()
    except QlabError:
        raise
    except Exception as error:
        raise OwnCodeError(
            f"{name} raised {type(error).__name__}: {error}",
            fix="`qlab --debug` shows where.",
        ) from error


def _found(name: str) -> Any:
    path, _, attribute = name.partition(":")
    if not path or not attribute:
        raise ArgumentError(
            "Not the name of a function", expected="package.module:function", received=name
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does: a console script leaves it out
    try:
        found: Any = importlib.import_module(path)
    except Exception as error:
        raise OwnCodeError(
            f"The module {path!r} cannot be imported: {type(error).__name__}: {error}",
            fix="It is looked for in this folder and where Python finds packages; "
            "`qlab --debug` shows more.",
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if not n.startswith("_")]
            raise UnknownNameError.of(f"name in {path}", part, known[:30])
        found = getattr(found, part)
    return found
