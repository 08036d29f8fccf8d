"""An operator's address: whatever rule governs it, it gets what it is given, and others do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qlab.qconfig import Address, QConfigMapping, default_qconfig, get_default_qconfig

OTHER = get_default_qconfig("qnnpack")
ADDRESS = Address("block.fc", "block.fc", (nn.Sequential, nn.Linear), 1)
BESIDE = Address("block.fc2", "block.fc2", (nn.Sequential, nn.Linear), 2)


def governed(style: str) -> QConfigMapping:
    """A mapping in which rules of a style decide about both addresses."""
    mapping = QConfigMapping()
    match style:
        case "global":
            return mapping.set_global(OTHER)
        case "type":
            return mapping.set_object_type(nn.Linear, OTHER)
        case "regex":
            return mapping.set_module_name_regex("block.*", OTHER)
        case "name":
            return mapping.set_module_name("block", OTHER)
    for index in (1, 2):
        kind = nn.Linear if style == "order" else nn.Sequential
        mapping.set_module_name_object_type_order("block", kind, index, OTHER)
    return mapping


STYLES = ("global", "type", "regex", "name", "order", "order by the outer type")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("qconfig", [None, default_qconfig], ids=["float", "quantized"])
def test_what_is_given_is_what_it_gets(style, qconfig):
    mapping = governed(style)
    assert ADDRESS.resolve(mapping).qconfig == OTHER
    assert ADDRESS.give(mapping, qconfig) is mapping
    assert ADDRESS.resolve(mapping).qconfig == qconfig
    assert BESIDE.resolve(mapping).qconfig == OTHER


@given(st.sets(st.sampled_from(STYLES)), st.booleans())
def test_rules_of_several_styles_are_all_overruled(styles, kept):
    mapping = QConfigMapping()
    for style in styles:
        for rule in governed(style).rules():
            key = rule.key if isinstance(rule.key, tuple) else (rule.key,)
            setter = getattr(mapping, f"set_{rule.style}")
            setter(*(() if rule.style == "global" else key), OTHER)
    qconfig = None if kept else default_qconfig
    assert ADDRESS.resolve(ADDRESS.give(mapping, qconfig)).qconfig == qconfig
