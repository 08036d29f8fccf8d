"""The table of what shares its input's observer says only what the registry can do."""

from typing import Any

import pytest

from qlab import registry
from qlab.registry.sharing import SHARING, TRAINS_APART

WITHOUT_A_FORM = {"resize_", "detach_"}


def row_of(kind):
    if isinstance(kind, type):
        return registry.row_for_module(kind)
    return (
        registry.row_for_method(kind) if isinstance(kind, str) else registry.row_for_function(kind)
    )


def title(kind: Any) -> str:
    """A name that is the same in every process: `str` of a function may hold its address."""
    if isinstance(kind, str):
        return f"method {kind}"
    return f"{getattr(kind, '__module__', None)}.{kind.__qualname__}"


@pytest.mark.parametrize("kind", sorted(SHARING | TRAINS_APART, key=title), ids=title)
def test_what_shares_keeps_a_range_or_joins_tensors(kind):
    row = row_of(kind)
    if row is None:
        assert kind in WITHOUT_A_FORM
    else:
        assert row.output is registry.SHARED or row.name in ("cat", "stack")
