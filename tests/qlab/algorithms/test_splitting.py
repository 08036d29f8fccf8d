"""Outlier-channel splitting: the float function stays, large weights are halved, layers grow."""

import pytest
import torch
from torch import nn

import qlab
from qlab.algorithms.splitting import copies_for, source_channels, split_weight
from qlab.errors import ArgumentError
from qlab.granularity import PerAxis, PerGroup, PerTensor
from qlab.qparams import dequantize, fake_quantize, quantize
from qlab.ranges import Fixed, MinMax, TensorSpec
from tests.qlab.algorithms.transformers import block_lab, weights_of

MAPPING = "int8-per-tensor"


class Net(nn.Module):
    """Convolutions that may grow, then linear layers, one behind GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.relu = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU6()
        self.two, self.pool, self.flat = nn.Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.three, self.gelu, self.four = nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 4)

    def forward(self, x):
        x = self.flat(self.pool(self.two(self.relu(self.norm(self.one(x))))))
        return self.four(self.gelu(self.three(x)))


def images(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 2, 7, 7, generator=torch.Generator().manual_seed(1))


def net_lab(model: nn.Module | None = None, x: torch.Tensor | None = None) -> qlab.Lab:
    torch.manual_seed(0)
    made = (model or Net()).eval().requires_grad_(False)
    if model is None:
        made.two.weight[:, 3] *= 6
        made.three.weight[2, 5] = 3.0
        made.four.weight[1, 7] = -4.0
    x = images() if x is None else x
    return qlab.Lab(made, (x[:1],), [x], [x])


@pytest.fixture(scope="module")
def lab() -> qlab.Lab:
    return net_lab()


@pytest.fixture(scope="module")
def repaired(lab):
    return lab.repair_with("split", MAPPING)


def test_the_float_network_computes_the_same_with_more_channels(lab, repaired):
    x = images()
    torch.testing.assert_close(repaired.model(x), lab.graph(x), rtol=1e-4, atol=1e-6)
    table = repaired.report.layers
    assert table.added["two"] > 0 and table.added["four"] > 0
    for writer, reader in (("one", "two"), ("two", "three"), ("three", "four")):
        before, after = lab.graph.get_submodule, repaired.model.get_submodule
        grown = len(next(after(writer).parameters())) - len(next(before(writer).parameters()))
        assert grown == table.added[reader]
        assert table.changed[writer] and table.changed[reader]
        assert table.reason[reader].endswith(f"at its output; {writer!r} writes them")
    assert after("four").in_features == after("three").out_features == 16 + table.added["four"]
    assert lab.graph.get_submodule("three").out_features == 16


def test_what_large_weights_cost_is_won_back(repaired):
    table = repaired.report.layers
    assert (table.error_ratio[["two", "three", "four"]] < 0.6).all()
    assert repaired.report.gain("sqnr") > 3
    assert "channels beside its 8" in table.reason["two"]


@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_nearest_codes_of_copies_sum_to_the_nearest_code(granularity, symmetric):
    weight = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(2))
    copies = torch.tensor([1, 2, 3, 1, 4, 2])
    dtype = qlab.qint8 if symmetric else qlab.quint8
    qparams = TensorSpec(dtype, symmetric, granularity, MinMax()).qparams_of(weight)
    made = split_weight(weight, copies, qparams)
    index = source_channels(copies)
    assert made.shape == (5, 13, 3) and index.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 4, 4, 5, 5]
    joined = torch.zeros_like(weight).index_add_(1, index, made)
    torch.testing.assert_close(joined, weight)
    rounded = torch.zeros_like(weight).index_add_(1, index, fake_quantize(made, qparams))
    nearest = fake_quantize(weight, qparams)
    inside = (nearest - weight).abs() < 0.499 * granularity.expand(qparams.scale, weight.shape)
    assert inside.double().mean() > 0.9  # two copies may hold what one clips
    torch.testing.assert_close(rounded[inside], nearest[inside], rtol=1e-4, atol=1e-5)
    halves = split_weight(weight, copies)
    assert torch.equal(halves[:, 1], halves[:, 2]) and torch.equal(halves[:, 1], weight[:, 1] / 2)


def test_channels_of_the_largest_weights_are_split_first_and_again():
    weight = torch.tensor([[1.0, -9.0, 4.0], [2.0, 1.0, 0.5]])
    assert copies_for(weight, 1).tolist() == [1, 2, 1]
    assert copies_for(weight, 2).tolist() == [1, 3, 1]
    assert copies_for(weight, 3).tolist() == [1, 3, 2]


@pytest.mark.parametrize("mapping", [MAPPING, weights_of(4), weights_of(3, PerTensor())])
def test_converting_gives_the_scales_that_were_chosen(lab, mapping):
    repaired = lab.repair_with("split", mapping)
    better = lab.apply(repaired)
    converted, plan = better.convert(repaired.mapping), better.plan(repaired.mapping)
    changed = repaired.report.layers.index[repaired.report.layers.added > 0]
    assert len(changed) >= 2
    for name in changed:
        spec, weight = plan.step(name).weight, better.weight(name)
        assert isinstance(spec.policy, Fixed)
        held = converted.get_submodule(name).weight()
        assert torch.equal(held.codes, quantize(weight, held.qparams).to(held.codes.dtype))
        rounded = dequantize(held.codes, held.qparams)
        assert (rounded - weight).abs().max() < 2 * held.qparams.scale.max()
    assert better.compare(repaired.mapping).output == repaired.report.after
    assert (repaired.report.layers.error_ratio.dropna() < 1).all()


def test_refusals_have_reasons(lab, repaired):
    kept = lab.repair_with("split", MAPPING, ["one"]).report
    assert kept.refusals["one"].startswith("it reads the network's input")
    assert repaired.report.layers.reason["one"] == (
        "has the channels twice that 'two' splits; it reads the network's input, which has the "
        "width that it has"
    )
    grouped = lab.repair_with("split", weights_of(4, PerGroup(4)), ["four", "pool"]).report
    assert grouped.refusals["four"] == "its input channels do not share their scales"
    assert grouped.refusals["pool"].startswith("it is no linear layer")
    float8 = lab.repair_with("split", "float8", ["four"]).report
    assert "not evenly spaced" in float8.refusals["four"]
    block = block_lab().repair_with("split", MAPPING).report.refusals
    assert block["a"].endswith("before it, fixes the width of its input")
    rounded = lab.apply(lab.repair_with("gptq", weights_of(4), ["three"]))
    report = rounded.repair_with("split", rounded.mapping).report
    assert report.refusals["four"] == (
        "the weights of 'three', before it, lie on a fixed grid already"
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(x))


class Twice(Residual):
    def forward(self, x):
        return self.b(self.a(self.a(x)))


class Across(nn.Module):
    """A linear layer that reads rows of images, as many as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("model", "x", "layer", "reason"),
    [
        (Residual(), torch.randn(9, 6), "b", "what 'a' writes is read elsewhere too"),
        (Residual(), torch.randn(9, 6), "c", "fixes the width of its input"),
        (Twice(), torch.randn(9, 6), "b", "uses the weights of 'a_1' several times"),
        (Across(), torch.randn(9, 2, 6, 6), "b", "are not those that 'a' writes"),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1)),
            torch.randn(9, 4, 3, 3),
            "1",
            "'0', which writes its input, is a convolution in groups",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1, groups=2)),
            torch.randn(9, 4, 3, 3),
            "1",
            "its input channels come in groups",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(36, 2)),
            torch.randn(9, 4, 3, 3),
            "2",
            "are not those that '0' writes",
        ),
        (
            nn.Sequential(nn.Linear(6, 8), nn.MaxPool1d(1), nn.Linear(8, 2)),
            torch.randn(9, 3, 6),
            "2",
            "are not those that '0' writes",
        ),
    ],
)
def test_where_the_width_is_fixed_it_is_refused(model, x, layer, reason):
    report = net_lab(model, x).repair_with("split", MAPPING, [layer]).report
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(report.refusals[layer])


