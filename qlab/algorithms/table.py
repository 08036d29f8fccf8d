"""The table of repairs: each algorithm in one row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from qlab.algorithms.adaround import PAPER as NAGEL_2020
from qlab.algorithms.adaround import AdaRoundSettings, adaround, adaround_seconds
from qlab.algorithms.awq import PAPER as LIN_2023
from qlab.algorithms.awq import AWQSettings, awq, awq_seconds
from qlab.algorithms.base import Algorithm, RepairReport, Subject
from qlab.algorithms.bias import PAPER as NAGEL_2019
from qlab.algorithms.bias import BiasSettings, bias_seconds, correct_biases
from qlab.algorithms.equalize import EqualizeSettings, equalize, equalize_seconds
from qlab.algorithms.frame import layers_of
from qlab.algorithms.gptq import PAPER as FRANTAR_2022
from qlab.algorithms.gptq import GPTQSettings, gptq, gptq_seconds
from qlab.algorithms.keep_float import PAPER as NAGEL_2021
from qlab.algorithms.keep_float import KeepSettings, keep_in_float, keep_seconds
from qlab.algorithms.ranges import PAPER as CHOUKROUN_2019
from qlab.algorithms.ranges import RangeSettings, ranges_seconds, search_ranges
from qlab.algorithms.smoothquant import PAPER as XIAO_2022
from qlab.algorithms.smoothquant import SmoothSettings, smooth, smooth_seconds
from qlab.algorithms.splitting import PAPER as ZHAO_2019
from qlab.algorithms.splitting import SplitSettings, split_outliers, split_seconds
from qlab.errors import FormatError, UnknownNameError, UnsupportedError
from qlab.qconfig import QConfigMapping

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            name="equalize",
            title="Cross-layer equalization",
            about="lets channels of very different range share one scale of the weights",
            paper=NAGEL_2019,
            run=equalize,
            estimate=equalize_seconds,
            settings=EqualizeSettings,
        ),
        Algorithm(
            name="bias_correction",
            title="Bias correction",
            about="takes back the mean error that rounded weights put on each channel",
            paper=NAGEL_2019,
            run=correct_biases,
            estimate=bias_seconds,
            settings=BiasSettings,
        ),
        Algorithm(
            name="adaround",
            title="AdaRound",
            about="learns which way each weight is rounded, for weights of few bits",
            paper=NAGEL_2020,
            run=adaround,
            estimate=adaround_seconds,
            settings=AdaRoundSettings,
        ),
        Algorithm(
            name="gptq",
            title="GPTQ",
            about="rounds weight by weight so that the next make up for each error, in seconds",
            paper=FRANTAR_2022,
            run=gptq,
            estimate=gptq_seconds,
            settings=GPTQSettings,
        ),
        Algorithm(
            name="awq",
            title="AWQ",
            about="makes rounding finer where inputs are loud, and cuts ranges of weights",
            paper=LIN_2023,
            run=awq,
            estimate=awq_seconds,
            settings=AWQSettings,
        ),
        Algorithm(
            name="smoothquant",
            title="SmoothQuant",
            about="moves outliers of activations behind norms into the weights",
            paper=XIAO_2022,
            run=smooth,
            estimate=smooth_seconds,
            settings=SmoothSettings,
        ),
        Algorithm(
            name="split",
            title="Outlier-channel splitting",
            about="halves channels of large weights and has them twice, at a few more channels",
            paper=ZHAO_2019,
            run=split_outliers,
            estimate=split_seconds,
            settings=SplitSettings,
        ),
        Algorithm(
            name="ranges",
            title="Ranges by output error",
            about="moves clips of weights and activations to where layers' outputs keep closest",
            paper=CHOUKROUN_2019,
            run=search_ranges,
            estimate=ranges_seconds,
            settings=RangeSettings,
        ),
        Algorithm(
            name="keep_in_float",
            title="Sensitive layers in float",
            about="leaves the layers in float that cost the network most",
            paper=NAGEL_2021,
            run=keep_in_float,
            estimate=keep_seconds,
            settings=KeepSettings,
        ),
    )
}


def algorithm(name: str) -> Algorithm:
    """A row of the table.

    Raises:
        UnknownNameError: No such algorithm; lists those that exist.
    """
    if name not in ALGORITHMS:
        raise UnknownNameError.of("repair", name, ALGORITHMS)
    return ALGORITHMS[name]


@torch.inference_mode(False)
@torch.enable_grad()  # a step of training is timed
def estimate_seconds(
    name: str | Algorithm,
    subject: Subject,
    mapping: QConfigMapping,
    layers: Sequence[str] | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> float:
    """Seconds that a repair will take here, measuring not included; a rough guess.

    Args:
        name: Of the algorithm, or its row.
        subject: The model and its data.
        mapping: The configuration to repair it for.
        layers: The layers to repair; all that have a quantized weight if not given.
        chosen: Settings by name.

    Raises:
        UnknownNameError: No such algorithm or layer.
        ArgumentError: No such setting.
        UnsupportedError: The model has no graph; says why.
    """
    found = name if isinstance(name, Algorithm) else algorithm(name)
    subject.study.whole_graph(found.title)
    names = layers_of(subject, mapping, layers)
    return found.estimate(subject, mapping, names, found.settings_from(chosen or {}))


def checked_recipes(recipes: Any) -> list[dict[str, Any]]:
    """What `recipe_of` gave, several times over.

    Raises:
        FormatError: It is something else.
    """
    parts = {"name": str, "mapping": dict, "layers": list | tuple, "settings": dict}
    found = recipes if isinstance(recipes, list | tuple) else [recipes]
    for recipe in found:
        given = recipe if isinstance(recipe, dict) else {}
        if not all(isinstance(given.get(part), kind) for part, kind in parts.items()):
            raise FormatError(
                "Not the recipe of a repair",
                expected=f"a list of dicts of {', '.join(parts)}, as Lab.repair_recipes gives it",
                received=repr(recipe)[:100],
            )
    return list(found)


def recipe_of(report: RepairReport) -> dict[str, Any]:
    """What repeats a repair, JSON-ready: ``name``, ``mapping``, ``layers`` and ``settings``.

    Raises:
        UnsupportedError: Nothing does: it was training on data given then, or was run for a
            configuration that has no JSON form.
    """
    if report.algorithm not in ALGORITHMS or report.asked is None:
        raise UnsupportedError(
            "This repair cannot be repeated from its report",
            expected=f"one of {', '.join(ALGORITHMS)}, for a configuration that has a JSON form",
            received=report.title,
            fix="Export a .safetensors checkpoint, or save the Lab.",
        )
    return {
        "name": report.algorithm,
        "mapping": json.loads(report.asked),
        "layers": [str(name) for name in report.layers.index],
        "settings": report.settings,
    }
