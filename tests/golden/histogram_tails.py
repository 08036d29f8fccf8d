"""Long tails in many batches: large tensors on which a range that clips nothing does clearly worse.

With few values a step more of rounding costs less than one clipped outlier, and the reference's
observer clips next to nothing; with these many it does. Drawn from seeds, so not kept in a file.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SIZE, BATCHES = 24_576, 8
Draw = Callable[[np.random.Generator, int], np.ndarray]


def _with(values: np.ndarray, outlier: float) -> np.ndarray:
    values[0] = outlier
    return values


#: Values of the i-th batch.
DRAWS: dict[str, Draw] = {
    "laplace": lambda r, i: r.laplace(size=SIZE),
    "cubed normal": lambda r, i: r.normal(size=SIZE) ** 3,
    "student-3": lambda r, i: r.standard_t(3, SIZE),
    "student-4": lambda r, i: r.standard_t(4, SIZE),
    "student-5": lambda r, i: r.standard_t(5, SIZE),
    "skewed, log-normal": lambda r, i: r.lognormal(0, 1, SIZE),
    "skewed, gamma": lambda r, i: r.gamma(2, 1, SIZE) ** 1.5,
    "skewed to the left": lambda r, i: -r.weibull(0.6, SIZE),
    "skewed, two tails": lambda r, i: np.where(
        r.random(SIZE) < 0.7, r.exponential(1, SIZE), -r.exponential(0.2, SIZE)
    ),
    "relu of a tail": lambda r, i: np.maximum(r.standard_t(5, SIZE) - 0.5, 0),
    "a wider range in every batch": lambda r, i: r.standard_t(5, SIZE) * (1 + i / 4),
    "a narrower range in every batch": lambda r, i: r.standard_t(5, SIZE) * (3 - i / 4),
    "a larger outlier in every batch": lambda r, i: _with(r.normal(size=SIZE), 8.0 + 4 * i),
    "an outlier in the first batch": lambda r, i: _with(r.normal(size=SIZE), -25.0 * (i == 0)),
    "an outlier in the last batch": lambda r, i: _with(r.normal(size=SIZE), 25.0 * (i == 7)),
    "a sparse first batch": lambda r, i: (
        r.normal(0, 12, SIZE) * (r.random(SIZE) < 0.002) if i == 0 else r.normal(size=SIZE)
    ),
    "wide values, one in 10,000": lambda r, i: (
        r.normal(size=SIZE) * np.where(r.random(SIZE) < 1e-4, 15, 1)
    ),
}
#: What is asked of an observer, by names of data type and scheme and further arguments.
FORMS: dict[str, tuple[str, str, dict[str, int | bool]]] = {
    "4 bits": ("quint8", "per_tensor_affine", {"quant_min": 0, "quant_max": 15}),
    "8 bits": ("quint8", "per_tensor_affine", {}),
    "7 bits": ("quint8", "per_tensor_affine", {"reduce_range": True}),
    "8 bits, symmetric": ("qint8", "per_tensor_symmetric", {}),
}


def batches(name: str) -> list[Tensor]:
    """Eight batches of 24,576 values, each a float16 number kept as float32."""
    random = np.random.default_rng(1000 + list(DRAWS).index(name))
    drawn = [DRAWS[name](random, index).astype(np.float16) for index in range(BATCHES)]
    return [torch.from_numpy(batch).float() for batch in drawn]


def checksum(values: list[Tensor]) -> int:
    """Tells whether values are bit by bit those that the reference saw."""
    return zlib.crc32(torch.cat(values).half().numpy().tobytes())


def chosen(library: object, observer: object, form: str, data: list[Tensor]) -> list[float]:
    """Scale, zero point, smallest and largest code.

    Args:
        library: ``torch`` or ``qlab``.
        observer: A class of observers of that library.
        form: A name in `FORMS`.
        data: Batches, in order.
    """
    dtype, scheme, options = FORMS[form]
    asked = {"dtype": getattr(library, dtype), "qscheme": getattr(library, scheme)}
    made = observer(**asked, **options)  # pyright: ignore[reportCallIssue]
    for batch in data:
        made(batch)
    scale, zero_point = made.calculate_qparams()
    return [float(scale), float(zero_point), float(made.quant_min), float(made.quant_max)]
