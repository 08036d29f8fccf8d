"""Build hook: where the app travels in a wheel."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

APP = ("app.py", "pages", "sample_models", ".streamlit")


class AppHook(BuildHookInterface):
    """Puts the app under ``qlab/_app``, so that installing qlab adds no ``app`` or ``pages``.

    Only for wheels: an editable install reads the app from the checkout.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"] = {name: f"qlab/_app/{name}" for name in APP}
