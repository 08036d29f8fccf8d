"""The files that set qlab up agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIG["project"]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")


def normalized(requirement: str) -> str:
    """The package's name in a requirement, as pip compares names."""
    return re.split(r"[=<>!~\[ ;]", requirement)[0].lower().replace("_", "-")


def test_every_requirement_is_pinned_to_one_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    extras = PROJECT["optional-dependencies"].values()
    wanted = {normalized(r) for r in [*PROJECT["dependencies"], *(r for e in extras for r in e)]}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9.]+", pin) for pin in pins)
    assert wanted <= {normalized(pin) for pin in pins}


def test_torch_is_pinned_without_a_local_build():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_documented_floors_are_those_that_import_linter_holds():
    (floors,) = [c for c in CONFIG["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    held = [re.findall(r"\w+", layer) for layer in reversed(floors["layers"])]
    rows = re.findall(r"^\| \d+ \| (.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    documented = [re.findall(r"`(\w+)`", part) for row in rows for part in row.split(";")]
    assert documented == held


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist(name: str):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)`", (ROOT / name).read_text())) <= set(targets)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_exist(name: str):
    quoted = re.findall(r"`([\w.]+/[\w./*]*)`", (ROOT / name).read_text())
    made_or_example = re.compile(r"\.venv/|.*\bx\.py|.*\btest_x\.py")
    paths = [path for path in quoted if not made_or_example.match(path)]
    assert [path for path in paths if not [*ROOT.glob(path)]] == []
