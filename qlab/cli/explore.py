"""`qlab explore`: starts the app's server in the place of this process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from qlab.cli.subject import app_folder
from qlab.errors import ArgumentError

#: Where the server finds the model, the data and what else the command line said (JSON). Only the
#: process that this command starts has them: nobody's browser can name code.
MODEL, DATA, OPTIONS = "QLAB_EXPLORE_MODEL", "QLAB_EXPLORE_DATA", "QLAB_EXPLORE_OPTIONS"


def server_command(port: int, address: str) -> list[str]:
    """The command line that serves the app, wherever it is installed."""
    if importlib.util.find_spec("streamlit") is None:
        raise ArgumentError("The app needs Streamlit", fix="Install it: pip install streamlit.")
    # Its own folder holds .streamlit/config.toml, which goes before one in the present folder.
    app = str(app_folder() / "app.py")
    options = ["--server.port", str(port), "--server.address", address]
    return [sys.executable, "-m", "streamlit", "run", app, *options]


def serve(command: list[str], environment: dict[str, str]) -> None:
    """Runs the server until it ends; on POSIX it takes this process's place, signals and all."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        os.execve(command[0], command, environment)
    raise SystemExit(subprocess.call(command, env=environment))
