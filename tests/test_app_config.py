"""`.streamlit/config.toml`: what keeps the app private, safe and readable."""

import tomllib
from pathlib import Path

import pytest
from streamlit import config
from streamlit.runtime.scriptrunner import magic
from streamlit.runtime.scriptrunner.script_cache import ScriptCache

ROOT = Path(__file__).parent.parent
CONFIG = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
MODES = ("light", "dark")


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def options(section: dict, prefix: str) -> list[str]:
    """The dotted names of every option set in `section`."""
    names = []
    for key, value in section.items():
        nested = options(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
        names.extend(nested)
    return names


def test_a_script_is_not_parsed_for_magic(monkeypatch: pytest.MonkeyPatch):
    def parsed(*_: object) -> None:
        raise AssertionError("scripts are parsed")

    monkeypatch.setattr(magic, "add_magic", parsed)
    assert ScriptCache().get_bytecode(str(ROOT / "pages" / "layer.py"))


def test_the_app_stays_on_this_machine_and_tells_nobody():
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert CONFIG["server"]["allowedHosts"] == ["127.0.0.1", "localhost"]
    assert CONFIG["browser"]["gatherUsageStats"] is False
    assert not {"enableCORS", "enableXsrfProtection"} & CONFIG["server"].keys()


def test_errors_show_neither_details_nor_outside_links():
    assert CONFIG["client"]["showErrorDetails"] == "none"
    assert CONFIG["client"]["showErrorLinks"] is False


def test_nothing_is_fetched_from_outside():
    assert "http" not in str(CONFIG)


def test_streamlit_knows_every_option():
    known = config.get_config_options()
    assert [name for name in options(CONFIG, "") if name not in known] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("palette", ["Categorical", "Sequential", "Diverging"])
def test_palettes_have_ten_different_colours(mode: str, palette: str):
    colours = CONFIG["theme"][mode][f"chart{palette}Colors"]
    assert len(colours) == len(set(colours)) == 10


@pytest.mark.parametrize("mode", MODES)
def test_text_and_buttons_are_readable(mode: str):
    theme = CONFIG["theme"][mode]
    surfaces = [theme["backgroundColor"], theme["secondaryBackgroundColor"]]
    surfaces += [theme["sidebar"][f"{s}ackgroundColor"] for s in ("b", "secondaryB")]
    assert all(contrast(theme["textColor"], surface) >= 7 for surface in surfaces)
    assert contrast(theme["linkColor"], theme["backgroundColor"]) >= 4.5
    assert contrast(theme["primaryColor"], "#ffffff") >= 4.5
    assert contrast(theme["primaryColor"], theme["backgroundColor"]) >= 3


@pytest.mark.parametrize("mode", MODES)
def test_series_that_stand_side_by_side_differ_in_lightness(mode: str):
    theme = CONFIG["theme"][mode]
    float_, quantized, local, accumulated, clipped = theme["chartCategoricalColors"][:5]
    assert contrast(local, accumulated) >= 2.5
    for colour in (float_, quantized, accumulated, clipped):
        assert contrast(colour, theme["backgroundColor"]) >= 3
