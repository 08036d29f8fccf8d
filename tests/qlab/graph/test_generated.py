"""Sums behind convolutions are written where a dead operand lies, and never where one lives on."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from qlab.graph import convert_fx, prepare_fx
from qlab.graph.custom import PrepareCustomConfig
from qlab.graph.generated import write_for_speed
from qlab.nn import intrinsic as nni
from qlab.ops import fused

LAST = torch.channels_last
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def summed(size: int = 1) -> nni.ConvAdd2d:
    return nni.ConvAdd2d(nn.Conv2d(4, 4, size, padding=size // 2), torch.add)


class Net(nn.Module):
    """``end`` says what becomes of a value and of its sum with a convolution of it."""

    def __init__(self, end: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.third, self.last = (nn.Conv2d(n, 4, 1) for n in (3, 4, 4))
        self.second, self.fourth = summed(3), summed()
        self.pool, self.drop, self.act = nn.MaxPool2d(2, 1), nn.Dropout(), nn.ReLU()
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self, self.act(self.first(x)))


DEAD: dict[str, Callable[..., Any]] = {
    "read before by a convolution": lambda net, r: net.last(net.second(net.third(r), r)),
    "read by the sum alone": lambda net, r: net.last(net.second(r, net.third(r))),
    "pooled": lambda net, r: net.last(net.second(net.third(p := net.pool(r)), p)),
    "a sum itself": lambda net, r: net.last(net.fourth(s := net.second(net.third(r), r), s + r)),
    "a sum twice": lambda net, r: net.last(net.fourth(net.third(s := net.second(r, r)), s)),
}
ALIVE: dict[str, Callable[..., Any]] = {
    "read again": lambda net, r: (net.last(net.second(net.third(r), r)), net.last(r)),
    "added again": lambda net, r: net.last(net.second(net.third(r), r) + r),
    "returned": lambda net, r: (net.last(net.second(net.third(r), r)), r),
    "a view of it is returned": lambda net, r: (
        v := r.flatten(1), net.last(net.second(net.third(r), r)), v,
    ),
    "a view of it is read": lambda net, r: (
        v := r.transpose(1, 2), net.last(net.second(net.third(r), r)), net.last(v.transpose(1, 2)),
    ),
    "itself a view": lambda net, r: (
        net.last(net.second(net.third(r), r.transpose(2, 3).transpose(2, 3))), net.last(r),
    ),
    "itself the same as another": lambda net, r: (
        net.last(net.second(net.third(r), net.drop(r))), net.last(r),
    ),
    "both operands": lambda net, r: net.last(net.fourth(r, r)),
}  # fmt: skip


def converted(end: Callable[..., Any]) -> fx.GraphModule:
    torch.manual_seed(0)
    prepared = prepare_fx(Net(end).eval().requires_grad_(False), "int8", X)
    prepared(X)
    return convert_fx(prepared)


def flat(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def check(made: fx.GraphModule, x: Tensor = X) -> None:
    """Calls give what the nodes one by one give, which know nothing of dead operands."""
    wanted = [part.clone() for part in flat(fx.Interpreter(made).run(x))]
    for _ in range(3):
        found = flat(made(x))
        assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every sum that oneDNN or another kernel computes: whether it may write to an operand."""
    seen: list[bool] = []
    bound = fused._bound_sum

    def watched(*arguments: Any) -> Any:
        run = bound(*arguments)
        assert run is not None

        def compute(x: Tensor, other: Tensor, dead: bool = False) -> Tensor:
            seen.append(dead)
            return run(x, other, dead)

        return compute

    monkeypatch.setattr(fused, "_bound_sum", watched)
    return seen


@pytest.mark.parametrize("end", DEAD)
def test_a_dead_operand_may_be_written_to(end: str, written: list[bool]):
    made = converted(DEAD[end])
    check(made)
    n = made.code.count(".last_use(")
    assert n == 1 and sum(written) == 3


