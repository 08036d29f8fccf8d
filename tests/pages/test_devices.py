"""The sidebar's device: what is there, why CUDA is not, and that the lab is told."""

import pytest
import torch

from pages.common.collecting import loaded_key, loading
from pages.common.loaded import Loaded
from pages.common.saved import from_json, to_json
from pages.common.workspace import Choice, Workspace
from qlab import execution
from tests.pages.harness import open_page, workspace_of


class Silent:
    """Progress that nobody watches."""

    partial, timed, part = None, False, (0, (1.0,))

    def report(self, *_: object) -> None:
        pass

    def should_stop(self) -> bool:
        return False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_cpu_is_all_there_is_and_the_page_says_why():
    page = open_page("learn")
    device = page.sidebar.selectbox(key="device")
    assert device.options == ["cpu"] and device.disabled
    assert any("No CUDA: " in caption.value for caption in page.sidebar.caption)
    assert workspace_of(page).choice is not None
    assert workspace_of(page).choice.device == "cpu"


def test_several_devices_can_be_chosen_among(monkeypatch: pytest.MonkeyPatch):
    named = {"cpu": "CPU", "cuda:0": "A chip"}
    monkeypatch.setattr(execution, "device_names", lambda: named)
    monkeypatch.setattr(execution, "no_cuda", lambda: None)
    page = open_page("learn")
    device = page.sidebar.selectbox(key="device")
    assert device.options == list(named) and not device.disabled
    assert not any("No CUDA" in caption.value for caption in page.sidebar.caption)


def test_a_device_that_is_gone_gives_way_to_the_cpu():
    page = open_page("learn", device="cuda:7")
    assert page.sidebar.selectbox(key="device").value == "cpu"


def test_the_lab_is_made_on_the_device_that_was_chosen():
    choice = Choice("mlp", "int8", 8, "cpu")
    key, _, work = loading(choice)
    made = work(Silent())
    assert isinstance(made, Loaded)
    assert made.lab.device == torch.device("cpu") and "cpu" in made.key
    elsewhere = choice._replace(device="cuda:0")
    assert loaded_key(elsewhere) != key == loaded_key(choice)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_lab_is_made_on_cuda():
    _, _, work = loading(Choice("mlp", "int8", 8, "cuda:0"))
    made = work(Silent())
    assert made.lab.device == torch.device("cuda:0")
    assert next(made.lab.graph.parameters()).is_cuda


def test_a_workspace_keeps_its_device_and_older_ones_have_the_cpu():
    space = Workspace("id", choice=Choice("mlp", "int8", 8, "cuda:0"))
    text = to_json(space)
    assert from_json(text, "id").choice == space.choice
    older = text.replace(', "cuda:0"]', "]")
    assert older != text
    assert from_json(older, "id").choice == Choice("mlp", "int8", 8, "cpu")
