"""Every error says what was wrong, expected, received, and what to do."""

import pickle

import pytest

from qlab import errors
from qlab.errors import QlabError, UnknownNameError


def test_message_has_every_part_given():
    error = QlabError("Too wide.", expected="8 bits", received=9, fix="Narrow it.")
    assert str(error) == "Too wide. Expected 8 bits. Received 9. Narrow it."
    assert (error.problem, error.expected, error.received) == ("Too wide.", "8 bits", 9)
    assert str(QlabError("Too wide")) == "Too wide."
    assert str(QlabError("Odd", received=0)) == "Odd. Received 0."


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.DTypeError, TypeError),
        (errors.ShapeError, ValueError),
        (errors.ArgumentError, ValueError),
        (errors.OperandError, RuntimeError),
        (errors.OperandError, IndexError),
        (errors.OperandError, ValueError),
        (errors.NonFiniteError, ValueError),
        (errors.UncalibratedError, RuntimeError),
        (errors.UnfinishedError, RuntimeError),
        (errors.UnsupportedError, NotImplementedError),
        (errors.TraceError, RuntimeError),
        (errors.FormatError, ValueError),
        (errors.UnknownNameError, LookupError),
    ],
)
def test_is_also_the_builtin_that_people_catch(error: type[QlabError], builtin: type[Exception]):
    with pytest.raises(builtin, match="Wrong"):
        raise error("Wrong")
    assert issubclass(error, QlabError)


def test_survives_the_way_between_processes():
    error = errors.ShapeError("Wrong", expected="(2,)", received="(3,)", fix="Reshape it.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.ShapeError
    assert str(again) == str(error)
    assert again.fix == "Reshape it."


def test_what_failed_outside_is_named_with_what_was_measured():
    error = errors.UnfinishedError.of("Broke off.", OSError("disk gone"), "Go on.", partial=3)
    assert str(error) == "Broke off. Received OSError: disk gone. Go on."
    assert (error.partial, errors.UnfinishedError("Broke off").partial) == (3, None)
    bare = errors.UnfinishedError.of("Broke off", TimeoutError(), "Go on.")
    assert str(bare) == "Broke off. Received TimeoutError. Go on."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_unknown_name_lists_the_known_and_the_nearest():
    error = UnknownNameError.of("layer", "conv_1", ["conv1", "fc"])
    assert str(error) == "Unknown layer 'conv_1'. Expected one of: conv1, fc. Did you mean 'conv1'?"
    assert str(UnknownNameError.of("layer", "x", ["conv1"])).endswith("one of: conv1.")
    assert "none exist" in str(UnknownNameError.of("layer", "x", []))
