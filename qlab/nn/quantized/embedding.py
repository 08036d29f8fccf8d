"""Quantized tables of vectors: integers in, real numbers out."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from qlab import ops
from qlab.dtypes import QDType, as_qdtype, quint8
from qlab.errors import DTypeError, UnsupportedError
from qlab.granularity import PerAxis
from qlab.nn.quantized.base import Output
from qlab.nn.quantized.holder import constant_in_traces
from qlab.nn.quantized.packed_params import EmbeddingPackedParams
from qlab.nn.quantized.weight import WeightModule
from qlab.ops import checks, traced
from qlab.ops.checks import choice
from qlab.ops.embeddings import MODES
from qlab.qparams import QParams
from qlab.qtensor import QTensor

_NO_PADDING = {"padding_idx": None}


class Embedding(WeightModule):
    """Rows of a quantized table; see `qlab.ops.embedding` for the exact formula.

    A new module has a table of zeros, with one scale and float zero point per row; `from_float`,
    `from_qparams`, `set_weight` or ``load_state_dict`` give it its numbers.

    Args:
        num_embeddings: Number of rows.
        embedding_dim: Number of columns.
        padding_idx: Kept for the reference's sake; nothing is trained here.
        max_norm: None, the only one there is.
        norm_type: Kept for the reference's sake.
        scale_grad_by_freq: Kept for the reference's sake.
        sparse: Kept for the reference's sake.
        _weight: A quantized table.
        dtype: Quantized data type of the table: `quint8`, `quint4x2` or any other.

    Raises:
        UnsupportedError: ``max_norm`` is given.
    """

    float_types = (nn.Embedding,)
    fields = (
        "num_embeddings",
        "embedding_dim",
        "padding_idx",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "sparse",
    )
    output_of = Output.FLOAT
    takes_real_numbers = True  # its indices are plain tensors, bound as None
    num_embeddings: int
    embedding_dim: int

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: QTensor | None = None,
        dtype: QDType | str | torch.dtype = quint8,
    ) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self._set_table((num_embeddings, embedding_dim), _weight, dtype)
        self._set_options(max_norm, norm_type, scale_grad_by_freq, sparse)

    def _set_table(
        self, shape: tuple[int, int], weight: QTensor | None, dtype: QDType | str | torch.dtype
    ) -> None:
        checks.whole_numbers(self._get_name(), "shape of the table", shape, 2, minimum=1)
        self.num_embeddings, self.embedding_dim = shape
        rows = PerAxis(0).scale_shape(shape)
        qparams = QParams(torch.ones(rows), torch.zeros(rows), as_qdtype(dtype), PerAxis(0))
        self._start_weight(shape, qparams)
        if weight is not None:
            self.set_weight(weight)

    def _set_options(
        self, max_norm: float | None, norm_type: float, scale_grad_by_freq: bool, sparse: bool
    ) -> None:
        if max_norm is not None:
            raise _unsupported(type(self).__name__, "max_norm=None", f"max_norm={max_norm}")
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Self:
        """The integer module of a float module with a weight-only qconfig, as in the reference.

        Args:
            mod: A float module with ``qconfig``, whose weight observer finds one scale per row:
                ``float_qparams_weight_only_qconfig`` or its 4-bit form.
            use_precomputed_fake_quant: Use ``weight_fake_quant`` as it stands.

        Raises:
            DTypeError: Another class of module.
            UncalibratedError: It has no qconfig.
            UnsupportedError: The weight observer does not find one scale per row.
        """
        made = super().from_float(mod, use_precomputed_fake_quant)
        if made.weight_qparams.granularity != PerAxis(0):
            raise UnsupportedError(
                f"{cls.__name__}: every row of a table needs a scale of its own",
                expected="a weight observer with one scale per index of axis 0",
                received=made.weight_qparams.granularity,
                fix="Set the module's qconfig to float_qparams_weight_only_qconfig.",
            )
        return made

    @property
    def dtype(self) -> QDType:
        """Quantized data type of the table."""
        return self.weight_qparams.dtype

    @property
    def _packed_params(self) -> EmbeddingPackedParams:
        """The weight as code written for the reference asks for it."""
        return EmbeddingPackedParams(self)

    def weight(self) -> QTensor:
        """The quantized table, (rows, columns); it shares its codes with the module."""
        return self.quantized_weight

    def forward(self, indices: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """int32 or int64 of any shape → float32 (*shape, columns).

        Raises:
            DTypeError: Not integers, or quantized.
            ArgumentError: An index outside the table.
        """
        return ops.embedding(self._plain(indices), *self._table())

    def _plain(self, indices: Tensor) -> Tensor:
        if isinstance(indices, QTensor):
            raise DTypeError(
                f"{self._get_name()}: expected indices",
                expected="a tensor of torch.int64 or torch.int32",
                received="a QTensor",
                fix="Give the indices as they are, without Quantize (or QuantStub).",
            )
        return indices

    def _table(self) -> tuple[Tensor, QParams]:
        if is_compiling():
            self.know()
        return self.get_buffer("weight_codes"), self.weight_qparams

    @property
    def execution_reason(self) -> str:
        """Why it is simulated: there is no arithmetic but the scaling of rows."""
        return "the rows it looks up become real numbers"

    def extra_repr(self) -> str:
        sizes = f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"
        scheme = "_float_qparams" if self.weight_qparams.float_zero_point else ""
        return f"{sizes}, dtype={self.dtype!r}, {self._shown_weight()[0]}{scheme}"


class EmbeddingBag(Embedding):
    """Sums or means of rows of a quantized table; see `qlab.ops.embedding_bag`.

    Args:
        num_embeddings: Number of rows.
        embedding_dim: Number of columns.
        max_norm: None, the only one there is.
        norm_type: Kept for the reference's sake.
        scale_grad_by_freq: Kept for the reference's sake.
        mode: ``"sum"`` or ``"mean"``; the reference takes both and always sums.
        sparse: Kept for the reference's sake.
        _weight: A quantized table.
        include_last_offset: Whether ``offsets`` ends with the number of indices.
        dtype: Quantized data type of the table: `quint8`, `quint4x2` or any other.

    Raises:
        UnsupportedError: ``max_norm`` is given, or another mode.
    """

    float_types = (nn.EmbeddingBag,)
    fields = (
        "num_embeddings",
        "embedding_dim",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "mode",
        "sparse",
        "include_last_offset",
    )
    required = _NO_PADDING

    @classmethod
    def _accept(cls, mod: nn.Module) -> nn.Module:
        super()._accept(mod)
        cls._check_mode(str(mod.mode))
        return mod

    @classmethod
    def _check_mode(cls, mode: str) -> None:
        if mode == "max":
            raise _unsupported(cls.__name__, "mode 'sum' or 'mean'", "mode 'max'")
        choice(cls.__name__, "mode", mode, MODES)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "sum",
        sparse: bool = False,
        _weight: QTensor | None = None,
        include_last_offset: bool = False,
        dtype: QDType | str | torch.dtype = quint8,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, _weight=_weight, dtype=dtype)
        self._set_options(max_norm, norm_type, scale_grad_by_freq, sparse)
        self._check_mode(mode)
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        indices: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        compressed_indices_mapping: Tensor | None = None,
    ) -> Tensor:
        """Indices, and where their bags begin → float32 (bags, columns).

        Args:
            indices: int32 or int64; (bags, length), or flat with ``offsets``.
            offsets: int32 or int64 (bags,).
            per_sample_weights: float32 of the shape of ``indices``; sums only.
            compressed_indices_mapping: None: tables are not pruned.

        Raises:
            QlabError: As `qlab.ops.embedding_bag`.
            UnsupportedError: ``compressed_indices_mapping`` is given.
        """
        if compressed_indices_mapping is not None:
            expected = "compressed_indices_mapping=None"
            raise _unsupported(type(self).__name__, expected, "the map of a pruned table")
        given, samples = self._plain(indices), (offsets, per_sample_weights)
        weight, w_qparams = self._table()
        if is_compiling():
            numbers = w_qparams.scale, w_qparams.zero_point
            return traced.embedding_bag(self._cache["call"], given, weight, *numbers, *samples)
        return ops.embedding_bag(given, weight, w_qparams, *samples, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"mode": self.mode, "include_last_offset": self.include_last_offset}

    @constant_in_traces
    def know(self) -> bool:
        """As every module; and the call in words, without which none is traced."""
        super().know()
        qparams = None, self.weight_qparams, None
        self._cache["call"] = traced.described("embedding_bag", *qparams, self._options())
        return True


def _unsupported(owner: str, expected: str, received: str) -> UnsupportedError:
    return UnsupportedError(
        f"{owner} has no integer form with these arguments", expected=expected, received=received
    )
