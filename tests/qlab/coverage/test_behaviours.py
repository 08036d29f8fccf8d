"""Every public name of the reference does here what it does there: see `behaviours`."""

import pytest

from qlab.coverage import Name, names
from tests.qlab.coverage.behaviours import FUNCTIONAL, FUNCTIONS, METHODS, OBSERVERS, check


@pytest.mark.parametrize("name", names(), ids=lambda name: name.path)
def test_the_name_does_what_it_must(name: Name):
    check(name.place, name.name, name.resolve())


def test_no_check_is_left_over():
    known = {name.name for name in names()}
    for checks in (METHODS, FUNCTIONAL, FUNCTIONS, OBSERVERS):
        assert set(checks) <= known


def test_a_name_without_a_check_is_noticed():
    with pytest.raises(KeyError):
        check("qlab.quantization", "conjure", None)
