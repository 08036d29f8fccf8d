"""The one table of sample models: what they are and teach, how they are built and trained."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from sample_models.digit_nets import Norms, conv_bn_relu, depthwise, mlp, residual
from sample_models.images import DigitImages, Images, NoiseImages
from sample_models.untrained import MobileNetV2, ResNet, build_untrained
from sample_models.vit import VisionTransformer

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
METADATA_FILE = WEIGHTS_FOLDER / "metadata.json"


def weights_file(name: str) -> Path:
    """Where the trained weights of model `name` are kept."""
    return WEIGHTS_FOLDER / f"{name}.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW, one-cycle learning rate with this peak, cross-entropy."""

    epochs: int = 60
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class Entry:
    """One sample model; without a recipe it is untrained."""

    title: str
    teaches: str
    build: Callable[[], nn.Module]
    images: Images
    recipe: Recipe | None = None


MODELS: dict[str, Entry] = {
    "mlp": Entry(
        title="Multilayer perceptron",
        teaches="Linear layers are the easy case: 8 bits cost next to nothing, so this is where "
        "to see how few bits will do.",
        build=mlp,
        images=DigitImages(),
        recipe=Recipe(epochs=120),
    ),
    "conv_bn_relu": Entry(
        title="Convolutional network",
        teaches="Convolution, batch norm and ReLU become one integer operation, so nothing is "
        "rounded between them.",
        build=conv_bn_relu,
        images=DigitImages(),
        recipe=Recipe(),
    ),
    "residual": Entry(
        title="Residual network",
        teaches="A skip addition brings together two tensors with scales of their own, and their "
        "sum needs a third.",
        build=residual,
        images=DigitImages(),
        recipe=Recipe(),
    ),
    "depthwise": Entry(
        title="Depthwise-separable network",
        teaches="Channels whose weights differ a hundredfold in range share one scale badly: "
        "per-tensor weights lose much accuracy at 8 bits, per-channel weights hardly any.",
        build=depthwise,
        images=DigitImages(),
        recipe=Recipe(epochs=120),
    ),
    "vit": Entry(
        title="Vision transformer",
        teaches="Attention multiplies two activations with each other, and softmax needs no "
        "calibration: its range is known to be 0 to 1.",
        build=VisionTransformer,
        images=DigitImages(),
        recipe=Recipe(epochs=120),
    ),
    "norms": Entry(
        title="Network of unfused norms",
        teaches="Layer, group and instance norm, and batch norm after an addition, fold into no "
        "convolution: each is a step with a scale of its own.",
        build=Norms,
        images=DigitImages(),
        recipe=Recipe(epochs=120),
    ),
    "resnet18": Entry(
        title="ResNet-18 (untrained)",
        teaches="How calibration time, size and integer speed come out on 11.7 million parameters "
        "at 224×224; its accuracy means nothing.",
        build=partial(build_untrained, ResNet),
        images=NoiseImages(),
    ),
    "mobilenet_v2": Entry(
        title="MobileNetV2 (untrained)",
        teaches="How integer speed comes out where depthwise convolutions take much of the time; "
        "its accuracy means nothing.",
        build=partial(build_untrained, MobileNetV2),
        images=NoiseImages(),
    ),
}
