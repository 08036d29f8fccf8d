"""The files that set qlab up agree with each other."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
