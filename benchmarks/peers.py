"""The same float models, quantized by others: what `benchmarks.inference` compares with.

Only here does the repository use torch's deprecated quantization, to be measured against it. Every
function takes a float model and returns a callable of one input.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["onnx_runtime", "torch_ao", "torch_ao_dynamic", "version_of"]


def torch_ao(model: nn.Module, data: Sequence[Tensor]) -> nn.Module:
    """torch 2.13's own static quantization, with the mapping of its default engine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        engine = torch.backends.quantized.engine
        mapping = get_default_qconfig_mapping(engine)
        prepared = prepare_fx(copy.deepcopy(model), mapping, (data[0],))
        for batch in data:
            prepared(batch)
        return convert_fx(prepared)


def torch_ao_dynamic(model: nn.Module, *kinds: type[nn.Module]) -> nn.Module:
    """torch 2.13's own dynamic quantization of the given classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(copy.deepcopy(model), set(kinds), dtype=torch.qint8)


def onnx_runtime(model: nn.Module, data: Sequence[Tensor], threads: int) -> Callable[[Tensor], Any]:
    """ONNX Runtime's static quantization: QDQ, uint8 activations, int8 weights per channel."""
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(data)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {"x": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, shaped, small = (str(Path(folder, f"{n}.onnx")) for n in ("float", "shaped", "int8"))
        program = torch.onnx.export(
            model, (data[0],), input_names=["x"], output_names=["y"], dynamo=True, verbose=False
        )
        program.save(plain)
        quant_pre_process(plain, shaped)
        quantization.quantize_static(
            shaped,
            small,
            Batches(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Its threads otherwise spin for a while after a run and slow down whoever comes next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(small, options, ["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})
