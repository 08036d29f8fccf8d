"""Peers that have the same repairs, on the same networks and images.

None is a dependency of qlab, and none is needed: what is not installed is not measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ABOUT_NNCF = (
    "NNCF 3.4.0's fast bias correction on the network with batch norm folded, one 8-bit scale per"
    " weight, with its limit on how far a bias may move and without; qlab is compared with the more"
    " accurate of the two. Timed is the way from the float network to the corrected quantized one,"
    " qlab's with measuring before and after; one tool after the other in one process, the least of"
    " three runs. SQNR against the float model on the 500 images. NNCF's channel alignment, its"
    " nearest to equalization, is not in its PyTorch backend, and in the other one takes only"
    " convolutions with nothing between them, which none of these networks has."
)
ABOUT_AIMET = (
    "AIMET 2.42.0. Equalization: both networks are quantized by qlab in the same way; AIMET's does"
    " not pass ReLU6, which the depthwise network has everywhere, so that row is no contest."
    " AdaRound: 1,000 steps per layer, one scale per channel, its own range of least error,"
    " activations in float; three seeds, of which accuracy and SQNR are means (from, to). Times are"
    " of one process, one tool after the other, the least of three runs: AIMET's of its call with"
    " all that it prepares, qlab's of the repair on a Lab that has calibrated, without measuring"
    " before and after. SQNR against the float model on the 500 images. It has no bias correction"
    " any more."
)


def has_nncf() -> bool:
    """Whether NNCF can be imported."""
    return importlib.util.find_spec("nncf") is not None


def has_aimet() -> bool:
    """Whether AIMET can be imported."""
    return importlib.util.find_spec("aimet_torch") is not None


def nncf_one_scale(
    model: nn.Module, images: Tensor, correct: bool, limit: float | None = None
) -> Any:
    """NNCF's quantized model: 8 bits, one scale per weight, with or without bias correction.

    Args:
        model: In float.
        images: To calibrate with.
        correct: Whether biases are corrected.
        limit: How far a bias may move, relative to it; NNCF's own limit if None.
    """
    nncf: Any = importlib.import_module("nncf")
    advanced: Any = importlib.import_module("nncf.quantization.advanced_parameters")
    limits = {} if limit is None else {"threshold": limit}
    return nncf.quantize(
        model,
        nncf.Dataset(list(images.split(1))),
        subset_size=len(images),
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            disable_bias_correction=not correct,
            disable_channel_alignment=True,
            bias_correction_params=advanced.AdvancedBiasCorrectionParameters(**limits),
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


def aimet_equalize(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
    """Folds batch norm and equalizes neighbours, in place, with its absorption of high biases."""
    _stand_in_for_torchvision()
    module: Any = importlib.import_module("aimet_torch.cross_layer_equalization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it does not pass ReLU6
        module.equalize_model(model, dummy_input=example_inputs)
    model.eval()


def first_imports() -> None:
    """Imports what is there, so that no time is that of an import."""
    if has_aimet():
        _stand_in_for_torchvision()
        importlib.import_module("aimet_torch.adaround.adaround_weight")
        importlib.import_module("aimet_torch.cross_layer_equalization")
    if has_nncf():
        importlib.import_module("nncf.quantization.advanced_parameters")


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
