"""What modules with a quantized weight share: how it is held, replaced, loaded and shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from qlab.dtypes import as_qdtype, qint8
from qlab.errors import ArgumentError, DTypeError, QlabError, ShapeError
from qlab.granularity import Granularity, PerAxis, PerTensor, granularities_of
from qlab.nn.quantized.base import QuantizedModule
from qlab.nn.quantized.format import CodeFormat
from qlab.nn.quantized.holder import WEIGHT
from qlab.ops import checks
from qlab.qparams import QParams, quantize
from qlab.qtensor import QTensor


class WeightModule(QuantizedModule):
    """Base of modules with a quantized weight, of any type and granularity.

    Buffers: ``weight_codes`` (the weight's storage type), ``weight_scale`` and
    ``weight_zero_point``.
    """

    has_weight = True

    def _start_weight(self, shape: tuple[int, ...], qparams: QParams) -> None:
        """A weight of zeros."""
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
            raise ArgumentError(
                f"{type(self).__name__}: sizes must be positive whole numbers",
                received=f"a weight of shape {shape}",
            )
        with checks.torch_refusal(type(self).__name__, f"a weight of shape {shape}"):
            codes = torch.zeros(shape, dtype=torch.float32).to(qparams.dtype.storage)
        self._store_weight(codes, qparams)

    def _store_weight(self, codes: torch.Tensor, qparams: QParams) -> None:
        self.register_buffer("weight_codes", codes)
        self.set_qparams(WEIGHT, qparams)

    def _take_weight(self, layer: nn.Module, qparams: QParams) -> None:
        weight: Any = layer.weight
        checks.finite(type(self).__name__, "weight", weight.detach())
        self._store_weight(quantize(weight.detach(), qparams.to(weight.device)), qparams)

    def _check_reference(self, mod: Any) -> None:
        """Raises `DTypeError` unless a module has a weight that reads like codes."""
        if not callable(getattr(mod, "get_quantized_weight", None)):
            raise DTypeError(
                f"{self._get_name()}.from_reference: not a reference module",
                expected="a module of qlab.nn.quantized.reference",
                received=type(mod).__name__,
            )

    def _take_reference_weight(self, mod: Any) -> None:
        self._check_reference(mod)
        self.set_weight(mod.get_quantized_weight())

    def _check_weight(self, weight: QTensor) -> None:
        """Raises unless a weight is quantized and has the shape of the present one."""
        if not isinstance(weight, QTensor):
            raise DTypeError(
                f"{self._get_name()}: the weight is not quantized",
                expected="a QTensor",
                received=type(weight).__name__,
                fix="Use qlab.quantize_per_channel or qlab.quantize_per_tensor.",
            )
        present = self.get_buffer("weight_codes")
        if weight.shape != present.shape:
            raise ShapeError(
                f"{self._get_name()}: the weight has the wrong shape",
                expected=f"shape {tuple(present.shape)}",
                received=f"shape {tuple(weight.shape)}",
            )

    def set_weight(self, w: QTensor) -> None:
        """Replaces the weight.

        Raises:
            DTypeError: It is not quantized.
            ShapeError: It has another shape than the present one.
        """
        self._check_weight(w)
        self._store_weight(w.codes, w.qparams)

    @property
    def quantized_weight(self) -> QTensor:
        """The quantized weight; it shares its codes with the module."""
        return QTensor(self.get_buffer("weight_codes"), self.weight_qparams)

    @property
    def weight_qparams(self) -> QParams:
        """Scale and zero point of the weight."""
        found = self.get_qparams(WEIGHT)
        assert found is not None
        return found

    def _shown_weight(self) -> list[str]:
        qparams = self.weight_qparams
        match qparams.granularity:
            case PerTensor():
                shown = ["qscheme=qlab.per_tensor_affine"]
            case PerAxis():
                shown = ["qscheme=qlab.per_channel_affine"]
            case other:
                shown = [f"weight_granularity={other}"]
        return shown if qparams.dtype == qint8 else [*shown, f"weight_dtype={qparams.dtype!r}"]

    def _blank(self, role: str, form: CodeFormat) -> QParams:
        if role != WEIGHT:
            return super()._blank(role, form)
        shape = self.get_buffer("weight_codes").shape
        self.register_buffer("weight_codes", torch.zeros(shape, dtype=form.dtype.storage))
        scales = form.granularity.scale_shape(shape)
        zero_point = max(form.quant_min, 0)
        return form.with_values(
            torch.ones(scales), torch.full(scales, zero_point, dtype=torch.int32)
        )

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Takes over the granularity and storage type of the weight that is loaded."""
        try:
            self._take_form(state_dict, prefix)
        except QlabError as error:
            args[-1].append(f"{prefix}weight_codes: {error}")  # what torch raises in the end
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _take_form(self, state_dict: Any, prefix: str) -> None:
        codes = state_dict.get(prefix + "weight_codes")
        scale = state_dict.get(prefix + "weight_scale")
        present = self.get_buffer("weight_codes")
        if codes is not None and scale is not None and codes.shape == present.shape:
            form = self._formats[WEIGHT]
            if codes.dtype != form.dtype.storage:
                dtype = as_qdtype(codes.dtype)
                form = CodeFormat(dtype, form.granularity, dtype.quant_min, dtype.quant_max)
            granularity = _granularity(form.granularity, tuple(codes.shape), tuple(scale.shape))
            form = CodeFormat(form.dtype, granularity, form.quant_min, form.quant_max)
            zero = state_dict.get(prefix + "weight_zero_point", scale.int())
            floating = zero.is_floating_point()
            held = self.get_buffer("weight_zero_point").is_floating_point()
            if (form, floating) != (self._formats[WEIGHT], held):
                with present.device:
                    blank = self._blank(WEIGHT, form)
                    zeros = blank.zero_point.to(torch.float32 if floating else torch.int32)
                    self.set_qparams(WEIGHT, replace(blank, zero_point=zeros))


def _granularity(
    present: Granularity, shape: tuple[int, ...], scales: tuple[int, ...]
) -> Granularity:
    """The granularity that gives ``scales`` for ``shape``, the present one if it does."""
    try:
        if present.scale_shape(shape) == scales:
            return present
    except ShapeError:
        pass
    return next(iter(granularities_of(shape, scales)), present)
