"""Which kernel runs can be asked, forced and counted."""

import threading

import pytest
import torch

from qlab import ops
from qlab.dtypes import integer, qint8, quint8
from qlab.errors import ArgumentError, ShapeError, UnknownNameError, UnsupportedError
from qlab.ops import onednn
from qlab.qparams import QParams
from tests.qlab.ops.examples import W, X, Y, codes

LAYER = (codes(quint8, 3, 4), X, codes(qint8, 6, 4), W, None, Y)
WIDE = QParams.per_tensor(0.01, 0, integer(16, signed=True))


def test_asking_runs_nothing() -> None:
    ops.reset_counts()
    assert ops.kernel_for("linear", *LAYER) == ("reference" if onednn.unavailable() else "onednn")
    assert ops.kernel_for("sigmoid", codes(quint8, 3), X, Y) == "reference"
    assert ops.counts() == {}


def test_asking_checks_the_arguments_as_the_operator_does() -> None:
    with pytest.raises(ShapeError, match="linear: the input does not fit"):
        ops.kernel_for("linear", codes(quint8, 3, 5), *LAYER[1:])


def test_unknown_operators_and_kernels_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown operator 'conv4d'.*Did you mean 'conv"):
        ops.kernel_for("conv4d")
    with (
        pytest.raises(UnknownNameError, match=r"Unknown kernel 'onednnn'.*Did you mean 'onednn'"),
        ops.use("onednnn"),
    ):
        pass


@pytest.mark.parametrize("operator", ["linear", "conv2d_add"])
def test_an_argument_that_is_missing_is_named_as_the_operator_names_it(operator: str) -> None:
    with pytest.raises(ArgumentError, match=f"what ops.{operator} takes.*missing.*'x'"):
        ops.kernel_for(operator)


@pytest.mark.parametrize("kernel", [["onednn"], 3, None])
def test_a_kernel_that_is_no_name_is_refused(kernel) -> None:
    with pytest.raises(UnknownNameError, match="Unknown kernel"), ops.use(kernel):
        pass


def test_runs_are_counted_by_operator_and_kernel() -> None:
    ops.reset_counts()
    with ops.use("reference"):
        ops.linear(*LAYER)
        ops.linear(*LAYER)
        ops.relu(LAYER[0], X)
    with ops.use("simulated"):
        ops.linear(*LAYER)
    wanted = {("linear", "reference"): 2, ("relu", "reference"): 1, ("linear", "simulated"): 1}
    assert ops.counts() == wanted
    ops.reset_counts()
    assert ops.counts() == {}


def test_the_innermost_choice_holds_and_ends_with_its_block() -> None:
    usual = ops.kernel_for("linear", *LAYER)
    with ops.use("simulated"):
        with ops.use("reference"):
            assert ops.kernel_for("linear", *LAYER) == "reference"
        assert ops.kernel_for("linear", *LAYER) == "simulated"
    with pytest.raises(RuntimeError), ops.use("simulated"):
        raise RuntimeError
    assert ops.kernel_for("linear", *LAYER) == usual


def test_the_choice_holds_for_its_own_thread_only() -> None:
    usual, seen = ops.kernel_for("linear", *LAYER), []
    with ops.use("simulated"):
        thread = threading.Thread(target=lambda: seen.append(ops.kernel_for("linear", *LAYER)))
        thread.start()
        thread.join()
    assert seen == [usual]


def test_a_forced_kernel_that_does_not_apply_says_why() -> None:
    wide = torch.zeros(3, 4, dtype=torch.int16)
    message = "linear: the forced kernel 'reference' cannot.*the input's type qint16 is not an int"
    with ops.use("reference"), pytest.raises(UnsupportedError, match=message):
        ops.linear(wide, WIDE, *LAYER[2:])


def test_operators_without_a_kernel_of_the_forced_name_run_as_usual() -> None:
    a, b = codes(quint8, 2, 3), codes(quint8, 3, 2)
    with ops.use("onednn"):
        assert ops.kernel_for("add", a, X, a, X, Y) == "reference"
        assert ops.kernel_for("matmul", a, X, b, X, Y) == "reference"
