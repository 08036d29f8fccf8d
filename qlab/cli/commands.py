"""The commands and their options."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from qlab import presets
from qlab.cli import console
from qlab.cli.explore import DATA, MODEL, OPTIONS, serve, server_command
from qlab.cli.gates import METRICS, Gate, check_gates, parse_gate
from qlab.cli.subject import load_subject, sample_models
from qlab.cli.work import (
    Work,
    analysis,
    check_words,
    compared_runs,
    show_analysis,
    show_comparison,
)
from qlab.errors import QlabError
from qlab.io.replay import Origin

#: Exit codes.
PASSED, MISSED, FAILED, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """
\b
Exit codes:
  0    done, and every threshold is met
  1    a threshold is not met
  2    wrong usage, or an error; the message is on stderr
  130  interrupted
"""
_MODEL = """
\b
MODEL is one of
  a file         model.pt2, or weights.safetensors with --architecture NAME
  your own code  package.module:factory, a function that returns a torch.nn.Module
  a name         of a sample model, which brings its data (see `qlab models`)

\b
DATA is one of
  a file         .npz, .npy or .safetensors with arrays, or a .zip of images
  your own code  package.module:loader, a function that returns batches
  random         made-up inputs: whether it works, not how well

Arrays are named as the model's inputs, and whole numbers called labels are labels. Folders of
images are their classes. Files are read as data and run nothing; pickles are refused.
"""
_METRICS = "\b\nMetrics of thresholds:\n" + "\n".join(
    f"  {name:<16} {words}" for name, words in METRICS.items()
)

_ABOUT = f"{_MODEL}\n{_METRICS}"


class _Commands(click.Group):
    """Lists the commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show where in the code an error came from.")
@click.version_option(package_name="qlab")
def cli(debug: bool) -> None:
    """Quantizes PyTorch models, says what that costs, and writes the integer model."""


def _gates(side: Any, change: bool = False) -> Callable[..., list[Gate]]:
    def parse(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Gate]:
        return [parse_gate(text, side, change=change) for text in texts]

    return parse


