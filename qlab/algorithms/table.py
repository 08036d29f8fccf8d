"""The table of repairs: each algorithm in one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qlab.algorithms.adaround import PAPER as NAGEL_2020
from qlab.algorithms.adaround import AdaRoundSettings, adaround, adaround_seconds
from qlab.algorithms.base import Algorithm, Subject
from qlab.algorithms.bias import PAPER as NAGEL_2019
from qlab.algorithms.bias import BiasSettings, bias_seconds, correct_biases
from qlab.algorithms.equalize import EqualizeSettings, equalize, equalize_seconds
from qlab.algorithms.frame import layers_of
from qlab.errors import UnknownNameError
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


def estimate_seconds(
    name: str,
    subject: Subject,
    mapping: QConfigMapping,
    layers: Sequence[str] | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> float:
    """Seconds that a repair will take here, measuring not included; within about a factor of 2.

    Args:
        name: Of the algorithm.
        subject: The model and its data.
        mapping: The configuration to repair it for.
        layers: The layers to repair; all that have a quantized weight if not given.
        chosen: Settings by name.

    Raises:
        UnknownNameError: No such algorithm or layer.
        ArgumentError: No such setting.
        UnsupportedError: The model has no graph; says why.
    """
    found = algorithm(name)
    subject.study.whole_graph(found.title)
    names = layers_of(subject, mapping, layers)
    return found.estimate(subject, mapping, names, found.settings_from(chosen or {}))
