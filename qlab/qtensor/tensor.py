"""`QTensor`: integer codes and their quantization parameters, handled as one tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from qlab.dtypes import QDType, as_qdtype
from qlab.errors import DTypeError, OperandError, QlabError, UnsupportedError
from qlab.granularity import (
    PerAxis,
    PerTensor,
    QScheme,
    granularity_from_dict,
    granularity_to_dict,
    per_channel_affine,
    per_channel_affine_float_qparams,
    per_tensor_affine,
)
from qlab.qparams import QParams
from qlab.qparams import dequantize as dequantize_codes
from qlab.qtensor.answers import Answers

Kernel = Callable[[OpOverload, tuple[Any, ...], dict[str, Any]], Any]
"""Answers one operator on quantized tensors: (operator, arguments, keyword arguments)."""

KERNELS: dict[OpOverloadPacket, Kernel] = {}
"""What `QTensor` can do, operator by operator; written down in `qlab.qtensor.kernels`."""

_INSTEAD = (
    "Call .dequantize() first, or use the quantized module or function for it "
    "(qlab.nn.quantized, qlab.ops)."
)


_REFUSALS = (RuntimeError, IndexError, ValueError, TypeError, OverflowError)
"""What PyTorch raises for arguments that do not fit; subclasses of these say something else."""


class _NoKernelError(Exception):
    """An operator outside the table, on its way up to where its public name is known."""


class QTensor(Answers):
    """A quantized tensor: ``x ≈ (codes - zero_point) * scale``.

    Every operator goes through one table (`qlab.qtensor.kernels`). An operator outside the table
    raises `UnsupportedError`: nothing falls back to numbers of another meaning. There is no
    gradient. To torch's own C++ code it is a float32 tensor without storage, so ``dtype`` and its
    kin are answered in Python (`qlab.qtensor.answers`).

    Args:
        codes: Integers (or float8 values) of dtype ``qparams.dtype.storage``, any shape. Shared,
            not copied.
        qparams: Scale and zero point that fit the shape of ``codes``.

    Raises:
        DTypeError: ``codes`` is stored in another type than ``qparams.dtype`` says.
        ShapeError: Scales and ``codes`` do not fit.

    Example:
        >>> import torch, qlab
        >>> q = qlab.quantize_per_tensor(torch.tensor([-1.0, 0.5]), 0.5, 2, qlab.quint8)
        >>> q.int_repr()
        tensor([0, 3], dtype=torch.uint8)
        >>> q
        QTensor([-1.0000,  0.5000], dtype=qlab.quint8, scale=0.5, zero_point=2)
    """

    @staticmethod
    def __new__(cls, codes: Tensor, qparams: QParams) -> QTensor:
        if codes.dtype != qparams.dtype.storage:
            raise DTypeError(
                f"QTensor: the codes are not stored as {qparams.dtype.name}",
                expected=f"{qparams.dtype.storage}",
                received=f"{codes.dtype}",
            )
        qparams.granularity.check_values(qparams.scale, codes.shape, "scale")
        return Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            codes.size(),
            strides=codes.stride(),
            storage_offset=codes.storage_offset(),
            dtype=torch.float32,
            device=codes.device,
        )

    def __init__(self, codes: Tensor, qparams: QParams) -> None:
        self.codes = codes
        self.qparams = qparams

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.is_floating_point:
            return args[0].is_floating_point()
        with torch._C.DisableTorchFunctionSubclass():
            try:
                return func(*args, **(kwargs or {}))
            except _NoKernelError as missing:
                raise _unsupported(func, missing) from None
            except _REFUSALS as error:
                if type(error) not in _REFUSALS:
                    raise
                first = next((x for x in args if isinstance(x, QTensor)), None)
                raise _refused(func, error, first) from error

    @classmethod
    def __torch_dispatch__(
        cls,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kernel = KERNELS.get(func.overloadpacket)
        if kernel is None:
            raise _NoKernelError(str(func.overloadpacket))
        return kernel(func, args, kwargs or {})

    def set_(self, *source: Any) -> QTensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raises `UnsupportedError`: codes and parameters change together, by ``data``."""
        raise UnsupportedError(
            "set_ is not supported on quantized tensors",
            fix="Assign q.data = other, or copy with q.copy_(other).",
        )

    @property
    def is_quantized(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True, as for the reference's quantized tensors."""
        return True

    @property
    def qdtype(self) -> QDType:
        """The quantized data type, as ``dtype``, and never that of a plain tensor."""
        return self.qparams.dtype

    def int_repr(self) -> Tensor:
        """A copy of the codes: integers of dtype ``qdtype.storage``, the shape of the tensor."""
        return self.codes.clone()

    def dequantize(self) -> Tensor:
        """The real numbers ``(codes - zero_point) * scale``: float32, the shape of the tensor."""
        return dequantize_codes(self.codes, self.qparams)

    def qscheme(self) -> QScheme:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``per_tensor_affine``, ``per_channel_affine`` or ``per_channel_affine_float_qparams``.

        Raises:
            UnsupportedError: One scale per group has no scheme in the reference.
        """
        match self.qparams.granularity:
            case PerTensor():
                return per_tensor_affine
            case PerAxis() if self.qparams.float_zero_point:
                return per_channel_affine_float_qparams
            case PerAxis():
                return per_channel_affine
        raise UnsupportedError(
            "qscheme() has no name for this granularity",
            received=self.qparams.granularity,
            fix="Read .qparams.granularity.",
        )

    def q_scale(self) -> float:
        """The scale, real units per code, of a per-tensor quantized tensor."""
        return self._per_tensor("q_scale").scale_value

    def q_zero_point(self) -> int:
        """The code that stands for 0.0, of a per-tensor quantized tensor."""
        return self._per_tensor("q_zero_point").zero_point_value

    def q_per_channel_scales(self) -> Tensor:
        """Scales, float64 ``(channels,)``, of a per-channel quantized tensor."""
        return self._per_channel("q_per_channel_scales")[0].scale.to(torch.float64)

    def q_per_channel_zero_points(self) -> Tensor:
        """Zero points ``(channels,)`` of a per-channel quantized tensor: int64, or float32."""
        qparams, _ = self._per_channel("q_per_channel_zero_points")
        return qparams.zero_point.to(torch.float32 if qparams.float_zero_point else torch.int64)

    def q_per_channel_axis(self) -> int:
        """The axis of the channels, counted from the front, of a per-channel quantized tensor."""
        return self._per_channel("q_per_channel_axis")[1]

    def _per_tensor(self, caller: str) -> QParams:
        if not self.qparams.per_tensor_granularity:
            raise UnsupportedError(
                f"{caller}() asks for the one scale of a per-tensor quantized tensor",
                received=self.qparams.granularity,
                fix="Use q_per_channel_scales(), q_per_channel_zero_points() or .qparams.",
            )
        return self.qparams

    def _per_channel(self, caller: str) -> tuple[QParams, int]:
        granularity = self.qparams.granularity
        if not isinstance(granularity, PerAxis):
            raise UnsupportedError(
                f"{caller}() asks for the scales of a per-channel quantized tensor",
                received=granularity,
                fix="Use q_scale(), q_zero_point() or .qparams.",
            )
        return self.qparams, granularity.axis % max(self.dim(), 1)

    @property
    def data(self) -> QTensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The tensor itself; assigning replaces shape, codes and parameters together."""
        return self.detach()  # pyright: ignore[reportReturnType]

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, QTensor):
            raise DTypeError(
                "The data of a quantized tensor is a quantized tensor",
                expected="a QTensor",
                received=f"a {type(value).__name__}",
            )
        Tensor.data.__set__(self, value)  # pyright: ignore[reportAttributeAccessIssue]
        self.codes, self.qparams = value.codes, value.qparams

    def numpy(self, *, force: bool = False) -> Any:
        """Raises `UnsupportedError`: codes and real numbers are both arrays; say which."""
        raise UnsupportedError(
            "A quantized tensor is no single array",
            received=repr(self.qdtype),
            fix="Call .int_repr().numpy() for the codes, .dequantize().numpy() for real numbers.",
        )

    def tolist(self) -> Any:
        """The real numbers as nested lists."""
        return self.dequantize().tolist()

    def requires_grad_(self, mode: bool = True) -> QTensor:
        """Accepts False only.

        Raises:
            UnsupportedError: Gradients do not flow through codes.
        """
        if mode:
            raise UnsupportedError(
                "A quantized tensor has no gradient",
                fix="Train the float tensor through qlab.quantization.FakeQuantize instead.",
            )
        return self

    def __repr__(self, *, tensor_contents: object = None) -> str:
        if self.is_meta:
            shape = tuple(self.shape)
            return f"QTensor(..., device='meta', size={shape}, dtype={self.qdtype!r})"
        values = repr(self.dequantize()).removeprefix("tensor(").removesuffix(")")
        values = re.sub(r"\n(?=.)", "\n ", values)
        qparams = self.qparams
        if qparams.per_tensor_granularity:
            scale, zero_point = f"{qparams.scale_value:.7g}", f"{qparams.zero_point.item()}"
            granularity = ""
        else:
            scale, zero_point = str(qparams.scale.tolist()), str(qparams.zero_point.tolist())
            granularity = f", granularity={qparams.granularity}"
        return (
            f"QTensor({values}, dtype={self.qdtype!r}, scale={scale}, "
            f"zero_point={zero_point}{granularity})"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> QTensor:
        if id(self) not in memo:
            scale, zero_point = self.qparams.scale.clone(), self.qparams.zero_point.clone()
            qparams = replace(self.qparams, scale=scale, zero_point=zero_point)
            memo[id(self)] = QTensor(self.codes.clone(), qparams)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        qparams = self.qparams
        state = (
            self.codes,
            qparams.scale,
            qparams.zero_point,
            qparams.dtype.name,
            granularity_to_dict(qparams.granularity),
            qparams.quant_min,
            qparams.quant_max,
        )
        return rebuild_qtensor, state


def rebuild_qtensor(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    dtype: str,
    granularity: dict[str, int | str],
    *quant_range: int,
) -> QTensor:
    """Makes a `QTensor` from what `pickle` and ``torch.save`` wrote: tensors, names and numbers."""
    qparams = QParams(
        scale, zero_point, as_qdtype(dtype), granularity_from_dict(granularity), *quant_range
    )
    return QTensor(codes, qparams)


# torch.load(weights_only=True) builds objects through functions on this list only.
torch.serialization.add_safe_globals([rebuild_qtensor])


def _unsupported(func: Callable[..., Any], missing: _NoKernelError) -> UnsupportedError:
    problem = f"{_public_name(func)} is not supported on quantized tensors"
    return UnsupportedError(problem, received=f"the operator {missing}", fix=_INSTEAD)


def _refused(func: Callable[..., Any], error: Exception, q: QTensor | None) -> QlabError:
    shape = "a list of tensors" if q is None else f"a quantized tensor of shape {tuple(q.shape)}"
    said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
    kind = DTypeError if isinstance(error, TypeError) else OperandError
    return kind(
        f"{_public_name(func)}: PyTorch refuses these arguments",
        expected="what a float tensor of that shape takes",
        received=f"{shape}; {said}",
    )


def _public_name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func))
    owner = getattr(func, "__self__", None)
    # Attribute access reaches __torch_function__ as the `__get__` of a descriptor.
    return getattr(owner, "__name__", name) if name in ("__get__", "__set__") else name
