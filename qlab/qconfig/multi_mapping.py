"""`QConfigMultiMapping`: several qconfigs for every part of a model, to be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from qlab.errors import ArgumentError
from qlab.object_types import ObjectType
from qlab.qconfig.mapping import QConfigMapping, Rule
from qlab.qconfig.qconfig import QConfig, QConfigAny

QConfigs = Sequence[QConfigAny]


class QConfigMultiMapping:
    """Rules as in `QConfigMapping`, each with a list of qconfigs to try.

    The list becomes as many mappings: the n-th gives what stands n-th in each list. Where a list
    is shorter than another, the further mappings get None for its rule, so that a weaker rule
    never answers in its place. Of equal qconfigs in a list one is kept; None is left out.

    Attributes:
        qconfig_mappings_list: The mappings; one, empty, at first.

    Example:
        >>> from qlab.qconfig import default_dynamic_qconfig, default_qconfig
        >>> multi = QConfigMultiMapping().set_global([default_qconfig, default_dynamic_qconfig])
        >>> multi = multi.set_module_name("head", [default_qconfig])
        >>> [mapping.module_name_qconfigs["head"] for mapping in multi.qconfig_mappings_list][1]
    """

    def __init__(self) -> None:
        self.qconfig_mappings_list: list[QConfigMapping] = [QConfigMapping()]

    def set_global(self, global_qconfig_list: QConfigs) -> Self:
        """Gives qconfigs to all that no other rule matches."""
        return self._set("global", "", global_qconfig_list)

    def set_object_type(self, object_type: ObjectType, qconfig_list: QConfigs) -> Self:
        """Gives qconfigs to a module class, a function, or a tensor method by its name."""
        return self._set("object_type", object_type, qconfig_list)

    def set_module_name_regex(self, module_name_regex: str, qconfig_list: QConfigs) -> Self:
        """Gives qconfigs to modules whose path matches a pattern from its start."""
        return self._set("module_name_regex", module_name_regex, qconfig_list)

    def set_module_name(self, module_name: str, qconfig_list: QConfigs) -> Self:
        """Gives qconfigs to a module, by its path, and to all that is inside it."""
        return self._set("module_name", module_name, qconfig_list)

    def set_module_name_object_type_order(
        self, module_name: str, object_type: ObjectType, index: int, qconfig_list: QConfigs
    ) -> Self:
        """Gives qconfigs to one operator of a type within a module: see `QConfigMapping`."""
        key = (module_name, object_type, index)
        return self._set("module_name_object_type_order", key, qconfig_list)

    @classmethod
    def from_list_qconfig_mapping(cls, qconfig_mapping_list: Sequence[QConfigMapping]) -> Self:
        """Several mappings as one of lists; the rules of each are kept.

        A mapping that says nothing of what another has a rule for keeps it in float. The mappings
        given stay as they are.

        Raises:
            ArgumentError: There are none.
        """
        if not qconfig_mapping_list:
            raise ArgumentError(
                "from_list_qconfig_mapping: there is no mapping",
                expected="at least one QConfigMapping",
                received="an empty list",
            )
        made = cls()
        made.qconfig_mappings_list = [mapping.copy() for mapping in qconfig_mapping_list]
        keys = {
            (rule.style, rule.key): None
            for mapping in qconfig_mapping_list
            for rule in mapping.rules()
            if rule.style != "global"
        }
        for style, key in keys:
            for mapping in made.qconfig_mappings_list:
                if not any((rule.style, rule.key) == (style, key) for rule in mapping.rules()):
                    _give(mapping, Rule(style, key, None))
        return made

    def _set(self, style: str, key: Any, qconfigs: QConfigs) -> Self:
        if isinstance(qconfigs, QConfig) or not isinstance(qconfigs, Sequence):
            raise ArgumentError(
                "A QConfigMultiMapping takes lists of qconfigs",
                expected="a list, such as [default_qconfig]",
                received=repr(qconfigs),
            )
        kept: list[QConfigAny] = []
        for qconfig in qconfigs:
            if qconfig is not None and qconfig not in kept:
                kept.append(qconfig)
        mappings = self.qconfig_mappings_list
        while len(mappings) < len(kept):
            mappings.append(_silent_like(mappings[0]))
        for index, mapping in enumerate(mappings):
            _give(mapping, Rule(style, key, kept[index] if index < len(kept) else None))
        return self

    def __repr__(self) -> str:
        lines = [f"{mapping!r}," for mapping in self.qconfig_mappings_list]
        return "\n".join([f"{type(self).__name__} [", *lines, "]"])


def _silent_like(mapping: QConfigMapping) -> QConfigMapping:
    """A mapping with the same rules, each of which gives None."""
    made = QConfigMapping()
    for rule in _own_rules(mapping):
        _give(made, Rule(rule.style, rule.key, None))
    return made


def _own_rules(mapping: QConfigMapping) -> Iterator[Rule]:
    return (rule for rule in mapping.rules() if rule.style != "global")


def _give(mapping: QConfigMapping, rule: Rule) -> None:
    """Sets one rule of a mapping."""
    match rule.style:
        case "global":
            mapping.set_global(rule.qconfig)
        case "object_type":
            mapping.set_object_type(rule.key, rule.qconfig)
        case "module_name_regex":
            mapping.set_module_name_regex(rule.key, rule.qconfig)
        case "module_name":
            mapping.set_module_name(rule.key, rule.qconfig)
        case _:
            module, object_type, index = rule.key
            mapping.set_module_name_object_type_order(module, object_type, index, rule.qconfig)
