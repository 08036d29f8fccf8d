"""Train the sample models: `python -m sample_models.train [NAME ...]`.

Without names every trainable model is trained anew, which takes about a minute and a half on one
core. Seeded: on one machine and one version of torch the same weights come out every time. Writes
`weights/NAME.safetensors`, `weights/metadata.json` and the table in `README.md`.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sample_models import readme
from sample_models.catalog import METADATA_FILE, MODELS, WEIGHTS_FOLDER, Recipe, weights_file
from sample_models.digits import Digits, load_digits

RECIPES = {name: entry.recipe for name, entry in MODELS.items() if entry.recipe is not None}


def train(build: Callable[[], nn.Module], recipe: Recipe, data: Digits) -> nn.Module:
    """Train a model from scratch with AdamW and a one-cycle learning rate.

    Args:
        build: Makes the model, with random weights.
        recipe: How long and how fast to train, and the seed.
        data: Images (N, 1, 8, 8) and labels (N,).

    Returns:
        The trained model, in eval mode; the global random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build().train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        steps_per_epoch = -(-len(data.labels) // recipe.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            recipe.learning_rate,
            total_steps=recipe.epochs * steps_per_epoch + 1,
        )
        for _ in range(recipe.epochs):
            for chosen in torch.randperm(len(data.labels)).split(recipe.batch_size):
                logits = model(_shifted(data.images[chosen]))
                loss = F.cross_entropy(logits, data.labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def _shifted(images: Tensor) -> Tensor:
    """Images (N, 1, H, W), half of them moved by a pixel along each axis, zero where they left."""
    height, width = images.shape[-2:]
    top, left = torch.tensor([0, 1, 1, 2])[torch.randint(0, 4, (2, len(images), 1, 1))]
    rows = top + torch.arange(height)[:, None]
    columns = left + torch.arange(width)
    image = torch.arange(len(images))[:, None, None]
    return F.pad(images, (1, 1, 1, 1))[image, 0, rows, columns].unsqueeze(1)


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    """Share of images whose largest logit is the label's, in percent."""
    return 100 * (model(data.images).argmax(1) == data.labels).double().mean().item()


def train_and_save(names: Iterable[str], folder: Path = WEIGHTS_FOLDER) -> None:
    """Train the named models; write their weights, and what is known of them, into `folder`."""
    metadata_file = folder / METADATA_FILE.name
    metadata = json.loads(metadata_file.read_text()) if metadata_file.exists() else {}
    for name in names:
        model = train(MODELS[name].build, RECIPES[name], load_digits("train"))
        save_file(model.state_dict(), folder / weights_file(name).name)
        metadata[name] = {
            "accuracy": round(accuracy(model, load_digits("test")), 1),
            "recipe": asdict(RECIPES[name]),
            "torch": torch.__version__.partition("+")[0],
        }
        print(f"{name}: {metadata[name]['accuracy']} %")
    metadata_file.write_text(json.dumps(metadata, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Train the models named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    names = parser.parse_args().names or list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"cannot train {', '.join(unknown)}; choose from {', '.join(RECIPES)}")
    torch.set_num_threads(1)
    train_and_save(names)
    readme.main()


if __name__ == "__main__":
    main()
