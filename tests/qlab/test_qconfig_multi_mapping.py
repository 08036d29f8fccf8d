"""Several qconfigs per rule: which mapping gets which, and that weaker rules never answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qlab.errors import ArgumentError
from qlab.qconfig import (
    QConfigMapping,
    default_dynamic_qconfig,
    default_qconfig,
    float16_dynamic_qconfig,
    resolve,
)
from qlab.qconfig.multi_mapping import QConfigMultiMapping

A, B, C = default_qconfig, default_dynamic_qconfig, float16_dynamic_qconfig


def answers(multi, name="fc", kind=nn.Linear):
    return [resolve(mapping, name, kind).qconfig for mapping in multi.qconfig_mappings_list]


def test_each_mapping_gets_one_of_the_list():
    assert answers(QConfigMultiMapping().set_global([A, B, C])) == [A, B, C]


def test_a_short_list_is_filled_with_none_so_that_weaker_rules_do_not_answer():
    multi = QConfigMultiMapping().set_global([A, B]).set_object_type(nn.Linear, [C])
    assert answers(multi) == [C, None]
    assert answers(multi, kind=nn.Conv2d) == [A, B]


def test_a_long_list_adds_mappings_in_which_earlier_rules_give_none():
    multi = QConfigMultiMapping().set_module_name("fc", [A]).set_global([A, B, C])
    assert answers(multi) == [A, None, None]
    assert answers(multi, "other") == [A, B, C]


def test_equal_qconfigs_and_none_are_left_out_and_the_list_stays_as_it_was():
    given = [A, None, A, B, None]
    assert answers(QConfigMultiMapping().set_global(given)) == [A, B]
    assert given == [A, None, A, B, None]


def test_every_kind_of_rule():
    multi = (
        QConfigMultiMapping()
        .set_module_name_regex("f.*", [A, B])
        .set_module_name_object_type_order("block", nn.Linear, 0, [B, C])
    )
    assert answers(multi) == [A, B]
    indexed = [
        resolve(mapping, "block.x", nn.Linear, index=0).qconfig
        for mapping in multi.qconfig_mappings_list
    ]
    assert indexed == [B, C]


def test_from_mappings_keeps_the_rules_of_each():
    first = QConfigMapping().set_global(A)
    second = QConfigMapping().set_global(B).set_module_name("fc", C)
    multi = QConfigMultiMapping.from_list_qconfig_mapping([first, second])
    assert answers(multi) == [None, C]
    assert answers(multi, "other") == [A, B]
    assert first == QConfigMapping().set_global(A)


def test_repr_shows_every_mapping():
    shown = repr(QConfigMultiMapping().set_global([A, B]))
    assert shown.startswith("QConfigMultiMapping [")
    assert shown.count("QConfigMapping(") == 2


@pytest.mark.parametrize("given", [A, None, "int8"])
def test_what_is_no_list_is_refused(given):
    if given == "int8":
        with pytest.raises(ArgumentError, match="A rule gives a QConfig"):
            QConfigMultiMapping().set_global(given)
        return
    with pytest.raises(ArgumentError, match=r"takes lists of qconfigs.*\[default_qconfig\]"):
        QConfigMultiMapping().set_global(given)


def test_no_mapping_at_all_is_refused():
    with pytest.raises(ArgumentError, match="there is no mapping"):
        QConfigMultiMapping.from_list_qconfig_mapping([])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.lists(st.sampled_from([A, B, C]), max_size=4),
        ),
        max_size=5,
    )
)
def test_all_mappings_know_the_same_rules(rules):
    multi = QConfigMultiMapping()
    for name, qconfigs in rules:
        multi.set_module_name(name, qconfigs)
    keys = {tuple(mapping.module_name_qconfigs) for mapping in multi.qconfig_mappings_list}
    assert len({frozenset(names) for names in keys}) == 1
    for name, qconfigs in dict(rules).items():
        given = [mapping.module_name_qconfigs[name] for mapping in multi.qconfig_mappings_list]
        kept = list(dict.fromkeys(qconfigs))
        assert given == kept + [None] * (len(given) - len(kept))