def _options(*options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_FILE = click.Path(dir_okay=False, path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
_data = click.option("--data", metavar="DATA", help="A file, MODULE:LOADER, or random; see below.")


def _numbers(
    _: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """``0.5`` or ``0.485,0.456,0.406``."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 0.5,0.5,0.5") from None


def _size(_: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """``224`` or ``240x320``, height first."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise click.BadParameter(f"{text!r} is no size such as 224 or 240x320 (height first)")
    return int(sides[0]), int(sides[-1])


_from_files = (
    click.option(
        "--architecture",
        metavar="NAME",
        help="What weights belong to: a sample model's name, or one of torchvision or timm.",
    ),
    click.option(
        "--image-size",
        callback=_size,
        metavar="N|HxW",
        help="Scales and crops images of a .zip; as they are if not given.",
    ),
    click.option(
        "--image-mean", callback=_numbers, metavar="X[,X,X]", help="Subtracted from 0 to 1. [0]"
    ),
    click.option(
        "--image-std", callback=_numbers, metavar="X[,X,X]", help="Divided by afterwards. [1]"
    ),
)


def _images(options: dict[str, Any]) -> dict[str, Any] | None:
    """What the options say of images, as `Preprocessing.of` takes it; None for nothing."""
    names = {"image_size": "size", "image_mean": "mean", "image_std": "std"}
    given = {field: options.pop(name) for name, field in names.items()}
    found = {field: list(value) for field, value in given.items() if value is not None}
    return found or None


_runs = click.option(
    "--runs", type=_FILE, envvar="QLAB_RUNS", help="File of runs. Also $QLAB_RUNS."
)
_thresholds = (
    click.option(
        "--fail-under",
        metavar="METRIC=N",
        multiple=True,
        callback=_gates("under"),
        help="Exit 1 if a metric is lower, such as sqnr=20 or accuracy=0.95. Repeatable.",
    ),
    click.option(
        "--fail-over",
        metavar="METRIC=N",
        multiple=True,
        callback=_gates("over"),
        help="Exit 1 if a metric is higher, such as accuracy_drop=0.01. Repeatable.",
    ),
)
_model = _options(
    click.argument("model"),
    _data,
    *_from_files,
    click.option(
        "--preset",
        type=click.Choice(list(presets.PRESETS)),
        metavar="NAME",
        help=f"How everything is quantized: {', '.join(presets.PRESETS)}. [int8]",
    ),
    click.option(
        "--mapping",
        "recipe",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A recipe that qlab wrote, instead of a preset.",
    ),
    click.option("--samples", type=click.IntRange(min=1), help="Calibration samples at most."),
    click.option("--device", help="Such as cuda; the model's own if not given."),
    _runs,
    *_thresholds,
    _json,
)


def _work(options: dict[str, Any]) -> Work:
    """What the options of a model name; the data is read, nothing is computed yet."""
    if options["preset"] and options["recipe"]:
        raise click.UsageError("--preset and --mapping exclude each other.")
    origin = Origin(
        options["model"], options["data"], options["samples"], options["architecture"],
        _images(options),
    )  # fmt: skip
    subject = load_subject(
        origin.model, origin.data, origin.samples,
        architecture=origin.architecture, images=origin.images,
    )  # fmt: skip
    return Work.of(
        subject, origin, options["preset"], options["recipe"],
        device=options["device"], runs=options["runs"],
    )  # fmt: skip


def _finish(document: dict[str, Any], as_json: bool, show: Callable[[Any], None]) -> None:
    """Prints the result, then what was missed, and ends with the exit code."""
    if as_json:
        console.print_json(document)
    else:
        show(document)
    missed = [gate for gate in document["gates"] if not gate["passed"]]
    for gate in missed:
        console.complain(
            f"{gate['metric']} is {console.number(gate['value'])}, "
            f"{gate['side']} {console.number(gate['bound'])}"
        )
    raise SystemExit(MISSED if missed else PASSED)


@cli.command(epilog=_MODEL)
@click.argument("model", required=False)
@_data
@_options(*_from_files)
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--address", default="127.0.0.1", show_default=True, help="Who may connect.")
def explore(model: str | None, data: str | None, port: int, address: str, **options: Any) -> None:
    """Opens the app in the browser's reach, on MODEL if one is given.

    Your own code is taken from this command line and from nowhere else; in the app, files alone
    can be uploaded.
    """
    environment = dict(os.environ)
    for variable in (MODEL, DATA, OPTIONS):
        environment.pop(variable, None)
    if model is not None:
        if model in sample_models().names() and data is None:
            raise click.UsageError(
                "Sample models are chosen in the app; name a file or MODULE:FACTORY."
            )
        asked = {"architecture": options["architecture"], "images": _images(options)}
        load_subject(model, data, 1, **asked)  # a mistake is told here, not in the browser
        environment |= {MODEL: model, OPTIONS: json.dumps(asked)} | ({DATA: data} if data else {})
    serve(server_command(port, address), environment)


@cli.command(epilog=_ABOUT)
@_model
@click.option(
    "--worst",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Layers whose causes are looked for.",
)
def analyze(fail_under: list[Gate], fail_over: list[Gate], worst: int, **options: Any) -> None:
    """Says what quantizing MODEL costs, layer by layer, and why."""
    work = _work(options)
    document = analysis(work, worst)
    document["gates"] = check_gates([*fail_under, *fail_over], document["metrics"])
    _finish(document, options["as_json"], show_analysis)


def _written(
    outputs: tuple[Path, ...], gates: list[Gate], options: dict[str, Any], command: str
) -> NoReturn:
    """Measures where thresholds ask for it; writes the files if all are met."""
    work = _work(options)
    work.check(outputs)
    document: dict[str, Any] = work.heading(command) | {"metrics": {}, "gates": [], "files": []}
    if gates:
        document["metrics"] = work.metrics()
        document["gates"] = check_gates(gates, document["metrics"])
    if all(gate["passed"] for gate in document["gates"]):
        document["files"] = [work.write(path) for path in outputs]

    def show(document: dict[str, Any]) -> None:
        for file in document["files"]:
            console.say(f"{file['path']}  {file['bytes']:,} bytes")
            if "check" in file:
                console.say(check_words(file["check"]))

    _finish(document, options["as_json"], show)
    raise AssertionError


@cli.command(epilog=_ABOUT)
@_model
@click.option("-o", "--output", type=_FILE, required=True, help="A path that ends in .safetensors.")
def quantize(output: Path, fail_under: list[Gate], fail_over: list[Gate], **options: Any) -> None:
    """Writes the integer model of MODEL; `qlab.load_quantized` reads it.

    With thresholds it is measured first, and written only if all are met.
    """
    if output.suffix != ".safetensors":
        raise click.UsageError("A quantized model is a .safetensors file; see `qlab export`.")
    _written((output,), [*fail_under, *fail_over], options, "quantize")


@cli.command(epilog=_ABOUT)
@_model
@click.option(
    "-o", "--output", "outputs", type=_FILE, required=True, multiple=True,
    help="By suffix: .safetensors (integer model), .onnx (for other runtimes; run in onnxruntime "
    "and compared), .pt2 (for torch alone), .json (recipe), .py (script that repeats the "
    "conversion), .html (report). Repeatable.",
)  # fmt: skip
def export(
    outputs: tuple[Path, ...], fail_under: list[Gate], fail_over: list[Gate], **options: Any
) -> None:
    """Writes MODEL's quantized form, recipe, script or report, each whole or not at all.

    With thresholds it is measured first, and written only if all are met.
    """
    _written(outputs, [*fail_under, *fail_over], options, "export")


@cli.command(epilog=_METRICS)
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@click.option(
    "--runs", type=click.Path(exists=True, dir_okay=False, path_type=Path), envvar="QLAB_RUNS",
    required=True, help="File of runs, such as `qlab analyze --runs FILE` writes. Also $QLAB_RUNS.",
)  # fmt: skip
@click.option(
    "--fail-under", metavar="METRIC=N", multiple=True, callback=_gates("under", True),
    help="Exit 1 if a metric changes by less, such as sqnr=-1: may lose 1 dB. Repeatable.",
)  # fmt: skip
@click.option(
    "--fail-over", metavar="METRIC=N", multiple=True, callback=_gates("over", True),
    help="Exit 1 if a metric changes by more, such as quantized_bytes=0. Repeatable.",
)  # fmt: skip
@_json
def compare(
    first: str, second: str, runs: Path, fail_under: list[Gate], fail_over: list[Gate],
    as_json: bool,
) -> None:  # fmt: skip
    """Compares two runs: their numbers and their layers, second minus first.

    A RUN is a number or a name.
    """
    document = compared_runs(runs, first, second)
    document["gates"] = check_gates([*fail_under, *fail_over], document["change"])
    _finish(document, as_json, show_comparison)


@cli.command()
@_json
def models(as_json: bool) -> None:
    """Lists the sample models."""
    catalog = sample_models().catalog.MODELS
    if as_json:
        about = {n: {"title": e.title, "teaches": e.teaches} for n, e in catalog.items()}
        console.print_json(about)
        return
    console.table(["name", "title"], [(name, entry.title) for name, entry in catalog.items()])


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process; see `cli` for the exit codes.

    With ``--json`` stdout is one document however it ends: the result, or ``{"error": …}``.
    """
    given = sys.argv[1:] if arguments is None else arguments
    code: int | str | None = PASSED
    told = ""
    try:
        cli.main(given, prog_name="qlab", standalone_mode=False)
    except SystemExit as end:
        code = end.code
    except click.ClickException as error:
        error.show()
        code, told = FAILED, error.format_message()
    except (click.Abort, KeyboardInterrupt):
        console.complain("Interrupted.")
        code, told = INTERRUPTED, "Interrupted."
    except QlabError as error:
        if "--debug" in given:
            traceback.print_exc()
        console.complain(f"qlab: {error}")
        code, told = FAILED, str(error)
    except Exception as error:  # a bug, or the model's own error: no exit code of a threshold
        traceback.print_exc()
        code, told = FAILED, f"{type(error).__name__}: {error}"
    if told and "--json" in given:
        console.print_json({"error": told})
    raise SystemExit(code)
