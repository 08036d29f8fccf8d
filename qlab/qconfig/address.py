"""How the rules of a `QConfigMapping` may refer to one operator of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from qlab.object_types import ObjectType
from qlab.qconfig.mapping import QConfigMapping, Resolution, resolve
from qlab.qconfig.qconfig import QConfig


@dataclass(frozen=True)
class Address:
    """All that rules may call one operator.

    Attributes:
        name: Its own name; several calls of one module have names of their own.
        path: The name that all calls of the module share.
        types: What rules by type may call it, the strongest first. Addresses are equal without
            them: a model that was saved has lost the classes around its functions.
        index: Which of its kind in the module around it, from 0.
        parts: Names of operators that it took in, and that compute other numbers alone than
            together with it.
    """

    name: str
    path: str
    types: tuple[ObjectType, ...] = field(compare=False)
    index: int
    parts: tuple[str, ...] = ()

    @property
    def scope(self) -> str:
        """Path of the module around it."""
        return self.path.rpartition(".")[0]

    def resolve(self, mapping: QConfigMapping) -> Resolution:
        """What a mapping says of the operator, and by which rule.

        Float, by a rule that names one of its `parts` and asks something else of it.
        """
        own = self.name in mapping.module_name_qconfigs
        name = self.name if own else self.path
        found = resolve(mapping, name, self.types, scope=self.scope, index=self.index)
        for part in self.parts:
            asked = resolve(mapping, part, ())
            if asked.rule not in ("global", "no rule") and asked.qconfig != found.qconfig:
                return Resolution(None, asked.rule)
        return found

    def give(self, mapping: QConfigMapping, qconfig: QConfig | None) -> QConfigMapping:
        """Gives the operator a qconfig, whatever the mapping said of it; changes and returns it.

        By a rule for its name; a stronger one, for the operator's place among its kind in the
        module around it, is changed too.
        """
        made = mapping.set_module_name(self.name, qconfig)
        for kind in self.types:
            key = (self.scope, kind, self.index)
            if key in made.module_name_object_type_order_qconfigs:
                made.set_module_name_object_type_order(*key, qconfig)
                break  # of several the first that has a rule counts
        return made
