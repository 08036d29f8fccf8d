import copy
import functools
import pickle
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qlab
import sample_models
from qlab.execution import CachedRun, Program, RunStore
from qlab.graph.shapes import tensors_in
from tests.workflows.architectures import NETS

BUDGETS = (0, 3_000, 40_000, 2**30)
SAMPLES = sample_models.names(trained=True)


@functools.cache
def programs(name):
    """Float and quantized program of a model, and inputs."""
    torch.manual_seed(0)
    if name in NETS:
        build, make = NETS[name]
        model, inputs = build().eval(), make()
        data = [inputs]
    else:
        sample = sample_models.load(name)
        model, inputs = sample.model, (sample.calibration(5, 5)[0],)
        data = [inputs[0]]
    lab = qlab.Lab(model, inputs, data)
    return Program.of(lab.graph), Program.of(lab.convert()), inputs


@functools.cache
def run(name, quantized, budget):
    program, inputs = programs(name)[quantized], programs(name)[2]
    return CachedRun(program, inputs, budget)


def everything(program, inputs, changed=None):
    """Every value of a whole run in which some were replaced, by plain means."""
    values = program.bind(inputs)
    with torch.no_grad():
        for instruction in program.instructions:
            if instruction.op != "placeholder":
                values[instruction.name] = instruction.run(values)
            values |= {k: v for k, v in (changed or {}).items() if k == instruction.name}
    return values


def assert_same(a, b):
    first, second = tensors_in(a), tensors_in(b)
    assert len(first) == len(second)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("name", [*SAMPLES, *NETS])
@pytest.mark.parametrize("quantized", [False, True])
@settings(max_examples=25)
@given(data=st.data())
def test_a_change_gives_what_a_whole_run_gives_bit_by_bit(name, quantized, data):
    program, inputs = programs(name)[quantized], programs(name)[2]
    budget = data.draw(st.sampled_from(BUDGETS))
    values = everything(program, inputs)
    tensors = [n for n, v in values.items() if isinstance(v, torch.Tensor)]
    nodes = data.draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2, unique=True))
    changed = {node: values[node].flip(0) for node in nodes}
    expected = everything(program, inputs, changed)[program.output]
    assert_same(run(name, quantized, budget).rerun(changed), expected)


@pytest.mark.parametrize("name", [*SAMPLES, *NETS])
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_value_is_that_of_a_whole_run_whatever_was_kept(name, budget):
    program, _, inputs = programs(name)
    cached = run(name, False, budget)
    assert cached.bytes <= budget
    for node, value in everything(program, inputs).items():
        assert_same(cached.value(node), value)


def test_only_what_follows_a_change_runs():
    program, *_ = programs("residual")
    cached, ran = run("residual", False, 2**30), []
    layers = [i for i in program.instructions if i.op == "call_module"]
    hooks = [i.target.register_forward_hook(lambda m, *_: ran.append(m)) for i in layers]
    try:
        change = layers[-3].name
        cached.rerun({change: cached.value(change)})
    finally:
        for hook in hooks:
            hook.remove()
    below = program.downstream([change]) - {change}
    assert len(ran) == len([i for i in layers if i.name in below]) < len(layers)


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in "x" * 8))

    def forward(self, x):
        return self.layers(x)


def test_what_is_kept_of_a_chain_cuts_it_into_stretches():
    x = torch.randn(64, 64)
    graph = qlab.Lab(Chain().eval(), x, [x]).graph
    cached = CachedRun(Program.of(graph), (x,), 3 * 64 * 64 * 4)
    assert 1 <= len(cached.kept) <= 3
    assert not cached.complete
    names = [i.name for i in cached.program.instructions]
    gaps = [names.index(name) for name in cached.kept]
    assert min(gaps) > 1 or max(gaps) > 3  # not simply the first values


def other(program, name):
    """A program with another module at one place."""
    changed = copy.deepcopy(program.by_name[name].target)
    instructions = []
    for instruction in program.instructions:
        if instruction.name == name:
            made = copy.copy(instruction)
            object.__setattr__(made, "target", changed)
            instruction = made
        instructions.append(instruction)
    changed.weight = nn.Parameter(changed.weight * 2)
    return Program(tuple(instructions))


@pytest.mark.parametrize("budget", BUDGETS)
def test_another_program_reuses_the_values_that_it_shares(budget):
    program, _, inputs = programs("twice")
    variant = other(program, "out")
    assert variant.changed_from(program) == {"out", "output"}
    cached = CachedRun(program, inputs, budget)
    assert_same(cached.rerun({}, variant), everything(variant, inputs)[variant.output])
    changed = {"fc": cached.value("fc").neg()}
    expected = everything(variant, inputs, changed)[variant.output]
    assert_same(cached.rerun(changed, variant), expected)


@pytest.mark.parametrize("name", [*SAMPLES, *NETS])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_program_survives_pickling(name, quantized):
    program, inputs = programs(name)[quantized], programs(name)[2]
    copied = pickle.loads(pickle.dumps(program))
    with torch.no_grad():
        assert_same(copied.run(inputs), program.run(inputs))


def test_a_store_keeps_all_batches_where_they_fit_and_else_the_last():
    program, _, inputs = programs("residual")
    whole = run("residual", False, 2**30).bytes + inputs[0].numel() * 4
    for budget, kept in ((3 * whole, 3), (3 * whole - 1, 1), (0, 1)):
        store = RunStore(program, budget)
        made = [store.get(i, 3, (inputs[0] + i,)) for i in range(3)]
        again = [store.get(i, 3, (inputs[0] + i,)) for i in (2, 1, 0)][::-1]
        assert sum(a is b for a, b in zip(made, again, strict=True)) == kept
        if budget:
            assert store.bytes <= budget
        for i, cached in enumerate(again):
            with torch.no_grad():
                assert_same(cached.output, program.run((inputs[0] + i,)))


def test_a_store_notices_that_a_loader_gives_other_data_or_reuses_its_tensor():
    program, _, inputs = programs("residual")
    store, x = RunStore(program, 2**30), inputs[0].clone()
    before = store.get(0, 1, (x,)).output
    x.mul_(2)
    after = store.get(0, 1, (x,)).output
    assert not torch.equal(before, after)
    assert_same(after, program.run((x,)))


def test_random_changes_in_sequence_do_not_disturb_each_other():
    program, _, inputs = programs("encoder")
    cached, values = run("encoder", False, 3_000), everything(program, inputs)
    tensors = [n for n, v in values.items() if isinstance(v, torch.Tensor)]
    first = cached.output
    for node in random.Random(0).sample(tensors, 5):
        cached.rerun({node: torch.zeros_like(values[node])})
    assert_same(cached.output, first)
