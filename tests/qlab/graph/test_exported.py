"""Models that only `torch.export` gets through: same outputs, names, layers and honest sizes."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qlab
from qlab import presets
from qlab.errors import ShapeError, TraceError
from qlab.graph import annotate, convert, fuse, trace
from qlab.graph.inputs import bind
from qlab.graph.trace import symbolic


class Block(nn.Module):
    """Attention in plain functions; one dropout called twice."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.drop = nn.Dropout(0.1)

    def forward(self, x, mask):
        q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(4) + mask, -1)
        y = (self.drop(weights) @ v).transpose(1, 2).contiguous()
        return self.norm(x + self.drop(self.out(y.view(*y.shape[:-2], 16))))


class Encoder(nn.Module):
    """As libraries build them: keyword inputs, a mask that may be absent, a dict of outputs."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.pool = nn.Linear(16, 8)
        self.register_buffer("order", torch.arange(32)[None])

    def forward(self, ids=None, mask=None, hidden=False):
        if ids is None:
            raise ValueError("ids are needed")
        if mask is None:
            mask = torch.ones(ids.shape, device=ids.device)
        bias = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        x = self.words(ids) + self.places(self.order[:, : ids.size(1)])
        layers = []
        for block in self.blocks:
            x = block(x, bias)
            layers.append(x)
        found = {"last": x, "pooled": torch.tanh(self.pool(x[:, 0]))}
        return {**found, "layers": tuple(layers)} if hidden else found


class Steps(nn.Module):
    """Loops over the length of its input."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(8, 4)

    def forward(self, x):
        state = torch.zeros(x.shape[0], 4, device=x.device)
        for step in range(x.shape[1]):
            state = torch.tanh(self.cell(torch.cat([x[:, step], state], 1)))
        return state


class LargeOnly(nn.Module):
    """Does something else with a single sample."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.shape[0] > 1 else x


class Writing(nn.Module):
    """Decides on a shape, then writes into a part of a tensor."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        if y.shape[2] > 3:
            y += 1
        y = F.relu_(y)
        y[:, 0] = 0
        return y


def names(traced):
    return [node.meta["name"] for node in traced.graph.nodes]


