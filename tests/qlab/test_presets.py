"""Presets: what each asks for, and that it survives JSON."""

import pytest

from qlab import presets
from qlab.errors import UnknownNameError
from qlab.presets import PRESETS
from qlab.qconfig import QConfigMapping


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_asks_for_what_it_says(name: str):
    preset = presets.get(name)
    qconfig = preset.mapping().global_qconfig
    assert preset.name == name
    assert (qconfig.activation_spec, qconfig.weight_spec) == (preset.activation, preset.weight)
    assert preset.title and preset.description.endswith(".")
    assert preset.description.count(". ") == 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str):
    mapping = presets.get(name).mapping()
    assert QConfigMapping.from_json(mapping.to_json()) == mapping


def test_presets_differ():
    assert len({preset.mapping() for preset in PRESETS.values()}) == len(PRESETS)
    assert len({preset.title for preset in PRESETS.values()}) == len(PRESETS)


def test_each_call_gives_a_mapping_of_its_own():
    mapping = presets.get().mapping()
    mapping.set_global(None)
    assert presets.get().mapping().global_qconfig is not None


def test_the_default():
    assert presets.get() is PRESETS["int8"]
    assert presets.get().weight.describe() == "int8 symmetric per channel, min-max"
    assert next(iter(PRESETS)) == presets.DEFAULT


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"Unknown preset 'int9'.*int8.*Did you mean 'int"):
        presets.get("int9")
