"""The app as a whole: every page is reached, state goes along, sessions do not meet."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.source_util import page_icon_and_name
from streamlit.testing.v1 import AppTest

from pages.common.navigation import PAGES
from tests.pages.harness import ROOT, SECONDS, metrics, open_page, settle

PAGE_FILES = sorted(path for path in (ROOT / "pages").glob("*.py") if path.stem != "__init__")


def app() -> AppTest:
    return settle(AppTest.from_file(ROOT / "app.py", default_timeout=SECONDS).run())


def test_the_first_page_is_populated_with_the_default_model():
    page = app()
    assert page.title[0].value == "Overview"
    assert page.selectbox(key="model").value == "depthwise"
    assert metrics(page)["Accuracy ↑"].endswith("%")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_reached_from_the_app(name: str):
    page = app()
    settle(page.switch_page(f"pages/{name}.py").run())
    assert not page.error
    assert page.title[0].value == PAGES[name][1]


def test_the_table_of_pages_is_the_folder_of_pages():
    assert {path.stem for path in PAGE_FILES} == set(PAGES)


def test_no_page_hides_a_package_from_numba():
    """AppTest puts `pages` on Python's path, before the installed packages."""
    told = (
        "import pathlib, sys; sys.path.insert(0, 'pages'); import numba.misc.coverage_support; "
        "files = [getattr(m, '__file__', None) for m in list(sys.modules.values())]; "
        "assert not [f for f in files if f and pathlib.Path(f).parent.name == 'pages'], files"
    )
    subprocess.run([sys.executable, "-c", told], cwd=ROOT, check=True)


def test_coverage_keeps_its_address():
    assert page_icon_and_name(ROOT / "pages" / "_coverage.py")[1] == "coverage"


def test_a_changed_configuration_goes_along_from_page_to_page():
    page = app()
    settle(page.switch_page("pages/layer.py").run())
    name = page.selectbox(key="layer").value
    page.select_slider(key="weight_bits").set_value("4").run()
    page.button(key="apply").click().run()
    settle(page.switch_page("pages/convert.py").run())
    assert page.dataframe[0].value.loc[name, "weight"].startswith("int4")
    settle(page.switch_page("pages/overview.py").run())
    assert page.warning[0].value.startswith("Stale")


def test_two_sessions_do_not_see_each_others_changes():
    first = open_page("layer", model="mlp")
    first.select_slider(key="weight_bits").set_value("2").run()
    first.button(key="apply").click().run()
    second = open_page("layer", model="mlp")
    assert second.select_slider(key="weight_bits").value == "8"
    assert first.select_slider(key="weight_bits").value == "2"


@pytest.mark.parametrize("path", PAGE_FILES, ids=lambda path: path.stem)
def test_a_page_is_short_and_holds_no_math(path: Path):
    source = path.read_text()
    assert len(source.splitlines()) <= 150
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
        )
    }
    assert not imported & {"math", "numpy", "torch", "pandas"}


@pytest.mark.parametrize("name", ["resnet18", "resnet18 (untrained)"])
def test_an_address_may_name_an_untrained_model_with_or_without_its_label(name):
    page = AppTest.from_file(ROOT / "pages" / "_coverage.py", default_timeout=SECONDS)
    page.query_params["model"] = name
    assert page.run().selectbox(key="model").value == "resnet18"
    page.selectbox(key="model").set_value("mlp").run()
    assert page.selectbox(key="model").value == "mlp"


def test_a_link_restores_the_choices_without_a_complaint_in_the_servers_log(
    caplog: pytest.LogCaptureFixture,
):
    page = AppTest.from_file(ROOT / "pages" / "_coverage.py", default_timeout=SECONDS).run()
    page.selectbox(key="model").set_value("mlp").run()
    page.selectbox(key="samples").set_value(64).run()
    fresh = AppTest.from_file(ROOT / "pages" / "_coverage.py", default_timeout=SECONDS)
    fresh.query_params["w"] = page.query_params["w"]
    caplog.clear()
    for _ in range(2):
        fresh.run()
        assert fresh.selectbox(key="model").value == "mlp"
        assert fresh.selectbox(key="samples").value == 64
    assert "Session State API" not in caplog.text
