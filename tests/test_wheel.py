"""What installing qlab puts into someone's environment."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.browser.harness import free_port, wait_until_healthy

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel_files(wheel: Path) -> set[str]:
    """The names of the files in it."""
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `qlab` command of an environment that the wheel was installed into.

    Its dependencies are those of this environment; its qlab must not be: an own folder goes first.
    """
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    offline = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, *offline, str(wheel)], check=True, cwd=place)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(ours))
    return place / "bin" / "qlab"


def outside(folder: Path) -> dict[str, str]:
    """The environment of a person who knows nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"QLAB_DATA": str(folder / "data")}


def test_only_qlab_is_importable(wheel_files: set[str]):
    assert {name.split("/")[0] for name in wheel_files} == {"qlab", "qlab-0.1.0.dist-info"}


def test_the_app_travels_with_it(wheel_files: set[str]):
    files = [ROOT / "app.py", ROOT / ".streamlit" / "config.toml"]
    files += [f for folder in ("pages", "sample_models") for f in (ROOT / folder).rglob("*")]
    names = [f.relative_to(ROOT).as_posix() for f in files if f.is_file()]
    wanted = [name for name in names if "__pycache__" not in name]
    missing = [name for name in wanted if f"qlab/_app/{name}" not in wheel_files]
    assert not missing


def test_types_travel_with_it(wheel_files: set[str]):
    assert "qlab/py.typed" in wheel_files


def test_no_cache_travels_with_it(wheel_files: set[str]):
    assert not [name for name in wheel_files if "__pycache__" in name]


@pytest.mark.slow
def test_the_command_works_from_any_folder(installed: Path, tmp_path: Path):
    run = {"cwd": tmp_path, "env": outside(tmp_path), "capture_output": True, "text": True}
    done = subprocess.run(
        [installed, "export", "mlp", "--samples", "8", "-o", "model.py", "-o", "report.html"],
        check=False,
        **run,
    )
    assert done.returncode == 0, done.stderr
    assert {"model.py", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    where = [installed.parent / "python", "-c", "import qlab; print(qlab.__file__)"]
    found = subprocess.run(where, check=True, **run).stdout
    assert found.startswith(str(installed.parents[1]))


@pytest.mark.slow
def test_explore_serves_the_app_from_any_folder(installed: Path, tmp_path: Path):
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [installed, "explore", "--port", str(port)],
            cwd=tmp_path,
            env=outside(tmp_path),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            process.wait(timeout=30)
    printed = log.read_text()
    assert "Traceback" not in printed
    assert f"http://127.0.0.1:{port}" in printed