def test_where_nothing_is_gained_nothing_grows():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight.copy_(torch.ones(4, 4))
    x = torch.randn(30, 4)
    repaired = net_lab(model, x).repair_with("split", MAPPING, shares=(0.25,))
    assert repaired.report.refusals["1"] == "no split of its channels lowers the error"
    assert repaired.reference is None and repaired.model.get_submodule("1").in_features == 4


def test_a_layer_that_was_not_asked_for_does_not_grow(lab):
    repaired = lab.repair_with("split", MAPPING, ["four"])
    assert repaired.report.refusals == {"four": "it is tied to 'three', which was not asked for"}
    assert repaired.model.get_submodule("three").out_features == 16


def test_a_layer_that_stays_in_float_grows_and_is_named(lab):
    mapping = qlab.presets.get(MAPPING).mapping().set_module_name("three", None)
    repaired = lab.repair_with("split", mapping)
    assert "three" not in repaired.report.layers.index
    assert repaired.report.layers.reason["four"].endswith("'three' writes them")
    assert repaired.model.get_submodule("three").out_features > 16


def test_what_batch_norm_says_grows_along(lab, repaired):
    better = lab.apply(repaired)
    corrected = better.repair_with("bias_correction", repaired.mapping, ["two"], how="analytic")
    assert corrected.report.layers.changed["two"]
    assert corrected.report.samples == 0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"shares": ()}, "shares lie between 0 and 1"),
        ({"shares": (0.0,)}, "shares lie between 0 and 1"),
        ({"samples": 0}, "samples is a whole number"),
    ],
)
def test_settings_must_make_sense(lab, settings, match):
    with pytest.raises(ArgumentError, match=match):
        lab.repair_with("split", MAPPING, **settings)


def test_cancelling_in_the_middle_leaves_everything_as_it_was(lab):
    told = []
    stopped = lab.repair_with(
        "split",
        MAPPING,
        on_progress=lambda *args: told.append(args[2]),
        should_stop=lambda: told[-1:] == ["splitting channels of three"],
    )
    assert not stopped.report.complete and stopped.model is lab.graph


def test_the_grown_network_is_saved_exported_and_repaired_again(lab, repaired, tmp_path):
    better, x = lab.apply(repaired), images()
    loaded = qlab.load_lab(better.save(tmp_path / "a.lab"), evaluation=[x])
    assert loaded.compare(loaded.mapping).output == repaired.report.after
    expected = better.convert(repaired.mapping)(x)
    path = better.export(tmp_path / "model.safetensors", repaired.mapping)
    assert torch.equal(qlab.load_quantized(path)(x), expected)
    better.export(tmp_path / "model.onnx", repaired.mapping)
    again = better.repair_with("split", repaired.mapping)
    assert "fixed grid already" in again.report.refusals["four"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_models_of_another_precision_are_split(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3)).eval()
    model[2].weight.data[:, 0] *= 20
    data = [torch.randn(8, 3, 8, 8).to(dtype)]
    lab = qlab.Lab(model.to(dtype), (data[0],), data, data)
    report = lab.repair_with("split", "int8-per-tensor").report
    assert report.layers.changed["2"]
