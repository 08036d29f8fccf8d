"""Training is seeded, and can be done again."""

import json
import sys

import pytest
import safetensors.torch
import torch

from sample_models import train
from sample_models.catalog import MODELS, Recipe
from sample_models.digits import Digits, load_digits


def some_digits() -> Digits:
    images, labels = load_digits("train")
    return Digits(images[:48], labels[:48])


@pytest.mark.parametrize("name", train.RECIPES)
def test_the_same_seed_gives_the_same_weights(name):
    recipe = Recipe(epochs=1, batch_size=16, seed=3)
    before = torch.random.get_rng_state()
    first = train.train(MODELS[name].build, recipe, some_digits())
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    second = train.train(MODELS[name].build, recipe, some_digits())
    other = train.train(MODELS[name].build, Recipe(epochs=1, batch_size=16), some_digits())
    assert not first.training
    weights = second.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in first.state_dict().items())
    assert not all(
        torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


def test_training_learns_digits_it_has_not_seen():
    model = train.train(MODELS["conv_bn_relu"].build, Recipe(epochs=5), load_digits("train"))
    assert train.accuracy(model, load_digits("test")) > 90


def test_images_are_moved_by_at_most_one_pixel():
    image = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    allowed = [padded[..., r : r + 4, c : c + 4] for r in range(3) for c in range(3)]
    moved = train._shifted(image.expand(500, 1, 4, 4))
    counts = [sum(torch.equal(one, place[0]) for one in moved) for place in allowed]
    assert sum(counts) == 500
    assert min(counts) > 0
    assert max(counts) == counts[4]


def test_weights_and_metadata_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(train.RECIPES, "mlp", Recipe(epochs=1))
    train.train_and_save(["mlp"], tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "mlp.safetensors")
    assert weights.keys() == MODELS["mlp"].build().state_dict().keys()
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["mlp"]["recipe"]["epochs"] == 1
    assert f"mlp: {metadata['mlp']['accuracy']} %" in capsys.readouterr().out
    train.train_and_save([], tmp_path)
    assert "mlp" in json.loads((tmp_path / "metadata.json").read_text())


def test_an_untrained_model_cannot_be_trained(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "mlp", "resnet18"])
    with pytest.raises(SystemExit):
        train.main()
    assert "cannot train resnet18; choose from mlp, conv_bn_relu," in capsys.readouterr().err
