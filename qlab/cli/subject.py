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

from qlab.errors import ArgumentError, DTypeError, QlabError, UnknownNameError

#: Calibration images of a sample model where none are asked for, trained and untrained.
IMAGES = {True: 256, False: 4}
_FILES = (".pt2", ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx")


class OwnCodeError(QlabError, RuntimeError):
    """A person's own factory or loader, or the module it is in, failed."""


@dataclass(frozen=True)
class Subject:
    """A float model and its data, as `qlab.Lab` takes them.

    Attributes:
        name: What it was called on the command line.
        model: In eval mode.
        example_inputs: Inputs of one call, a batch of one sample.
        calibration: Batches.
        evaluation: Batches of (inputs, labels); None where the calibration data serves.
    """

    name: str
    model: nn.Module
    example_inputs: tuple[Any, ...]
    calibration: Any
    evaluation: Any | None


def load_subject(model: str, data: str | None = None, samples: int | None = None) -> Subject:
    """Finds a model and its data.

    Args:
        model: The name of a sample model, or ``package.module:factory``, a callable without
            arguments that returns a float ``nn.Module``. The module is imported, which runs it.
        data: ``package.module:loader``, a callable that returns batches as `Lab` takes them, or
            ``{"calibration": batches, "evaluation": batches}``. A sample model brings its own.
        samples: At most so many calibration samples; if not given, all, and of a sample model 256
            (4 where it is large and untrained).

    Raises:
        UnknownNameError: No sample model has this name.
        ArgumentError: A factory without data, or a file, which is not read yet.
        DTypeError: The factory returned no module.
        OwnCodeError: It could not be imported, or raised an error.
    """
    if samples is not None and samples < 1:
        raise ArgumentError("Calibration needs samples", expected="1 or more", received=samples)
    if ":" in model:
        return _own(model, data, samples)
    if model.endswith(_FILES) or "/" in model:
        raise ArgumentError(
            "qlab reads no model files from the command line yet",
            expected="a sample model's name or package.module:factory",
            received=model,
            fix="Write a function that returns the model, and name it package.module:function.",
        )
    return _sample(model, data, samples)


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


def _sample(name: str, data: str | None, samples: int | None) -> Subject:
    models = sample_models()
    if name not in models.names():
        error = UnknownNameError.of("model", name, models.names())
        raise UnknownNameError(
            error.problem,
            expected=f"a sample model ({', '.join(models.names())}) or package.module:factory",
            fix=error.fix,
        )
    sample = models.load(name)
    if data is not None:
        calibration, evaluation = _data(data, samples)
    else:
        try:
            calibration = sample.calibration(samples or IMAGES[sample.trained])
        except ValueError as error:
            raise ArgumentError(f"{name} has fewer images: {error}", received=samples) from error
        evaluation = sample.evaluation() or None
    return Subject(name, sample.model, sample.example_inputs, calibration, evaluation)


def _own(factory: str, data: str | None, samples: int | None) -> Subject:
    if data is None:
        raise ArgumentError(
            f"The model {factory!r} comes without data",
            expected="--data package.module:loader",
            fix="The loader returns batches to calibrate with, a list or a DataLoader.",
        )
    made = _called(factory)
    if not isinstance(made, nn.Module):
        raise DTypeError(
            f"{factory} returned no model",
            expected="a torch.nn.Module",
            received=type(made).__name__,
        )
    calibration, evaluation = _data(data, samples)
    model = made.eval()
    return Subject(factory, model, _example(model, calibration, data), calibration, evaluation)


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


def limited(batches: Iterable[Any], samples: int) -> Iterator[Any]:
    """The first samples of batches in any form that `load_subject` takes, batched as they come."""
    left = samples
    for batch in batches:
        size = min(_length(batch), left)
        yield _head(batch, size)
        left -= size
        if left <= 0:
            return


def _length(batch: Any) -> int:
    parts: Any = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(parts, Tensor):
        parts = next((x for x in parts if isinstance(x, Tensor) and x.ndim), ())
    return len(parts)


def _head(value: Any, size: int) -> Any:
    """The first ``size`` samples of a batch; what is not per sample stays."""
    if isinstance(value, Tensor):
        return value[:size] if value.ndim else value
    if isinstance(value, Mapping):
        return {name: _head(part, size) for name, part in value.items()}
    if isinstance(value, tuple | list):
        if all(isinstance(x, int) for x in value):  # labels as a plain list
            return value[:size]
        return type(value)(_head(part, size) for part in value)
    return value


def _example(model: nn.Module, batches: Iterable[Any], loader: str) -> tuple[Any, ...]:
    """Inputs of one call: one sample of the first batch, as many inputs as forward requires."""
    first = next(iter(batches), None)
    if first is None:
        raise ArgumentError(f"{loader} returned no batches", expected="at least one")
    one = _head(first, 1)
    if isinstance(one, Tensor):
        return (one,)
    parameters = inspect.signature(model.forward).parameters.values()
    if isinstance(one, Mapping):
        return tuple(one[p.name] for p in parameters if p.name in one)
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
