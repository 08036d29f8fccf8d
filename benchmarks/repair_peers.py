"""Peers that have the same repairs, on the same networks and images.

None is a dependency of qlab, and none is needed: what is not installed is not measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sample_models.digits import load_digits

ABOUT = (
    "Beside peers, in the same process: NNCF 3.4.0 (its fast bias correction, without its limit on"
    " how far a bias may move) on the network with batch norm folded, one scale per weight; AIMET"
    " 2.42.0 (AdaRound, one scale per channel, its own range of least error) with activations in"
    " float, 1,000 steps per layer, mean over three seeds (from, to) and the least time. Accuracy"
    " on 500 test images, of which one is 0.2 %; SQNR against the float model. AIMET's equalization"
    " replaces ReLU6, which this network does not survive; it is not measured."
)

ABOUT_MORE = (
    "The depthwise network with 4-bit weights, activations in float, three seeds each: mean (from,"
    " to). On the 500 test images 0.6 points are 3 images. No tool saw the others either: training"
    " images that are not for calibration, and the test images moved by up to a pixel along each"
    " axis."
)


def has_nncf() -> bool:
    """Whether NNCF can be imported."""
    return importlib.util.find_spec("nncf") is not None


def has_aimet() -> bool:
    """Whether AIMET can be imported."""
    return importlib.util.find_spec("aimet_torch") is not None


def image_sets(calibration: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Digits that no repair saw: what they are, images and labels."""
    test, train = load_digits("test"), load_digits("train")
    seen = {image.numpy().tobytes() for image in calibration}
    new = torch.tensor([image.numpy().tobytes() not in seen for image in train.images])
    padded = nn.functional.pad(test.images, (1, 1, 1, 1))
    moved = [padded[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    return [
        ("test", *test),
        ("training, not calibration", train.images[new], train.labels[new]),
        ("test, moved by up to a pixel", torch.cat(moved), test.labels.repeat(9)),
    ]


def nncf_one_scale(model: nn.Module, images: Tensor, correct: bool) -> Any:
    """NNCF's quantized model: 8 bits, one scale per weight, with or without bias correction."""
    nncf: Any = importlib.import_module("nncf")
    advanced: Any = importlib.import_module("nncf.quantization.advanced_parameters")
    return nncf.quantize(
        model,
        nncf.Dataset(list(images.split(1))),
        subset_size=len(images),
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            disable_bias_correction=not correct,
            disable_channel_alignment=True,
            bias_correction_params=advanced.AdvancedBiasCorrectionParameters(threshold=1e9),
            weights_quantization_params=advanced.QuantizationParameters(per_channel=False),
        ),
    )


def aimet_adaround(model: nn.Module, images: Tensor, steps: int, seed: int) -> Any:
    """AIMET's float model with its weights rounded to 4 bits, one scale per output channel."""
    _stand_in_for_torchvision()
    folding: Any = importlib.import_module("aimet_torch.batch_norm_fold")
    module: Any = importlib.import_module("aimet_torch.adaround.adaround_weight")
    folding.fold_all_batch_norms(model, tuple(images[:1].shape))
    params = module.AdaroundParameters(
        images.split(32), num_batches=len(images) // 32, default_num_iterations=steps
    )
    defaults = {
        "ops": {"is_output_quantized": "True"},
        "params": {"is_quantized": "True", "is_symmetric": "True"},
        "per_channel_quantization": "True",
    }
    config = {
        "defaults": defaults,
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": {},
        "supergroups": [],
        "model_input": {},
        "model_output": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        torch.manual_seed(seed)
        return module.Adaround.apply_adaround(
            model, images[:1], params, folder, "rounded", default_config_file=str(path)
        )


def _stand_in_for_torchvision() -> None:
    """Names the operators that a torchvision built for another torch lacks; none is called."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        names = "nms qnms roi_align qroi_align ps_roi_align roi_pool ps_roi_pool deform_conv2d"
        backward = [
            f"_{n}_backward" for n in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
        ]
        _stand_in_for_torchvision.library = torch.library.Library("torchvision", "DEF")  # type: ignore
        for name in (*names.split(), *backward, "_deform_conv2d_backward"):
            _stand_in_for_torchvision.library.define(f"{name}(Tensor a) -> Tensor")  # type: ignore