def test_an_encoder_with_keywords_a_mask_and_a_dict_of_outputs():
    model = Encoder().eval()
    ids, mask = torch.randint(0, 50, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    traced = trace(model, {"ids": ids, "mask": mask, "hidden": True})
    expected, given = model(ids, mask, hidden=True), traced(ids, mask)
    assert list(given) == ["last", "pooled", "layers"]
    assert len(given["layers"]) == 2
    torch.testing.assert_close(given, expected)
    found = names(traced)
    assert {"words", "places", "blocks.1.qkv", "blocks.1.norm", "pool"} <= set(found)
    assert {"blocks.0.matmul", "blocks.0.softmax", "tanh"} <= set(found)
    assert len(found) == len(set(found))


def test_sizes_that_the_model_leaves_free_stay_free():
    model = Encoder().eval()
    traced = trace(model, torch.randint(0, 50, (1, 7)))
    for shape in ((1, 7), (5, 3), (2, 20)):
        ids = torch.randint(0, 50, shape)
        torch.testing.assert_close(traced(ids), model(ids))


def test_an_absent_mask_stays_absent():
    traced = trace(Encoder(), {"ids": torch.randint(0, 50, (2, 7))})
    assert [n.name for n in traced.graph.nodes if n.op == "placeholder"] == ["ids"]


def test_its_layers_are_quantized_as_those_of_a_traced_model():
    ids = torch.randint(0, 50, (4, 7))
    lab = qlab.Lab(Encoder().eval(), (ids,), [(ids,)])
    plan = lab.plan("int8")
    assert {s.execution for s in plan.steps if s.type in ("Linear", "LayerNorm")} == {"integer"}
    assert plan.step("blocks.0.softmax").execution == "integer"
    assert plan.step("blocks.0.drop_1").execution == "shared"
    assert plan.step("words").execution == "float"
    assert lab.compare("int8").output["sqnr"] > 15.0


def test_steps_that_follow_the_length_are_written_out_and_another_length_is_refused():
    model, x = Steps(), torch.randn(2, 3, 4)
    traced = trace(model, x)
    torch.testing.assert_close(traced(x), model(x))
    assert names(traced).count("cell") == 1 and "cell_2" in names(traced)
    with pytest.raises(ShapeError, match=r"another path.*Expected shape \(any, 3, 4\)"):
        traced(torch.randn(2, 5, 4))


def test_a_batch_of_one_is_refused_only_where_the_model_treats_it_apart():
    model = LargeOnly()
    traced = trace(model, torch.randn(3, 4))
    torch.testing.assert_close(traced(torch.ones(7, 4)), model(torch.ones(7, 4)))
    with pytest.raises(ShapeError, match=r"Expected shape \(2 or more, any\)"):
        traced(torch.randn(1, 4))
    alone = trace(model, torch.randn(1, 4))
    assert torch.equal(alone(torch.ones(1, 4)), torch.ones(1, 4))
    with pytest.raises(ShapeError, match=r"Expected shape \(1, any\)"):
        alone(torch.randn(2, 4))


def test_what_writes_in_place_gives_new_tensors():
    model, x = Writing().eval(), torch.randn(2, 3, 8, 8)
    traced = trace(model, x)
    torch.testing.assert_close(traced(x), model(x))
    assert {"conv", "norm"} <= set(names(traced))


def test_the_parts_of_attention_are_named_after_their_weights():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            return x + self.attn(x, x, x, need_weights=False)[0]

    model, x = Attends().eval(), torch.randn(2, 5, 16)
    traced = trace(model, x)
    torch.testing.assert_close(traced(x), model(x))
    assert {"attn.in_proj", "attn.out_proj"} <= set(names(traced))
    kept = trace(model, x, leaves={nn.MultiheadAttention})
    assert "attn" in names(kept) and "attn.in_proj" not in names(kept)
    assert "attn" in names(trace(model))  # without example inputs it stays whole


def test_transformer_layers_of_the_library_are_opened():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), seq()
    traced = fuse(trace(model, x))
    torch.testing.assert_close(traced(x), model(x))
    plan = annotate(traced, presets.get("int8").mapping())
    integer = {step.name for step in plan.steps if step.execution == "integer"}
    assert {"layers.0.self_attn.in_proj", "layers.1.linear2", "layers.1.norm2"} <= integer


def seq():
    return torch.randn(2, 5, 16)


def test_inputs_in_dicts_and_tuples_are_taken_apart():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, batch):
            assert isinstance(batch["x"], torch.Tensor)
            first, second = batch["pair"]
            return [self.fc(batch["x"]) + first, {"second": second}]

    model, x = Nested(), torch.randn(3, 4)
    batch = {"x": x, "pair": (x + 1, x + 2)}
    traced = trace(model, (batch,))
    torch.testing.assert_close(traced(batch), model(batch))


def test_tied_weights_stay_tied_and_layers_called_twice_have_two_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.relu = nn.Embedding(10, 8), nn.ReLU()
            self.head = nn.Linear(8, 10, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids):
            x = self.relu(self.words(ids))
            return self.head(self.relu(x - 1) if len(ids) > 1 else x)

    model, ids = Tied(), torch.randint(0, 10, (2, 3))
    traced = trace(model, ids)
    torch.testing.assert_close(traced(ids), model(ids))
    assert {"words", "relu", "relu_1", "head"} <= set(names(traced))
    assert traced.get_submodule("head").weight is traced.get_submodule("words").weight


