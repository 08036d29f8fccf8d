"""Every sample model keeps what its table promises."""

import json
import subprocess
import sys

import pytest
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import sample_models
from sample_models.catalog import METADATA_FILE, weights_file
from sample_models.readme import README_FILE, table

ALL = sample_models.names()
TRAINED = sample_models.names(trained=True)
UNTRAINED = sample_models.names(trained=False)


def test_names():
    assert TRAINED == ("mlp", "conv_bn_relu", "residual", "depthwise", "vit", "norms")
    assert UNTRAINED == ("resnet18", "mobilenet_v2")
    assert TRAINED + UNTRAINED == ALL


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError) as raised:
        sample_models.load("resnet")
    assert str(raised.value) == f"Unknown sample model 'resnet'; choose one of {', '.join(ALL)}."


@pytest.mark.parametrize("name", ALL)
def test_models_are_ready_for_inference(name):
    sample = sample_models.load(name)
    assert sample.name == name
    assert not any(module.training for module in sample.model.modules())
    assert not any(parameter.requires_grad for parameter in sample.model.parameters())
    logits = sample.model(*sample.example_inputs)
    assert logits.shape == (1, 10 if sample.trained else 1000)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_models_trace_and_compute_the_same(name):
    sample = sample_models.load(name)
    traced = fx.symbolic_trace(sample.model)
    images = sample.calibration(samples=3)[0]
    torch.testing.assert_close(traced(images), sample.model(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_loading_leaves_the_random_state_alone_and_gives_a_model_of_its_own(name):
    before = torch.random.get_rng_state()
    first = sample_models.load(name).model
    assert torch.equal(torch.random.get_rng_state(), before)
    for parameter in first.parameters():
        parameter.zero_()
    second = sample_models.load(name).model
    assert all(parameter.any() for parameter in second.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("name", TRAINED)
def test_accuracy_is_what_the_table_says(name):
    sample = sample_models.load(name)
    batches = sample.evaluation()
    right = sum((sample.model(images).argmax(1) == labels).sum() for images, labels in batches)
    accuracy = 100 * int(right) / sum(len(labels) for _, labels in batches)
    assert sample.accuracy == pytest.approx(accuracy)
    assert accuracy >= 97


@pytest.mark.parametrize("name", TRAINED)
def test_weights_are_small(name):
    assert weights_file(name).stat().st_size < 300_000


def test_metadata_names_the_trained_models():
    assert set(json.loads(METADATA_FILE.read_text())) == set(TRAINED)


def test_the_table_in_the_readme_is_up_to_date():
    assert table() in README_FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TRAINED)
def test_batches_of_digits(name):
    sample = sample_models.load(name)
    calibration = sample.calibration(samples=100, batch_size=32)
    assert [batch.shape for batch in calibration] == [(n, 1, 8, 8) for n in (32, 32, 32, 4)]
    evaluation = sample.evaluation(batch_size=200)
    assert [(images.shape, labels.shape) for images, labels in evaluation] == [
        ((n, 1, 8, 8), (n,)) for n in (200, 200, 100)
    ]
    assert "UCI" in sample.data


def test_more_digits_than_there_are_is_an_error():
    sample = sample_models.load("mlp")
    with pytest.raises(ValueError, match=r"between 1 and 256.* got 257"):
        sample.calibration(samples=257)


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_models_say_so(name):
    sample = sample_models.load(name)
    assert not sample.trained
    assert sample.accuracy is None
    assert sample.evaluation() == []
    assert "noise" in sample.data
    assert "untrained" in sample.title


def test_noise_is_seeded_whatever_the_number_and_the_batches():
    sample = sample_models.load("resnet18")
    some = torch.cat(sample.calibration(samples=2, batch_size=1))
    more = torch.cat(sample.calibration(samples=3, batch_size=3))
    assert more.shape == (3, 3, 224, 224)
    assert torch.equal(some, more[:2])
    assert not torch.equal(more[1], more[2])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample.calibration(samples=0)


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_models_are_built_alike_every_time(name):
    first, second = (sample_models.load(name).model.state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_689_512), ("mobilenet_v2", 3_504_872)]
)
def test_untrained_models_have_the_size_of_the_published_ones(name, parameters):
    model = sample_models.load(name).model
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", UNTRAINED)
def test_activations_of_untrained_models_neither_explode_nor_vanish(name):
    sample = sample_models.load(name)
    deviations = {}
    for path, module in sample.model.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.Linear):
            module.register_forward_hook(
                lambda _, __, output, path=path: deviations.update({path: output.std().item()})
            )
    sample.model(*sample.example_inputs)
    assert len(deviations) > 20
    assert min(deviations.values()) > 0.1
    assert max(deviations.values()) < 30


def folded_convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Convolutions with the batch norm behind them folded in, by the path of their block."""
    return {
        path: fuse_conv_bn_eval(block[0], block[1])
        for path, block in model.named_modules()
        if isinstance(block, nn.Sequential) and isinstance(block[0], nn.Conv2d)
    }


def test_weight_ranges_of_depthwise_channels_differ_widely():
    folded = folded_convolutions(sample_models.load("depthwise").model)
    spreads = [
        float(ranges.max() / ranges.min())
        for ranges in (conv.weight.abs().amax((1, 2, 3)) for conv in folded.values())
    ]
    assert len(spreads) == 9
    assert sorted(spreads)[-6] > 100
    assert max(spreads) < 10_000


def accuracy_with_int8_weights(per_channel: bool) -> float:
    """Of `depthwise` in percent, activations left in float."""
    sample = sample_models.load("depthwise")
    for path, conv in folded_convolutions(sample.model).items():
        limit = conv.weight.abs().amax((1, 2, 3) if per_channel else (0, 1, 2, 3), keepdim=True)
        conv.weight.copy_((conv.weight * 127 / limit).round() * limit / 127)
        block = sample.model.get_submodule(path)
        block[0], block[1] = conv, nn.Identity()
    ((images, labels),) = sample.evaluation(batch_size=500)
    return 100 * (sample.model(images).argmax(1) == labels).double().mean().item()


def test_depthwise_needs_one_scale_per_channel():
    accuracy = sample_models.load("depthwise").accuracy
    assert accuracy is not None
    assert accuracy_with_int8_weights(per_channel=True) >= accuracy - 0.6
    assert accuracy_with_int8_weights(per_channel=False) < accuracy - 30


def test_loading_a_model_does_not_load_torchs_compiler():
    code = (
        "import sys, sample_models\n"
        "for name in sample_models.names(trained=True): sample_models.load(name)\n"
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=README_FILE.parent.parent, check=True)
