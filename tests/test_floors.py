"""What import-linter's floors cannot see: which names of the root package are used from where."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import qlab

ROOT = Path(__file__).parent.parent
ENGINE = sorted((ROOT / "qlab").rglob("*.py"))
SAMPLES = sorted((ROOT / "sample_models").rglob("*.py"))
#: The drop-in packages, which people import from as they did from torch.ao.
FACES = ("qlab.nn", "qlab.quantization", "qlab.ns")


def imported_names(source: str) -> Iterator[tuple[str, str | None]]:
    """`(module, name)` of every import of qlab in `source`; name is None for a plain import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imports = [(str(node.module), alias.name) for alias in node.names]
        else:
            continue
        yield from (i for i in imports if i[0].split(".")[0] == "qlab")


def submodules(package: str) -> set[str]:
    """The names of the modules directly inside a package of this repository."""
    folder = ROOT / package.replace(".", "/")
    return {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}


def through_the_root(source: str) -> list[str]:
    """Imports of the root package by which a low floor would reach a high one unseen."""
    return [
        f"from qlab import {name}" if name else "import qlab"
        for module, name in imported_names(source)
        if module == "qlab" and name not in submodules("qlab")
    ]


def not_public(source: str, public: set[str]) -> list[str]:
    """Imports of qlab that reach beyond its public names and its drop-in packages."""
    return [
        f"{module}.{name}" if name else module
        for module, name in imported_names(source)
        if (name or "").startswith("_")
        or not (
            (module == "qlab" and (name is None or name in public))
            or any(f"{module}.".startswith(f"{face}.") for face in FACES)
        )
    ]


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_engine_imports_from_its_floors_not_from_the_root(path: Path):
    assert through_the_root(path.read_text()) == []


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_sample_models_import_only_public_names(path: Path):
    assert not_public(path.read_text(), set(getattr(qlab, "__all__", ()))) == []


def test_the_checkers_catch():
    assert through_the_root("import qlab") == ["import qlab"]
    assert through_the_root("from qlab import Lab") == ["from qlab import Lab"]
    assert through_the_root("from qlab import qparams\nimport qlab.errors") == []
    source = "from qlab import Lab, _x\nfrom qlab.stats import TensorStats\nimport qlab.graph"
    assert not_public(source, {"Lab"}) == ["qlab._x", "qlab.stats.TensorStats", "qlab.graph"]
    assert not_public("import qlab\nfrom qlab.nn.quantized import Linear", set()) == []