def test_the_model_and_the_settings_of_torch_stay_as_they_are():
    model = Encoder().train()
    before = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(record=True) as caught:
        trace(model, torch.randint(0, 50, (2, 7)))
    assert model.training and torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled() is before
    assert not caught
    assert "lifted_tensor_0" not in dict(model.named_buffers())


def test_nothing_is_printed(capfd):
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError):
        trace(Deciding(), torch.randn(2, 3))
    assert capfd.readouterr() == ("", "")


def test_a_module_that_writes_to_its_state_has_no_graph():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return x + self.calls if x.shape[0] > 1 else x

    with pytest.raises(TraceError, match=r"no single graph|writes to its own state"):
        trace(Counting(), torch.randn(2, 3))


class Counts(nn.Module):
    """Counts its calls, in place or anew, and multiplies by that."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(3, 3), in_place
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return self.linear(x) * self.calls


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_what_a_straight_forward_writes_to_its_state_is_not_lost_silently(in_place, training):
    x, model = torch.randn(2, 3), Counts(in_place).train(training)
    with pytest.raises(TraceError, match=r"writes to its own state.*calls"):
        trace(model, x, training=training)
    assert model.calls.item() == 0
    lab = qlab.Lab(model, x, [x])
    assert not lab.traced
    quantized = lab.convert()
    sums = [quantized(x).abs().sum().item() for _ in range(2)]
    assert sums[1] > 1.2 * sums[0]  # it goes on counting


@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_stand_in_wrote_is_put_back_into_the_same_buffer(in_place):
    model = nn.Sequential(Counts(in_place), Counts(in_place))
    shared = model[1].calls = model[0].calls
    with pytest.raises(TraceError, match=r"writes to its own state.*calls"):
        symbolic(model, bind(model, torch.randn(2, 3)), ())
    assert model[0].calls is shared and model[1].calls is shared
    assert shared.item() == 0


def test_statistics_that_batch_norm_keeps_in_training_are_no_state_of_the_forward():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x) if x.shape[-1] == 3 else x

    x = torch.randn(4, 3)
    graph = trace(Sized(), x, training=True)
    assert torch.equal(graph(x), Sized()(x))


def test_a_converted_graph_still_refuses_what_its_float_graph_refuses():
    x = torch.randn(4, 3, 4)
    lab = qlab.Lab(Steps(), (x,), [x])
    converted = lab.convert("int8")
    assert converted(x).shape == (4, 4)
    with pytest.raises(ShapeError, match="another path"):
        converted(torch.randn(2, 5, 4))


def test_a_checkpoint_keeps_the_checks(tmp_path):
    x = torch.randn(4, 4)
    lab = qlab.Lab(LargeOnly(), (x,), [x])
    loaded = qlab.load_quantized(lab.export(tmp_path / "m.safetensors", "int8"))
    assert torch.equal(loaded(x), lab.convert("int8")(x))
    with pytest.raises(ShapeError, match="2 or more"):
        loaded(x[:1])


def test_convert_needs_no_more_than_a_plan():
    graph = fuse(trace(LargeOnly(), torch.randn(3, 4)))
    plan = annotate(graph, presets.get("int8-weights-only").mapping())
    assert convert(graph, plan, {})(torch.ones(3, 4)).shape == (3, 4)


def test_a_move_to_a_device_is_no_operator_and_a_change_of_dtype_is_one():
    class Moves(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x, weights):
            y = self.fc(x).to(dtype=torch.float32, device=x.device)
            return self.head(y) * weights.to(x.device, torch.float32) if len(x) > 1 else x

    model, x, weights = Moves(), torch.randn(3, 4), torch.tensor([1, 2])
    graph = fuse(trace(model, (x, weights)))
    torch.testing.assert_close(graph(x, weights), model(x, weights))
    assert not any("device" in node.kwargs for node in graph.graph.nodes)
    plan = annotate(graph, presets.get("int8").mapping())
    assert plan.step("detach").execution == "shared"
    assert plan.step("to").execution == "float"