def test_the_first_call_of_a_graph_writes_to_no_operand(written: list[bool]):
    made = converted(DEAD["pooled"])
    made(X)
    made(X)
    assert written == [False, True]


@pytest.mark.parametrize("end", ALIVE)
def test_an_operand_that_lives_on_is_not_written_to(end: str, written: list[bool]):
    check(converted(ALIVE[end]))
    assert written and not any(written)


@pytest.mark.parametrize("given", ["as an input", "as a constant"])
def test_what_is_the_graphs_for_longer_than_a_call_is_not_written_to(
    given: str, written: list[bool]
):
    made = converted(DEAD["pooled"])
    other = torch.randint(0, 256, (2, 4, 6, 6), dtype=torch.uint8).contiguous(memory_format=LAST)
    x, before = torch.full_like(other, 3), other.clone()
    graph, targets = fx.Graph(), {"second": made.get_submodule("second"), "constant": other}
    nodes = graph.placeholder("x"), graph.placeholder("other")
    if given == "as a constant":
        nodes = nodes[0], graph.get_attr("constant")
    graph.output(graph.call_module("second", nodes))
    write_for_speed(graph, targets)
    whole = fx.GraphModule(targets, graph)
    wanted = whole.get_submodule("second")(x, other)
    for _ in range(3):
        assert torch.equal(whole(x, other), wanted)
    assert torch.equal(other, before) and len(written) == 4 and not any(written)


def test_codes_that_a_model_is_given_are_not_written_to():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 1), summed()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x), x)

    codes, x = PrepareCustomConfig().set_input_quantized_indexes([0]), torch.randn(2, 4, 6, 6)
    prepared = prepare_fx(Sum().eval(), "int8", x, prepare_custom_config=codes)
    prepared(x)
    given = torch.randint(0, 256, x.shape, dtype=torch.uint8).contiguous(memory_format=LAST)
    before = given.clone()
    check(convert_fx(prepared), given)
    assert torch.equal(given, before)


@pytest.mark.parametrize("where", ["maker", "reader", "reader, before", "sum", "everywhere"])
def test_what_a_hook_has_seen_is_not_written_to(where: str, written: list[bool]):
    made = converted(DEAD["read before by a convolution"])
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor = X) -> None:
        kept.extend((x, x.clone()) for x in (*inputs, output))

    first, second, third = map(made.get_submodule, ("first", "second", "third"))
    handle = {
        "maker": lambda: first.register_forward_hook(keep),
        "reader": lambda: third.register_forward_hook(keep),
        "reader, before": lambda: third.register_forward_pre_hook(keep),
        "sum": lambda: second.register_forward_hook(keep),
        "everywhere": lambda: nn.modules.module.register_module_forward_hook(keep),
    }[where]()
    try:
        for _ in range(3):
            made(X)
    finally:
        handle.remove()
    assert kept and all(torch.equal(x, before) for x, before in kept)
    assert not any(written)
    made(X)
    assert written[-1]


def test_who_reads_a_value_in_an_edited_graph_gets_it(written: list[bool]):
    made = converted(DEAD["pooled"])
    graph = made.graph
    (output,) = graph.find_nodes(op="output")
    (pool,) = (node for node in graph.nodes if node.target == "pool")
    output.args = ((output.args[0], pool),)
    made.recompile()
    check(made)
    assert ".last_use(" not in made.code and not any(written)


def test_a_maker_replaced_by_one_of_other_habits_is_noticed(written: list[bool]):
    made = converted(DEAD["pooled"])
    made.pool = nn.Identity()
    wanted = fx.Interpreter(made).run(X)
    assert all(torch.equal(made(X), wanted) for _ in range(3)) and not any(written)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_compute_the_same(copied: Callable[[fx.GraphModule], fx.GraphModule]):
    made = converted(DEAD["a sum itself"])
    again = copied(made)
    check(again)
    assert all(torch.equal(again(X), made(X)) for _ in range(2))
    calls = [node.kwargs for node in again.graph.nodes if node.op == "call_module"]
    assert calls and not any(calls)
