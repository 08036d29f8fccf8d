"""The rules of a configuration on *Configure*: seen in order of strength, added, moved, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from pages.common import messages
from pages.common.format import plain
from pages.common.frame import View
from pages.common.loaded import Loaded

if TYPE_CHECKING:
    from qlab.graph.plan import Plan
    from qlab.object_types import ObjectType
    from qlab.qconfig import QConfig, QConfigMapping
    from qlab.qconfig.mapping import Rule

PATTERN, TYPE = "name", "type"
KEEP = "keep in float"
SEEN = 8


def draw(view: View, loaded: Loaded, plan: Plan) -> None:
    """Draws the rules, strongest first, and the form for one more."""
    st.subheader(
        "Rules",
        anchor=False,
        help="The strongest rule that matches a layer decides: a module's own name, then patterns "
        "of names in their order, then types, then the preset for everything else.",
    )
    found = view.mapping.rules()
    with st.container(border=True, height=48 * SEEN if len(found) > SEEN else "content"):
        for position, rule in enumerate(found):
            _line(view, rule, position, unmatched=str(rule) in plan.unmatched)
    _form(view, loaded)


def _line(view: View, rule: Rule, position: int, *, unmatched: bool) -> None:
    words, up, remove = st.columns([10, 1, 1], vertical_alignment="center")
    matches = "everything else" if rule.style == "global" else str(rule)
    flag = " &nbsp; <b>matches nothing in this model</b>" if unmatched else ""
    words.html(f"<code>{plain(matches)}</code> → {plain(gives(rule.qconfig))}{flag}")
    if rule.style == "global":
        return
    patterns = list(view.mapping.module_name_regex_qconfigs)
    if rule.style == "module_name_regex" and rule.key != patterns[0]:
        up.button(
            "↑", key=f"rule_up_{position}", help="Asked before the pattern above it.",
            on_click=_change, args=(view, earlier(view.mapping, rule.key)),
        )  # fmt: skip
    remove.button(
        "×", key=f"rule_remove_{position}", help="Remove this rule.",
        on_click=_change, args=(view, without(view.mapping, rule)),
    )  # fmt: skip


def _change(view: View, mapping: QConfigMapping) -> None:
    view.workspace.configure(view.choice, mapping)


def _form(view: View, loaded: Loaded) -> None:
    from qlab.presets import PRESETS

    kind, key, what, add = st.columns([3, 4, 4, 2], vertical_alignment="bottom")
    style = kind.segmented_control(
        "Rule by", (PATTERN, TYPE), default=PATTERN, required=True, key="rule_style",
        persist_state="session",
    )  # fmt: skip
    if style == TYPE:
        types = loaded.lab.types
        chosen: Any = types[key.selectbox("Type", list(types), key="rule_type")]
    else:
        chosen = key.text_input(
            "Pattern",
            key="rule_pattern",
            placeholder=r"features\.\d+\.dw",
            help="A regular expression, compared from the start of a layer's name.",
            persist_state="session",
        )
    asked = what.selectbox(
        "Gives", [KEEP, *PRESETS], format_func=lambda g: g if g == KEEP else f"as preset {g}",
        key="rule_gives", persist_state="session",
    )  # fmt: skip
    if add.button("Add rule", key="rule_add", width="stretch", disabled=chosen == ""):
        with messages.shown("rule"):
            _change(view, added(view.mapping, style or PATTERN, chosen, asked))
            st.rerun()


def gives(qconfig: QConfig | None) -> str:
    """What a rule gives, in words."""
    from qlab.registry.asked import asked_by

    if qconfig is None:
        return "float"
    specs = {kind: asked_by(getattr(qconfig, kind)).spec for kind in ("weight", "activation")}
    return "; ".join(f"{kind} {s.describe() if s else 'float'}" for kind, s in specs.items())


def added(mapping: QConfigMapping, style: str, key: str | ObjectType, asked: str) -> QConfigMapping:
    """The mapping with one more rule; a rule for the same key gives way to it.

    Args:
        mapping: Stays as it is.
        style: `PATTERN` or `TYPE`.
        key: The regular expression, or the type.
        asked: `KEEP` or a preset's name.

    Raises:
        QlabError: Not a regular expression, or no such preset.
    """
    from qlab import presets

    qconfig = None if asked == KEEP else presets.get(asked).mapping().global_qconfig
    made = mapping.copy()
    if style == PATTERN:
        return made.set_module_name_regex(str(key), qconfig)
    return made.set_object_type(key, qconfig)


def without(mapping: QConfigMapping, rule: Rule) -> QConfigMapping:
    """The mapping without one of its rules."""
    made = mapping.copy()
    getattr(made, f"{rule.style}_qconfigs").pop(rule.key)
    return made


def earlier(mapping: QConfigMapping, pattern: str) -> QConfigMapping:
    """The mapping with a pattern asked before the one above it."""
    made = mapping.copy()
    order = list(made.module_name_regex_qconfigs)
    position = order.index(pattern)
    order.insert(max(0, position - 1), order.pop(position))
    qconfigs = made.module_name_regex_qconfigs
    made.module_name_regex_qconfigs = {key: qconfigs[key] for key in order}
    return made
