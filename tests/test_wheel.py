"""What installing qlab puts into someone's environment."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


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
