"""`QConfigMapping`: which part of a model gets which qconfig."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from qlab.errors import ArgumentError, FormatError, brief, check_type
from qlab.object_types import (
    ObjectType,
    check_object_type,
    describe_object_type,
    object_type_from_dict,
    object_type_to_dict,
)
from qlab.qconfig.qconfig import QConfig, qconfig_from_dict, qconfig_to_dict

_STYLES = (
    "module_name_object_type_order",
    "module_name",
    "module_name_regex",
    "object_type",
)
"""Kinds of rules from the strongest to the weakest; the global rule is weaker than all."""
INTEGER_BIASES = "integer_biases"
"""Its key in dicts and JSON, where it is set."""


@dataclass(frozen=True)
class Rule:
    """One line of a `QConfigMapping`.

    Attributes:
        style: ``"global"``, ``"object_type"``, ``"module_name_regex"``, ``"module_name"`` or
            ``"module_name_object_type_order"``.
        key: What the rule matches: ``""`` for global, an object type, a pattern, a module's path,
            or ``(path, object type, index)``.
        qconfig: What it gives; None keeps the match in floating point.
    """

    style: str
    key: Any
    qconfig: QConfig | None

    def __str__(self) -> str:
        match self.style:
            case "module_name_object_type_order":
                module, object_type, index = self.key
                return f"number {index} of {describe_object_type(object_type)} in {module!r}"
            case "module_name":
                return f"module name {self.key!r}"
            case "module_name_regex":
                return f"regex {self.key!r}"
            case "object_type":
                return describe_object_type(self.key)
        return "global"


class Resolution(NamedTuple):
    """What a mapping says of one operator.

    Attributes:
        qconfig: The qconfig; None keeps the operator in floating point.
        rule: The rule that matched, in words, such as ``"module name 'features.3'"``; ``"no rule"``
            if none did.
    """

    qconfig: QConfig | None
    rule: str


class QConfigMapping:
    """Rules that give parts of a model their qconfigs.

    In order of strength: the n-th operator of a type in a module, a module's name, a pattern of
    names, a type, global. A module's name stands for all that is inside it too, and the longest
    name wins; of several patterns the one set first. None as a qconfig keeps the match in floating
    point.

    Setters change the mapping and return it, as in the reference. Mappings with the same rules are
    equal and have the same hash: use `copy` before changing one that serves as a key.

    Attributes:
        global_qconfig: What is not matched by another rule.
        object_type_qconfigs: By module class, function, or name of a tensor method.
        module_name_regex_qconfigs: By pattern, matched from the start of a module's path.
        module_name_qconfigs: By module path.
        module_name_object_type_order_qconfigs: By (path of the module around, type, index).
        integer_biases: Whether biases are integers, too; see `set_integer_biases`.

    Example:
        >>> from torch import nn
        >>> from qlab.qconfig import default_qconfig
        >>> mapping = QConfigMapping().set_global(default_qconfig).set_object_type(nn.Linear, None)
        >>> resolve(mapping, "head", nn.Linear).rule
        'type Linear'
    """

    def __init__(self) -> None:
        self.global_qconfig: QConfig | None = None
        self.object_type_qconfigs: dict[ObjectType, QConfig | None] = {}
        self.module_name_regex_qconfigs: dict[str, QConfig | None] = {}
        self.module_name_qconfigs: dict[str, QConfig | None] = {}
        self.module_name_object_type_order_qconfigs: dict[
            tuple[str, ObjectType, int], QConfig | None
        ] = {}
        self.integer_biases = False

    def set_global(self, global_qconfig: QConfig | None) -> Self:
        """Gives a qconfig to all that no other rule matches."""
        self.global_qconfig = _checked(global_qconfig)
        return self

    def set_object_type(self, object_type: ObjectType, qconfig: QConfig | None) -> Self:
        """Gives a qconfig to a module class, a function, or a tensor method by its name.

        Raises:
            ArgumentError: None of these.
        """
        check_object_type("set_object_type", object_type)
        self.object_type_qconfigs[object_type] = _checked(qconfig)
        return self

    def set_module_name_regex(self, module_name_regex: str, qconfig: QConfig | None) -> Self:
        """Gives a qconfig to modules whose path matches a pattern from its start.

        Raises:
            ArgumentError: Not a regular expression.
        """
        check_type("set_module_name_regex", "the pattern", module_name_regex, str, "text")
        try:
            re.compile(module_name_regex)
        except re.error as error:
            raise ArgumentError(
                "set_module_name_regex: not a regular expression",
                received=repr(module_name_regex),
                fix=f"Python's re says: {error}.",
            ) from error
        self.module_name_regex_qconfigs[module_name_regex] = _checked(qconfig)
        return self

    def set_module_name(self, module_name: str, qconfig: QConfig | None) -> Self:
        """Gives a qconfig to a module, by its path, and to all that is inside it.

        Where no operator is meant, an input of the graph may be, by the argument's name: how it is
        quantized is else decided by the first step that reads it.

        Raises:
            DTypeError: The path is not text.
        """
        check_type("set_module_name", "the path", module_name, str, "text, such as 'block1.conv'")
        self.module_name_qconfigs[module_name] = _checked(qconfig)
        return self

    def set_module_name_object_type_order(
        self, module_name: str, object_type: ObjectType, index: int, qconfig: QConfig | None
    ) -> Self:
        """Gives a qconfig to one operator of a type within a module.

        Args:
            module_name: Path of the module that contains the operator; ``""`` for the model.
            object_type: Module class or function.
            index: Which of its kind in that module, from 0, in order of execution.
            qconfig: What it gives.

        Raises:
            DTypeError: The path is not text.
            ArgumentError: Not an object type, or not a number from 0.
        """
        caller = "set_module_name_object_type_order"
        check_type(caller, "the path", module_name, str, "text, such as 'block1'")
        check_object_type(caller, object_type)
        if type(index) is not int or index < 0:
            raise ArgumentError(f"{caller}: the index counts from 0", received=brief(index))
        key = (module_name, object_type, index)
        self.module_name_object_type_order_qconfigs[key] = _checked(qconfig)
        return self

    def set_integer_biases(self, integer_biases: bool = True) -> Self:
        """Has linear layers and convolutions compute as integer runtimes do, bias included.

        The reference adds a bias as a real number; they hold it as int32 codes of ``s_x · s_w`` and
        multiply the sum by ``s_x·s_w/s_y``: see ``integer_bias`` of `qlab.ops.linear`. It holds in
        converted graphs where integers of at most 8 bits are multiplied and ``s_x·s_w`` is at most
        half an output step; elsewhere biases stay real, and a plan says why (not of too coarse
        units, which calibration decides). Only the exact kernel, a slower one, does.

        Raises:
            ArgumentError: Neither True nor False.
        """
        if not isinstance(integer_biases, bool):
            raise ArgumentError(f"set_integer_biases takes True or False, not {integer_biases!r}")
        self.integer_biases = integer_biases
        return self

    def rules(self) -> tuple[Rule, ...]:
        """All rules, from the strongest to the weakest; the words of each are unique."""
        return tuple(self._rules())

    def _rules(self) -> Iterator[Rule]:
        for style in _STYLES:
            for key, qconfig in self._table(style).items():
                yield Rule(style, key, qconfig)
        if self.global_qconfig is not None:
            yield Rule("global", "", self.global_qconfig)

    def _table(self, style: str) -> dict[Any, QConfig | None]:
        return getattr(self, f"{style}_qconfigs")

    def copy(self) -> QConfigMapping:
        """A mapping with the same rules, to be changed on its own."""
        return QConfigMapping.from_dict(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The reference's form; ``""`` for global, and `integer_biases` where they are set."""
        return {
            "": self.global_qconfig,
            **{style: list(self._table(style).items()) for style in reversed(_STYLES[1:])},
            _STYLES[0]: [(*key, qconfig) for key, qconfig in self._table(_STYLES[0]).items()],
            **self._told(),
        }

    def _told(self) -> dict[str, bool]:
        return {INTEGER_BIASES: True} if self.integer_biases else {}

    @classmethod
    def from_dict(cls, qconfig_dict: Mapping[str, Any]) -> QConfigMapping:
        """Inverse of `to_dict`; every key may be missing.

        Raises:
            FormatError: An unknown key.
        """
        check_type("QConfigMapping", "its dict form", qconfig_dict, Mapping, "a dict")
        if unknown := qconfig_dict.keys() - {"", *_STYLES, INTEGER_BIASES}:
            raise FormatError(
                "A QConfigMapping has no such kind of rule",
                expected='"", ' + ", ".join(_STYLES),
                received=", ".join(sorted(map(repr, unknown))),
            )
        made = cls()
        made.set_global(qconfig_dict.get(""))
        made.set_integer_biases(qconfig_dict.get(INTEGER_BIASES, False))
        setters: dict[str, Callable[..., Any]] = {
            "object_type": made.set_object_type,
            "module_name_regex": made.set_module_name_regex,
            "module_name": made.set_module_name,
            "module_name_object_type_order": made.set_module_name_object_type_order,
        }
        for style, setter in setters.items():
            rules = qconfig_dict.get(style, ())
            check_type("QConfigMapping", f"the rules of {style!r}", rules, Iterable, "a list")
            for rule in rules:
                _check_rule(style, rule)
                setter(*rule)
        return made

    def to_json(self, indent: int | None = None) -> str:
        """The mapping as JSON, read back by `from_json`.

        Args:
            indent: Spaces per level; None for one line.

        Raises:
            UnknownNameError: A qconfig that makes no registered observer, or an object type that
                is not known by name.
        """
        rules = [
            {
                "style": rule.style,
                "key": _key_to_json(rule),
                "qconfig": qconfig_to_dict(rule.qconfig),
            }
            for rule in self._rules()
        ]
        return json.dumps({"version": 1, **self._told(), "rules": rules}, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> QConfigMapping:
        """Inverse of `to_json`. Names are looked up in tables; nothing is imported or run.

        Raises:
            FormatError: Not what `to_json` writes.
            UnknownNameError: An unknown observer, data type, class or function.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise FormatError("Not the JSON of a QConfigMapping", received=str(error)) from error
        rules = data.get("rules") if isinstance(data, dict) else None
        if not isinstance(rules, list) or data.get("version") != 1:
            raise FormatError(
                "Not the JSON of a QConfigMapping",
                expected='{"version": 1, "rules": [...]}',
                received=text[:80],
            )
        read: dict[str, Any] = {style: [] for style in _STYLES}
        read[INTEGER_BIASES] = data.get(INTEGER_BIASES, False)
        if not isinstance(read[INTEGER_BIASES], bool):
            raise FormatError(f"{INTEGER_BIASES!r} is no truth value", expected="true or false")
        for rule in rules:
            style, key = _style_and_key(rule)
            qconfig = qconfig_from_dict(rule["qconfig"])
            if style == "global":
                read[""] = qconfig
            else:
                read[style].append((*key, qconfig))
        return cls.from_dict(read)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QConfigMapping):
            return NotImplemented
        return self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[Any, ...]:
        # The order of patterns decides which one wins; the order of other rules does not.
        regexes = tuple(self.module_name_regex_qconfigs.items())
        tables = (self._table(style) for style in _STYLES if style != "module_name_regex")
        biases = self.integer_biases
        return self.global_qconfig, biases, regexes, *(frozenset(t.items()) for t in tables)

    def __repr__(self) -> str:
        lines = [f"  {rule}: {rule.qconfig}" for rule in self._rules()]
        lines += ["  integer biases"] if self.integer_biases else []
        return "\n".join(["QConfigMapping(", *lines, ")"])


def _checked(qconfig: QConfig | None) -> QConfig | None:
    if qconfig is None or isinstance(qconfig, QConfig):
        return qconfig
    raise ArgumentError(
        "A rule gives a QConfig",
        expected="a qlab QConfig, or None to keep the match in floating point",
        received=repr(qconfig),
    )


def _key_to_json(rule: Rule) -> Any:
    match rule.style:
        case "object_type":
            return object_type_to_dict(rule.key)
        case "module_name_object_type_order":
            module, object_type, index = rule.key
            return [module, object_type_to_dict(object_type), index]
    return rule.key


def _style_and_key(rule: object) -> tuple[str, tuple[Any, ...]]:
    match rule:
        case {"style": "global", "key": "", "qconfig": _}:
            return "global", ("",)
        case {"style": "object_type", "key": dict(key), "qconfig": _}:
            return "object_type", (object_type_from_dict(key),)
        case {"style": "module_name" | "module_name_regex" as style, "key": str(key), "qconfig": _}:
            return style, (key,)
        case {
            "style": "module_name_object_type_order" as style,
            "key": [str(module), dict(object_type), int(index)],
            "qconfig": _,
        }:
            return style, (module, object_type_from_dict(object_type), index)
    raise FormatError("Not a rule of a QConfigMapping", received=repr(rule))


def resolve(
    mapping: QConfigMapping,
    name: str,
    object_type: ObjectType | Sequence[ObjectType],
    *,
    scope: str | None = None,
    index: int | None = None,
) -> Resolution:
    """What a mapping says of one operator, and by which rule.

    Args:
        mapping: The rules.
        name: Path of the module; for a function or method the path of the module that calls it
            plus the function's own name, such as ``"block1.add"``.
        object_type: Module class, function or method name. Of several the first that has a rule
            counts: a fused module is asked for as ``(ConvReLU2d, nn.Conv2d)``, a function also by
            the class of the module that calls it.
        scope: Path of the module around; by default ``name`` without its last part.
        index: Which of its kind in ``scope``, from 0.

    Returns:
        ``(qconfig, rule)``; ``(None, "no rule")`` where nothing matches.
    """
    types: Sequence[Any] = object_type if isinstance(object_type, Sequence) else (object_type,)
    if isinstance(object_type, str):
        types = (object_type,)
    scope = name.rpartition(".")[0] if scope is None else scope
    for style, keys in (
        ("module_name_object_type_order", [(scope, kind, index) for kind in types]),
        ("module_name", _prefixes(name)),
        ("module_name_regex", [p for p in mapping.module_name_regex_qconfigs if re.match(p, name)]),
        ("object_type", types),
    ):
        table = mapping._table(style)
        for key in keys:
            if key in table:
                return Resolution(table[key], str(Rule(style, key, table[key])))
    if mapping.global_qconfig is None:
        return Resolution(None, "no rule")
    return Resolution(mapping.global_qconfig, "global")


def _prefixes(name: str) -> Iterator[str]:
    """The path of a module and of all modules around it, the innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _check_rule(style: str, rule: Any) -> None:
    length = 4 if style == _STYLES[0] else 2
    if not isinstance(rule, list | tuple) or len(rule) != length:
        raise FormatError(
            f"A rule of {style!r} is not complete",
            expected=f"{length - 1} parts that say what it matches, and a qconfig"
            if length > 2
            else "what it matches, and a qconfig",
            received=repr(rule),
        )
